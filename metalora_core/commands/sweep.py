"""``sweep``: delete what unfinished trainings and killed writers left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def sweep(
    folders: Annotated[list[Path], typer.Argument(help="Folders such as ComfyUI's models/metalora_identities.")],
    days: Annotated[float, typer.Option(help="Least age; whatever was touched in the last hour stays.", min=0)] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List, delete nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Delete unfinished trainings, deleted identities, temporary files and damaged checkpoints in folders and below."""
    from ..errors import UnreadableFile
    from ..files.sweep import find_left_behind
    from ..files.sweep import sweep as delete
    from .terminal import answer

    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UnreadableFile(f"There is no folder {missing[0]}. Check the path.")
    found = find_left_behind(folders, days) if dry_run else delete(folders, days)
    lines = [f"{one.path}  {one.size_bytes:,} bytes, {one.age_days:.1f} days" for one in found]
    total = sum(one.size_bytes for one in found)
    done = f"{len(found)} {'found' if dry_run else 'deleted'}, {total:,} bytes"
    fields = {"files": [str(one.path) for one in found], "bytes": total, "deleted": not dry_run}
    answer(fields, "\n".join([*lines, done]), json)
