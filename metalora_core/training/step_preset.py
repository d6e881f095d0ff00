"""The step preset: how long and how fast to train for each number of photos, as the benchmark chose it.

Light enough for a node: this module reads one small file and imports nothing of the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InvalidOptions, UnreadableFile
from ..files.prior import Prior
from .adaptation_options import AdaptationOptions

__all__ = ["PRESET_FILE", "WITHOUT_PRIOR", "step_preset", "without_prior"]

PRESET_FILE = Path(__file__).parent / "step_preset.json"
WITHOUT_PRIOR = "without_prior"
"""Entry of the preset file for adaptations without a prior."""

# From the literature, not measured here: plain LoRA's steps on FLUX.1-dev in arXiv 2503.22352.
_USUAL_STEPS = 625


def without_prior(
    base_fingerprint: str, base: AdaptationOptions | None = None, path: Path = PRESET_FILE
) -> AdaptationOptions:
    """Settings without a prior: those chosen on this base model, or for any other plain LoRA's steps and a rate that
    finds itself.

    Args:
        base_fingerprint: Of the layers that are trained.
        base: Every setting that is not given here; the defaults if None.
        path: The preset file.

    Raises:
        UnreadableFile: If the preset file is damaged.
    """
    base, record = base or AdaptationOptions(), _read(path)
    with _naming(path):
        if record.get("base_fingerprint") == base_fingerprint and WITHOUT_PRIOR in record:
            return _chosen(base, record, record[WITHOUT_PRIOR])
    return replace(base, steps=_USUAL_STEPS, learning_rate="auto")


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
    base, record = base or AdaptationOptions(), _read(path)
    with _naming(path):
        warm = all(layer.mid_init is not None for layer in prior.layers.values())
        if not record or not warm or record["base_fingerprint"] != prior.metadata.base_fingerprint:
            return base
        table = {int(count): entry for count, entry in record["photos"].items()}
        return _chosen(base, record, table[max((count for count in table if count <= photos), default=min(table))])


def _read(path: Path) -> Mapping[str, Any]:
    with _naming(path):
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _chosen(base: AdaptationOptions, record: Mapping[str, Any], entry: Mapping[str, Any]) -> AdaptationOptions:
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
    return chosen


@contextmanager
def _naming(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidOptions) as error:
        raise UnreadableFile(
            f"{path} is not a step preset ({error!r}). Make it again with: python -m metalora_core bench preset"
        ) from error
