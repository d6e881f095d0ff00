"""``subject``: all that is kept of a person or product, copied out or erased."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..provenance.permission import Permissions
    from ..provenance.subject_files import Kept

subject_app = typer.Typer(help="Copy out or erase all that is kept of a subject.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The subject's name, as in its consent records.")]
Photos = Annotated[
    list[Path],
    typer.Option(
        help="Folder in which to look for the subject's photos, such as ComfyUI's input; may be repeated.",
        exists=True,
        file_okay=False,
    ),
]


@subject_app.command()
def export(
    name: Name,
    folder: options.IdentityFolder,
    output: Annotated[Path, typer.Option(help="New folder for the copies.")],
    photos: Photos = [],  # noqa: B006  (typer reads it and never changes it)
    json: options.Json = False,
) -> None:
    """Copy everything that is kept of a subject into a folder: to answer a request for access."""
    from ..provenance.subject_files import export_subject
    from .terminal import answer

    known, kept = _kept(name, folder, photos)
    count = export_subject(known, kept, output)
    lines = [f"{count} files and {len(kept.entries)} entries of the audit log are in {output}."]
    lines += [f"Not copied, as it is no longer where it was written: {place}" for place in kept.elsewhere]
    answer({"path": str(output), "files": count, "elsewhere": kept.elsewhere}, "\n".join(lines), json)


@subject_app.command()
def erase(
    name: Name,
    folder: options.IdentityFolder,
    photos: Photos = [],  # noqa: B006
    yes: Annotated[bool, typer.Option("--yes", help="Erase; without it the files are only listed.")] = False,
    json: options.Json = False,
) -> None:
    """Revoke a subject's records and delete everything that is kept of it. The audit log keeps hashes and verifies."""
    from ..provenance.subject_files import erase_subject
    from .terminal import answer

    known, kept = _kept(name, folder, photos)
    lines = [f"{file.kind}  {file.path}" for file in kept.files]
    if not yes:
        answer({"files": lines}, "\n".join([*lines, "Nothing was erased. Add --yes to erase these files."]), json)
        return
    done = erase_subject(known, kept, datetime.now(timezone.utc))
    told = [f"{len(done.files)} files erased."]
    told += [f"Was moved or given away, delete it there: {place}" for place in done.elsewhere]
    told += [f"Learned from this subject among others, and stays: {prior}" for prior in done.priors]
    if done.entries_left:
        told.append(f"{done.entries_left} entries of the audit log, which another key or no key signed, still name it.")
    fields = {"files": lines, "elsewhere": done.elsewhere, "priors": done.priors, "entries_left": done.entries_left}
    answer(fields, "\n".join(told), json)


def _kept(name: str, folder: Path, photos: list[Path]) -> tuple[Permissions, Kept]:
    from ..photos.photo_search import find_photos
    from ..provenance.subject_files import find_kept
    from .permission import permissions_near

    known = permissions_near(folder / "consents")
    kept = find_kept(known, name)
    return known, kept.with_photos(find_photos(photos, kept.photo_hashes))
