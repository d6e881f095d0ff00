"""Steps of a run that can be used instead of its last: kept while it trains, shown on the page, chosen by a widget."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...metalora_core.errors import InvalidOptions
from ...metalora_core.files.atomic import UnwritableFile, require_writable
from ...metalora_core.files.identity import Identity
from ...metalora_core.files.kept_steps import kept_step_beside, kept_steps
from ...metalora_core.files.metadata import thumbnail_of
from ...metalora_core.photos.pictures import thumbnail_jpeg
from ...metalora_core.training.adaptation_options import KEPT_STEPS
from ...metalora_core.training.progress import AdaptationProgress
from .progress import show_sample

_LOG = logging.getLogger(__name__)
_ROOM = 6  # times a step's own size: the checkpoint and the result come first on a disk that fills up


def keep_step(
    path: Path, progress: AdaptationProgress, identity: Identity, save: Callable[[Path, Identity, bytes], object]
) -> None:
    """Keep what was learned by a step with its picture, and show it; a full disk loses it, not the run.

    Args:
        path: Of the run's result.
        progress: Of the step.
        identity: As it is after this step.
        save: Writes an identity with a JPEG in its header.
    """
    file = kept_step_beside(path, progress.step)
    try:
        require_writable(file, _ROOM * 4 * identity.numbers)
        save(file, identity, b"" if progress.preview is None else thumbnail_jpeg(progress.preview))
    except UnwritableFile as error:
        _LOG.warning("%s The training continues without keeping step %d.", error, progress.step)
        return
    # A run that was cancelled and continued with other samples may have kept others before.
    for surplus in [*kept_steps(path).values()][:-KEPT_STEPS]:
        surplus.unlink(missing_ok=True)
    show_sample(_sample(progress.step, file), progress.steps)


def samples(path: Path) -> list[dict[str, Any]]:
    """Step and picture of what is kept beside a result, as the page shows it; a picture that failed is empty."""
    return [_sample(step, file) for step, file in kept_steps(path).items()]


def _sample(step: int, file: Path) -> dict[str, Any]:
    return {"step": step, "picture": thumbnail_of(file)}


def require_kept(step: int, kept: Iterable[int], remedy: str) -> None:
    """Refuse a step that is not among those that a run keeps.

    Raises:
        InvalidOptions: If so; the message says which steps are.
    """
    if step not in (known := sorted({*kept})):
        raise InvalidOptions(
            f"use_step is {step}, but the steps kept of this run are {', '.join(map(str, known))}. Choose one of them, "
            f"or 0 for the last; {remedy}."
        )
