"""Raw results: one row per run, step and subject, in a CSV file that only ever grows."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UnreadableFile

__all__ = ["Row", "append_rows", "read_rows"]


@dataclass(frozen=True, order=True)
class Row:
    """One subject after some steps of one run.

    Args:
        method: See `methods`.
        domain: Of the subject.
        photos: Reference photos.
        condition: See `conditions`; "clean" for the benchmark proper.
        steps: Training steps.
        subject: Its seed.
        identity_error: Above the scorer's own error.
        prompt_error: Above the scorer's own error.
        copying: Share of the reference's scene that came back.
        diversity: Spread of the pictures over that of true photos.
        seconds: Training time, this subject's share.
        identity_floor: The scorer's own error on true photos.
        prompt_floor: Likewise.
        reference: Words of the first photo: turn|tilt|light|background|expression.
        domain_distance: Percentile of the first photo among those the prior was trained on; -1 if unknown.
        photo_prompt_error: Prompt error of the first photo, as if it came back for every prompt.
        copy_angle: -1 as the true photos of what was asked, 1 as the first photo.
        drift: How far pictures of others are from the untouched base model's, root mean square of colours.
    """

    method: str
    domain: str
    photos: int
    condition: str
    steps: int
    subject: int
    identity_error: float
    prompt_error: float
    copying: float
    diversity: float
    seconds: float
    identity_floor: float
    prompt_floor: float
    reference: str
    domain_distance: float
    photo_prompt_error: float
    copy_angle: float
    drift: float

    def cells(self) -> dict[str, str]:
        """As text; floats with six digits, so that a row that was read equals the row that was written."""
        return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in self.fields()}

    def fields(self) -> Iterable[tuple[str, Any]]:
        """Name and value of every column."""
        return asdict(self).items()


_COLUMNS = [field.name for field in fields(Row)]
_KINDS = {"int": int, "float": float, "str": str}


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows and put them safely on disk; a block of rows is written by one call, so it is there whole or cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(row.cells() for row in rows)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file; a last line that was cut off by a crash is left out, and cut from the file.

    Raises:
        UnreadableFile: If the file has other columns or a damaged line.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8", newline="")
    lines = whole.splitlines()
    if not lines:
        return []
    reader = csv.DictReader(lines)
    if list(reader.fieldnames or ()) != _COLUMNS:
        raise UnreadableFile(
            f"{path} has the columns {', '.join(reader.fieldnames or ())}; expected {', '.join(_COLUMNS)}. It was "
            "written by another release. Delete it, or give another folder."
        )
    try:
        return [_row(cells) for cells in reader]
    except (TypeError, ValueError) as error:
        raise UnreadableFile(f"{path} has a damaged line ({error}). Delete the file to start over.") from error


def _row(cells: dict[str, str]) -> Row:
    values: dict[str, Any] = {f.name: _KINDS[str(f.type)](cells[f.name]) for f in fields(Row)}
    return Row(**values)
