"""What a method trains and what it keeps of a subject; none of it depends on a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ...training.starts import ChainStart
from ..methods.registry import method_named

if TYPE_CHECKING:
    from ..subjects.world import World

__all__ = ["cost_table", "kept_tensors"]


def kept_tensors(start: ChainStart) -> dict[str, Tensor]:
    """What a file of one subject has to hold: every factor of which a number is trained."""
    mids, ups = start.layout.unpack(start.flat)
    mid_rates, up_rates = start.layout.unpack(start.rates)
    kept: dict[str, Tensor] = {}
    for kind, values, rates in (("mid", mids, mid_rates), ("up", ups, up_rates)):
        kept |= {f"{name}.{kind}": value for name, value in values.items() if bool((rates[name] != 0).any())}
    return kept


def cost_table(bench: World, methods: Sequence[str]) -> list[tuple[str, ...]]:
    """Trained parameters and the size of a subject's file in float32, on the first domain's layers."""
    from safetensors.torch import save

    table: list[tuple[str, ...]] = [("method", "adapted modules", "trained parameters", "file, bytes", "source")]
    for name in methods:
        method = method_named(name)
        if not method.trained:
            continue
        if method.start is None:
            table.append((method.title, "all", "–", "–", method.source))
            continue
        start = method.start(bench.host, next(iter(bench.priors.values())), 0)
        size = len(save({key: value.contiguous() for key, value in kept_tensors(start).items()}))
        table.append((method.title, str(len(start.targets)), f"{start.trained:,}", f"{size:,}", method.source))
    return table
