"""Steps of a run that can be used instead of its last: an identity file for each, hidden beside the result."""

from __future__ import annotations

from glob import escape
from pathlib import Path

KEPT_STEP = ".*.step.safetensors"
"""Names of the files, see `kept_step_beside`."""


def kept_step_beside(path: Path, step: int) -> Path:
    """Where a run keeps what it had learned by a step: hidden, under a name that the sweep knows."""
    return path.with_name(KEPT_STEP.replace("*", f"{path.stem}.{step}"))


def kept_steps(path: Path) -> dict[int, Path]:
    """The steps that are kept beside a result, in order, each with its file."""
    before, after = KEPT_STEP.replace("*", f"{path.stem}.*").rsplit("*", 1)
    found = {file: file.name[len(before) : -len(after)] for file in path.parent.glob(f"{escape(before)}*{after}")}
    return dict(sorted((int(step), file) for file, step in found.items() if step.isdecimal()))
