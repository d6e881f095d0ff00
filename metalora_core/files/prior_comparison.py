"""How two priors differ: in their records, their layers and the directions that their meta-downs span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import plain_line
from ..functional import chain_delta
from .metadata import summarise
from .prior import Prior, PriorLayer

__all__ = ["PriorComparison", "compare_priors"]

_FIELDS = ("family", "base_fingerprint", "domain", "class_words", "r_meta", "r_mid", "scale", "license")
_SHOWN = 5
_MADE = ("subjects", "steps", "picture_px", "final_loss")


@dataclass(frozen=True)
class PriorComparison:
    """Two priors side by side.

    Args:
        names: Of both.
        differing: Fields of the records that differ, with both values.
        only_first: Layers that only the first has.
        only_second: Layers that only the second has.
        overlap: Of each shared layer, how much of the smaller meta-down's space lies in the other's: 1 for all of it.
        by_chance: The same for random directions of these ranks.
        start: Of each shared layer, the cosine between the learned starts as ΔW; empty where one has none.
    """

    names: tuple[str, str]
    differing: Mapping[str, tuple[Any, Any]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    overlap: Mapping[str, float]
    by_chance: Mapping[str, float]
    start: Mapping[str, float]

    def fields(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A page for people."""
        first, second = self.names
        lines = [plain_line(f"{first} and {second}", 200)]
        lines += [plain_line(f"{name}: {one} and {other}", 200) for name, (one, other) in self.differing.items()]
        for name, layers in ((first, self.only_first), (second, self.only_second)):
            if layers:
                lines.append(f"only in {plain_line(name, 100)}: {summarise(list(layers), 3)}")
        if self.overlap:
            mean, chance = (sum(values.values()) / len(values) for values in (self.overlap, self.by_chance))
            lines.append(f"shared directions {mean:.2f} of 1 on average; random ones would share {chance:.2f}")
            least = sorted(self.overlap.items(), key=lambda found: found[1])[:_SHOWN]
            lines += [f"  least in {plain_line(name, 100)}: {share:.2f}" for name, share in least]
        if self.start:
            lines.append(f"learned starts: cosine {sum(self.start.values()) / len(self.start):.2f} on average")
        return "\n  ".join(lines)


def compare_priors(first: Prior, second: Prior) -> PriorComparison:
    """Compare two priors layer by layer; layers of another input width are counted as not shared."""
    both = [
        name
        for name in sorted(first.layers.keys() & second.layers.keys())
        if first.layers[name].meta_down.shape[1:] == second.layers[name].meta_down.shape[1:]
    ]
    pairs = {name: (first.layers[name], second.layers[name]) for name in both}
    records = first.metadata, second.metadata
    told = [{n: getattr(r, n) for n in _FIELDS} | {n: r.training.get(n) for n in _MADE} for r in records]
    differing = {name: (told[0][name], told[1][name]) for name in told[0] if told[0][name] != told[1][name]}
    return PriorComparison(
        (records[0].name, records[1].name),
        differing,
        tuple(sorted(first.layers.keys() - set(both))),
        tuple(sorted(second.layers.keys() - set(both))),
        {name: _overlap(one.meta_down, other.meta_down) for name, (one, other) in pairs.items()},
        {name: max(one.r_meta, other.r_meta) / one.meta_down[0].numel() for name, (one, other) in pairs.items()},
        {name: cosine for name, pair in pairs.items() if (cosine := _start_cosine(*pair)) is not None},
    )


def _overlap(one: Tensor, other: Tensor) -> float:
    """Mean squared cosine of the principal angles between two row spaces."""
    spans = [torch.linalg.qr(down.double().flatten(1).T).Q for down in (one, other)]
    return float((spans[0].T @ spans[1]).square().sum() / min(span.shape[1] for span in spans))


def _start_cosine(one: PriorLayer, other: PriorLayer) -> float | None:
    starts = [
        chain_delta(layer.meta_down.double(), layer.mid_init.double(), layer.up_init.double()).flatten()
        for layer in (one, other)
        if layer.mid_init is not None and layer.up_init is not None
    ]
    if len(starts) < 2 or len(starts[0]) != len(starts[1]):
        return None
    return float(torch.nn.functional.cosine_similarity(starts[0], starts[1], dim=0))
