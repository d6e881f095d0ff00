"""``prior push`` and ``prior pull``: priors on the Hugging Face Hub."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from . import options

Repo = Annotated[str, typer.Argument(help='Repository on the Hub, "owner/name".')]


def push(
    prior: Annotated[Path, typer.Argument(help="Prior file.")],
    repo: Repo,
    base_model: Annotated[
        str, typer.Option(help='The base model\'s own repository, such as "black-forest-labs/FLUX.1-dev".')
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Only you see it, if it is new.")] = False,
    json: options.Json = False,
) -> None:
    """Upload a prior and its model card to the Hugging Face Hub. Log in first: hf auth login."""
    from ..files.atomic import file_sha256
    from ..files.hub import push_prior
    from ..provenance.consent import Purpose
    from .permission import noted, permissions_near
    from .terminal import answer

    known, sha256 = permissions_near(prior), file_sha256(prior) if prior.is_file() else ""
    known.require_intact_log()
    known.ask_prior(sha256, datetime.now(timezone.utc), Purpose.SHARING)
    where = push_prior(prior, repo, base_model=base_model, private=private)
    noted(known, "prior shared", file=str(prior.absolute()), prior=sha256, to=repo)
    answer({"repo": repo, "commit": where}, f"Uploaded to {where}", json)


def pull(
    repo: Repo,
    to: Annotated[Path, typer.Option(help="Folder, such as ComfyUI's models/metalora.")],
    file: Annotated[str, typer.Option(help="File in the repository, if it holds several.")] = "",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit; empty for the newest.")] = "",
    json: options.Json = False,
) -> None:
    """Download a prior from the Hugging Face Hub, check it, and put it into a folder."""
    from ..errors import UnreadableFile
    from ..files.hub import pull_prior
    from ..files.inspection import describe_file
    from .terminal import answer

    if not to.is_dir():
        raise UnreadableFile(f"There is no folder {to}. Check the path.")
    pulled = pull_prior(repo, to, file=file, revision=revision)
    fields = {"file": str(pulled.path), "sha256": pulled.prior.sha256, "revision": pulled.revision}
    answer(fields, f"{pulled.path}\n{describe_file(pulled.path).text()}", json)
