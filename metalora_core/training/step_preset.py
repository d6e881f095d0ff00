"""The step preset: how long and how fast to learn from each number of photos, as the benchmark chose it.

Light enough for a node: this module reads one small file and draws in nothing of the benchmark.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..errors import InvalidOptions, UnreadableFile
from ..files.prior import Prior
from .adaptation_options import AdaptationOptions

__all__ = ["PRESET_FILE", "step_preset"]

PRESET_FILE = Path(__file__).parent / "step_preset.json"


def step_preset(
    prior: Prior, photos: int, base: AdaptationOptions | None = None, path: Path = PRESET_FILE
) -> AdaptationOptions:
    """Settings for a number of photos: those that were chosen for the most photos that are not more than these.

    It holds for the base model that it was chosen on and for priors with a warm start; others keep ``base``.

    Args:
        prior: What will be adapted from.
        photos: Reference photos that are learned from.
        base: Holds every setting that the preset says nothing about; the defaults if None.
        path: The preset file, written by ``python -m metalora_core bench preset``.

    Returns:
        ``base`` with the preset's steps, rates, rank, schedule and mirroring, or ``base`` as it is where it says
        nothing.

    Raises:
        UnreadableFile: If the preset file is damaged.
    """
    base = base or AdaptationOptions()
    if not path.exists():
        return base
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        warm = all(layer.mid_init is not None for layer in prior.layers.values())
        if not warm or record["base_fingerprint"] != prior.metadata.base_fingerprint:
            return base
        table = {int(count): entry for count, entry in record["photos"].items()}
        entry = table[max((count for count in table if count <= photos), default=min(table))]
        chosen = replace(
            base,
            steps=int(entry["steps"]),
            mid_learning_rate=float(entry["learning_rate"]),
            up_learning_rate=float(entry["learning_rate"]),
            r_mid=int(entry["r_mid"]),
            final_rate=float(record["final_rate"]),
            flip=bool(record.get("flip", False)),
        )
        chosen.check()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidOptions) as error:
        raise UnreadableFile(
            f"{path} is no step preset ({error!r}). Make it anew with: python -m metalora_core bench preset"
        ) from error
    return chosen
