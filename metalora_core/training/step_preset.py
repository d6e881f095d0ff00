"""The step preset: how long and how fast to train for each number of photos, as the benchmark chose it.

Light enough for a node: this module reads one small file and imports nothing of the benchmark.
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
    """Settings for a number of photos: those chosen for the largest number that is not larger.

    It applies to the base model that it was chosen on and to priors with a warm start; others keep ``base``.

    Args:
        prior: What will be adapted from.
        photos: Reference photos that are learned from.
        base: Every setting that the preset does not give; the defaults if None.
        path: The preset file, written by ``python -m metalora_core bench preset``.

    Returns:
        ``base`` with the preset's steps, rates, rank, schedule and mirroring, or ``base`` unchanged if it does not
        apply.

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
            f"{path} is not a step preset ({error!r}). Make it again with: python -m metalora_core bench preset"
        ) from error
    return chosen
