"""The step preset: how long and how fast to train for each number of photos, chosen on validation subjects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..training.step_preset import PRESET_FILE, WITHOUT_PRIOR
from .curves import Curve, Numbers, curves_of
from .methods.registry import META_WARM
from .plan import BenchPlan, Group
from .rows import Row
from .subjects.scores import as_good, combined_error

__all__ = ["preset_plan", "save_preset"]

_STEPS = (5, 10, 15, 20, 30, 50, 75, 100, 150)
_PHOTOS = (1, 2, 4, 8)


def preset_plan(rates: Mapping[str, float], subjects: int = 16) -> BenchPlan:
    """The runs on validation subjects that the preset is read from.

    A node cannot know its domain in advance, so the rates are the best for all domains together.
    """
    pooled = {key: rate for key, rate in rates.items() if key.count("@") == 1}
    group = Group((META_WARM,), _PHOTOS, _STEPS)
    return BenchPlan((group,), subjects=subjects, split="validation", prompts=4, rates=pooled)


def save_preset(
    plan: BenchPlan, rows: Sequence[Row], command: str, base_fingerprint: str, path: Path = PRESET_FILE
) -> dict[str, Any]:
    """Choose steps for every number of photos and write them with the table that is their reason.

    Args:
        plan: From `preset_plan`.
        rows: Of its runs.
        command: That made them.
        base_fingerprint: Of the base model that they hold for.
        path: File to write.
    """
    curves = curves_of(rows)
    chosen: dict[str, Any] = {}
    for photos in _PHOTOS:
        own = [curves[key] for key in curves if key[0] == META_WARM and key[2] == photos]
        errors = np.exp(np.mean([np.log(_combined(c)) for c in own], axis=0))
        steps = next(s for s, e in zip(own[0].steps, errors, strict=True) if as_good(e, errors.min()))
        chosen[str(photos)] = {
            "steps": steps,
            "learning_rate": plan.rate_of(META_WARM, photos),
            "r_mid": 0,  # the prior's own: its learned start has no other
            "combined_error_by_steps": {str(s): round(float(e), 5) for s, e in zip(own[0].steps, errors, strict=True)},
            "subjects": sum(len(curve.subjects) for curve in own),
        }
    record = {
        "command": command,
        "base_fingerprint": base_fingerprint,
        "start": "warm",
        "final_rate": 1.0,
        "flip": plan.mirrored,
        "photos": chosen,
    }
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        record |= {WITHOUT_PRIOR: earlier[WITHOUT_PRIOR]} if WITHOUT_PRIOR in earlier else {}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _combined(curve: Curve) -> Numbers:
    return combined_error(*(curve.scores[name].mean(axis=1) for name in ("identity_error", "prompt_error")))
