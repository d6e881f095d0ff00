"""Priors on the Hugging Face Hub: a repository with the file and its model card. Only at the user's word."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..checks import optional, plain_line
from ..errors import InvalidOptions, UnreadableFile
from .atomic import UnwritableFile
from .bounded import ReadLimits
from .names import checked_name
from .prior import Prior, load_prior
from .prior_card import prior_card

__all__ = ["PulledPrior", "pull_prior", "push_prior"]

_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class PulledPrior:
    """A prior that came from the Hub.

    Args:
        path: Where it is now.
        prior: What it holds, checked.
        revision: Commit that it was taken from.
    """

    path: Path
    prior: Prior
    revision: str


def push_prior(path: Path, repo: str, *, base_model: str = "", private: bool = False) -> str:
    """Upload a prior and its card, in one commit; the repository is made if it is not there.

    Args:
        path: The prior's file.
        repo: "owner/name".
        base_model: The base model's own repository, for the card, such as "black-forest-labs/FLUX.1-dev".
        private: Of a new repository: only its owner sees it.

    Returns:
        Address of the commit.

    Raises:
        UnreadableFile: If the file is not a prior.
        InvalidOptions: If the prior has no licence, or the name is not "owner/name".
        UnwritableFile: If the Hub refuses; the text says why.
        MissingDependency: If huggingface_hub is not installed.
    """
    hub, prior = _hub(), load_prior(path)
    if not prior.metadata.license:
        raise InvalidOptions(f"{path.name} names no licence, so nobody may use it. Make it again with --license.")
    card = prior_card(prior, path.name, repo, base_model)
    with _explained(repo, UnwritableFile):
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        files = {"README.md": card.encode(), path.name: str(path)}
        made = api.create_commit(
            repo,
            [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()],
            commit_message=f"Add {path.name}",
        )
    return str(made.commit_url)


def pull_prior(repo: str, folder: Path, *, file: str = "", revision: str = "") -> PulledPrior:
    """Download a prior, check it, and only then put it into a folder, under the repository's name.

    Args:
        repo: "owner/name".
        folder: Such as ComfyUI's models/metalora.
        file: Name in the repository; empty where it holds a single safetensors file.
        revision: Branch, tag or commit; empty for the newest.

    Raises:
        UnreadableFile: If the repository, or a prior in it, is not there, or the file is too large.
        InvalidOptions: If the folder has another file of that name, or it is unclear which file is meant.
        MissingDependency: If huggingface_hub is not installed.
    """
    hub = _hub()
    with _explained(repo, UnreadableFile):
        found = hub.HfApi().model_info(repo, revision=revision or None, files_metadata=True)
        sizes = {one.rfilename: one.size for one in found.siblings if one.rfilename.endswith(_SUFFIX)}
    name = _chosen(repo, file, list(sizes))
    most = ReadLimits().file_bytes
    if sizes[name] is None or sizes[name] > most:
        raise UnreadableFile(f"{name} in {repo} has {sizes[name] or 'an unknown number of'} bytes; at most {most:,}.")
    target = folder / checked_name(repo.partition("/")[2], _SUFFIX)
    with TemporaryDirectory(prefix=".metalora-", suffix=".tmp", dir=folder) as drafts:
        with _explained(repo, UnreadableFile):
            draft = Path(hub.hf_hub_download(repo, name, revision=found.sha, local_dir=drafts))
        prior = load_prior(draft)
        if target.exists() and load_prior(target).sha256 != prior.sha256:
            raise InvalidOptions(f"{target} is another prior. Move it away, or choose another folder.")
        shutil.move(draft, target)
    return PulledPrior(target, prior, str(found.sha))


def _hub() -> Any:
    return optional("huggingface_hub", "The Hugging Face Hub")


def _chosen(repo: str, file: str, there: list[str]) -> str:
    shown = ", ".join(plain_line(name, 100) for name in there[:10]) or "none"
    if file and file not in there:
        raise UnreadableFile(f"{repo} has no file {plain_line(file, 100)!r}. Its safetensors files: {shown}.")
    if not file and len(there) != 1:
        raise InvalidOptions(f"{repo} has {len(there)} safetensors files: {shown}. Name one with --file.")
    return file or there[0]


@contextmanager
def _explained(repo: str, kind: type[UnreadableFile] | type[UnwritableFile]) -> Generator[None]:
    """Errors of the Hub and the network in this library's words."""
    try:
        yield
    except Exception as error:  # huggingface_hub lets errors of its HTTP library through, and which one that is changes
        said = plain_line(str(error).strip().partition("\n")[0], 300)
        raise kind(
            f"The Hugging Face Hub did not do this for {plain_line(repo, 100)!r}: {said or type(error).__name__}. "
            "Check the name and the network; for uploads and closed repositories log in first: hf auth login."
        ) from error
