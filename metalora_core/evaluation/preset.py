"""The step preset: how long and how fast to train for each number of photos, read off validation subjects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..adaptation_options import AdaptationOptions
from ..errors import UnreadableFile
from .curves import curves_of
from .methods import META_WARM
from .plan import BenchPlan, Group
from .rows import Row
from .scores import LEAST_ERROR

__all__ = ["PRESET_FILE", "preset_plan", "save_preset", "step_preset"]

PRESET_FILE = Path(__file__).parent / "step_preset.json"
_STEPS = (5, 10, 15, 20, 30, 50, 75, 100)
_PHOTOS = (1, 2, 4, 8)
_ENOUGH = 1.03
"""A point counts as good when its error is within 3 % of the lowest: the fewest such steps are chosen."""


def preset_plan(rates: Mapping[str, float], subjects: int = 16) -> BenchPlan:
    """The runs on validation subjects that the preset is read from."""
    return BenchPlan((Group((META_WARM,), _PHOTOS, _STEPS),), subjects=subjects, split="validation", rates=rates)


def save_preset(plan: BenchPlan, rows: Sequence[Row], command: str, path: Path = PRESET_FILE) -> dict[str, Any]:
    """Choose steps for every number of photos and write them with the table that is their reason."""
    curves = curves_of(rows)
    chosen: dict[str, Any] = {}
    for photos in _PHOTOS:
        own = [curves[key] for key in curves if key[0] == META_WARM and key[2] == photos]
        errors = np.exp(np.mean([np.log(_combined(c.scores)) for c in own], axis=0))
        steps = next(s for s, e in zip(own[0].steps, errors, strict=True) if e <= _ENOUGH * errors.min())
        chosen[str(photos)] = {
            "steps": steps,
            "learning_rate": plan.rate_of(META_WARM, photos),
            "combined_error_by_steps": {str(s): round(float(e), 5) for s, e in zip(own[0].steps, errors, strict=True)},
            "subjects": sum(len(curve.subjects) for curve in own),
        }
    record = {"command": command, "start": "warm", "final_rate": 1.0, "photos": chosen}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _combined(scores: Mapping[str, Any]) -> Any:
    identity, prompt = (scores[n].mean(axis=1).clip(min=LEAST_ERROR) for n in ("identity_error", "prompt_error"))
    return np.sqrt(identity * prompt)


def step_preset(photos: int, path: Path = PRESET_FILE) -> AdaptationOptions:
    """Settings for a number of photos: those that were chosen for the most photos that are not more than these.

    Raises:
        UnreadableFile: If the preset file is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        table = {int(count): entry for count, entry in record["photos"].items()}
        entry = table[max(count for count in table if count <= max(photos, 1))]
        rate = float(entry["learning_rate"])
        return AdaptationOptions(
            steps=int(entry["steps"]), mid_learning_rate=rate, up_learning_rate=rate, final_rate=record["final_rate"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(f"{path} is no step preset ({error!r}). Make it anew: bench preset.") from error
