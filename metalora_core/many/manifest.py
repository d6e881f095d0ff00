"""The manifest of a run over many subjects: a line for each, whether it was learned or why not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ..checks import table_cell
from ..files.atomic import atomic_write

__all__ = ["NO_PARQUET_NOTE", "ManifestRow", "read_manifest", "write_manifest"]

NO_PARQUET_NOTE = "manifest.parquet is not written: pyarrow is missing (pip install pyarrow). manifest.csv has it all."


@dataclass(frozen=True)
class ManifestRow:
    """A subject of the run.

    Args:
        subject: Name of its folder.
        state: "learned" in this run, "known" from an earlier one with the same photos and settings, or "failed".
        file: The identity file, beside the manifest; empty if it failed.
        class_word: What it is.
        trigger: The word that calls it.
        photos: How many were learned from.
        steps: Taken.
        final_loss: Mean of the last ten losses.
        seconds: Of the training; side by side, an equal share of the group's.
        side_by_side: Subjects in the same pass.
        warnings: What could be better about the photos, and what had to be changed on the way.
        failure: Why it failed.
        settings: As JSON.
        run: Hash of everything that decides the result: photos, captions, settings, prior and base model.
    """

    subject: str
    state: Literal["learned", "known", "failed"]
    file: str = ""
    class_word: str = ""
    trigger: str = ""
    photos: int = 0
    steps: int = 0
    final_loss: float = 0.0
    seconds: float = 0.0
    side_by_side: int = 0
    warnings: str = ""
    failure: str = ""
    settings: str = ""
    run: str = ""


def write_manifest(folder: Path, rows: Iterable[ManifestRow], *, parquet: bool = False) -> str:
    """Write manifest.csv, whole or not at all.

    Args:
        folder: Where.
        rows: One for each subject.
        parquet: Write manifest.parquet too.

    Returns:
        What could not be written and why, in one line; empty for nothing.

    Raises:
        UnwritableFile: If the folder is not writable or full.
    """
    lines, text = [asdict(row) for row in rows], io.StringIO(newline="")
    writer = csv.DictWriter(text, [one.name for one in fields(ManifestRow)])
    writer.writeheader()
    writer.writerows({k: table_cell(v) if isinstance(v, str) else v for k, v in line.items()} for line in lines)
    # With a byte order mark, so that a spreadsheet reads the names of subjects in any script.
    atomic_write(folder / "manifest.csv", [text.getvalue().encode("utf-8-sig", "replace")])
    if not parquet:
        return ""
    if find_spec("pyarrow") is None:
        return NO_PARQUET_NOTE
    _write_parquet(folder / "manifest.parquet", lines)
    return ""


def _write_parquet(path: Path, lines: list[dict[str, Any]]) -> None:
    from importlib import import_module

    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    data = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(lines), data)
    atomic_write(path, [data.getvalue()])


def read_manifest(folder: Path) -> dict[str, ManifestRow]:
    """The rows of an earlier run by subject; none if they cannot be read."""
    from pydantic import TypeAdapter

    try:
        text = (folder / "manifest.csv").read_text(encoding="utf-8-sig")
        lines = [{k: _without_mark(v) for k, v in line.items()} for line in csv.DictReader(io.StringIO(text))]
        rows = [TypeAdapter(ManifestRow).validate_python(line) for line in lines]
    except (OSError, ValueError, csv.Error):
        return {}
    return {row.subject: row for row in rows}


def _without_mark(cell: Any) -> Any:
    """Undo `table_cell`."""
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and table_cell(cell[1:]) == cell else cell
