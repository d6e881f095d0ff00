"""The benchmark's main table: Meta-LoRA against plain LoRA, steps and rates chosen before on other subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..curves import Numbers, curves_of
from ..front import Path
from ..methods.registry import AUTO_RATE, META_COLD, META_OUTSIDE, META_RANDOM, META_WARM, PLAIN
from ..rows import Row
from . import hindsight
from .ratios import Line, Ratio, ratio_of

__all__ = ["BAR", "Ratio", "summarise"]

_LEAST = 0.01
"""Shares of a score, angles and hypervolumes count at least this much in a ratio."""

_LEAST_DRIFT = 1e-3


def _combined_ratio(first: Path, second: Path) -> Numbers:
    return first.at(first.means.combined) / second.at(second.means.combined)


def _hypervolume_ratio(first: Path, second: Path) -> Numbers:
    return first.hypervolume.clip(min=_LEAST) / second.hypervolume.clip(min=_LEAST)


def _identity_at_equal_prompt(first: Path, second: Path) -> Numbers:
    level = second.at(second.adherence)
    left, right = (1 - path.identity_at(level) for path in (first, second))
    return left.clip(min=_LEAST) / right.clip(min=_LEAST)


def _steps_ratio(first: Path, second: Path) -> Numbers:
    identity, adherence = (second.at(values)[:, None] for values in (second.identity, second.adherence))
    reached = (first.identity >= identity) & (first.adherence >= adherence)
    return hindsight.steps_ratio(first, reached, second.means.steps[second.chosen].astype(float))


def _copy_angle_ratio(first: Path, second: Path) -> Numbers:
    left, right = (1 + path.at(path.means.scores["copy_angle"]) for path in (first, second))
    return left.clip(min=_LEAST) / right.clip(min=_LEAST)


def _drift_ratio(first: Path, second: Path) -> Numbers:
    left, right = (path.at(path.means.scores["drift"]).clip(min=_LEAST_DRIFT) for path in (first, second))
    return left / right


_WARM_1, _PLAIN_1, _WARM_4, _PLAIN_4 = (META_WARM, 1), (PLAIN, 1), (META_WARM, 4), (PLAIN, 4)

BAR: Mapping[str, Line] = {
    "meta_down_vs_random": Line(
        _combined_ratio, (META_COLD, 1), (META_RANDOM, 1), 0.85, False,
        "combined error, cold start, the prior's meta-down to a random one, 1 photo",
    ),
    "hypervolume_gain_1": Line(
        _hypervolume_ratio, _WARM_1, _PLAIN_1, 0.35, True, "gain in hypervolume over plain LoRA, 1 photo", gain=True
    ),
    "hypervolume_gain_4": Line(_hypervolume_ratio, _WARM_4, _PLAIN_4, 0.0, True, "the same, 4 photos", gain=True),
    "identity_at_equal_prompt_1": Line(
        _identity_at_equal_prompt, _WARM_1, _PLAIN_1, 0.6, False,
        "identity missing at plain LoRA's chosen prompt adherence, 1 photo",
    ),
    "identity_at_equal_prompt_4": Line(
        _identity_at_equal_prompt, _WARM_4, _PLAIN_4, 0.8, False, "the same, 4 photos"
    ),
    "steps_ratio_1": Line(
        _steps_ratio, _WARM_1, _PLAIN_1, 5.0, True,
        "how many times fewer steps to plain LoRA's chosen identity at no worse prompt adherence, 1 photo",
    ),
    "copy_angle_ratio_1": Line(
        _copy_angle_ratio, _WARM_1, _PLAIN_1, 0.5, False, "how far from the truth towards the photo (angle), 1 photo"
    ),
    "drift_ratio_1": Line(
        _drift_ratio, _WARM_1, _PLAIN_1, 0.5, False, "change of pictures that do not ask for the subject, 1 photo"
    ),
    "meta1_vs_lora4": Line(
        _combined_ratio, _WARM_1, _PLAIN_4, 1.0, False, "combined error, Meta-LoRA 1 photo to plain LoRA 4"
    ),
    "out_of_domain": Line(
        _combined_ratio, (META_OUTSIDE, 1), _PLAIN_1, 1.1, False, "combined error outside the prior's domain, 1 photo"
    ),
    "auto_rate_vs_tuned": Line(
        _hypervolume_ratio, (AUTO_RATE, 1), (META_RANDOM, 1), 0.95, True,
        "hypervolume without a prior, the rate found on the photo to the tuned one, 1 photo",
    ),
}  # fmt: skip
"""Name of each ratio to what it compares."""


def summarise(rows: Sequence[Row], seed: int = 0, steps: Mapping[str, int] = MappingProxyType({})) -> dict[str, Ratio]:
    """Every ratio that the rows can answer, those of earlier releases after the others.

    Both methods of a ratio are compared on the same subjects, resampled together.

    Args:
        rows: Of a benchmark.
        seed: Of the resampling.
        steps: Chosen on other subjects, from `tuning.load_steps`; where there is none, every resample takes the step
            with its best balance.
    """
    curves = curves_of(rows)
    found = {name: ratio_of(line, curves, steps, seed) for name, line in {**BAR, **hindsight.LINES}.items()}
    return {name: ratio for name, ratio in found.items() if ratio is not None}
