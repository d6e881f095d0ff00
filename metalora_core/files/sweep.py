"""Clearing out what killed writers and trainings that never ended left behind."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from .kept_steps import KEPT_STEP
from .trash import TRASHED

_LOG = logging.getLogger(__name__)
UNFINISHED = ".*.unfinished.safetensors"
"""Names of the checkpoints of runs that have not ended, see `unfinished_beside`."""
_LEFT_BEHIND = (".metalora-*.tmp", UNFINISHED, f"{UNFINISHED}.rows-*", KEPT_STEP, TRASHED, "*.safetensors*.damaged")
IN_USE_HOURS = 1
"""Whatever was touched since is taken to be in use: a run that is alive writes its checkpoint more often than that."""


@dataclass(frozen=True)
class LeftBehind:
    """Something that nobody will come back for.

    Args:
        path: A temporary file or folder, the checkpoint of an unfinished run, a damaged one that was moved aside, a
            step that was kept and not chosen, or a deleted identity.
        size_bytes: What it takes on the disk.
        age_days: Since it was last touched.
    """

    path: Path
    size_bytes: int
    age_days: float


def unfinished_beside(path: Path) -> Path:
    """Where a run keeps its checkpoint until this file is written: hidden, under a name that the sweep knows."""
    return path.with_name(UNFINISHED.replace("*", path.stem))


def find_left_behind(folders: Iterable[Path], days: float, keep: Sequence[Path] = ()) -> list[LeftBehind]:
    """What is older than so many days, and not in use, in these folders and below.

    Args:
        folders: Where to look; links are not followed.
        days: Least age.
        keep: Files to leave alone whatever their age, such as the checkpoint that a run is about to resume.
    """
    kept = {path.absolute() for path in keep}
    least_days, now = max(days, IN_USE_HOURS / 24), time.time()
    found: list[LeftBehind] = []
    for folder in folders:
        for where, below, names in os.walk(folder):
            matching = [name for name in (*below, *names) if any(fnmatch(name, wanted) for wanted in _LEFT_BEHIND)]
            below[:] = [name for name in below if name not in matching]
            # The rows of a bank belong to the checkpoint that they are beside.
            owners = {name: Path(where, name.partition(".rows-")[0]).absolute() for name in matching}
            for path in (Path(where, name) for name in matching if owners[name] not in kept):
                try:
                    states = [one.lstat() for one in (path, *(path.rglob("*") if path.is_dir() else ()))]
                except OSError:  # gone meanwhile
                    continue
                age_days = (now - max(state.st_mtime for state in states)) / 86400
                if age_days >= least_days:
                    found.append(LeftBehind(path, sum(state.st_size for state in states), age_days))
    return found


def sweep(folders: Iterable[Path], days: float, keep: Sequence[Path] = ()) -> list[LeftBehind]:
    """Delete what `find_left_behind` finds, and say so in the log; returns what is gone.

    What cannot be deleted, because a program holds it open or the folder is read-only, stays.
    """
    gone: list[LeftBehind] = []
    for found in find_left_behind(folders, days, keep):
        try:
            if found.path.is_dir() and not found.path.is_symlink():
                shutil.rmtree(found.path)
            else:
                found.path.unlink()
        except OSError:
            continue
        gone.append(found)
    if gone:
        size_mb = sum(one.size_bytes for one in gone) / 1e6
        _LOG.info(
            "Deleted %d temporary files, unfinished runs, unused steps and deleted identities (%.1f MB), %g days old.",
            len(gone),
            size_mb,
            days,
        )
    return gone
