"""Where an identity acts: which layers and noise levels carry it, and what is lost without a block."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..chain import ChainFactors
from ..checks import optional
from ..files.identity import Identity, chain_factors
from ..files.prior import Prior, targets_of_prior
from ..inject import Injection
from ..model.host import Host, repeat_conditioning
from ..training.seeds import step_generator
from .report.tables import table

__all__ = ["Explanation", "block_of", "explain_identity", "explanation_png", "layer_shares"]

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels to measure; 0 is a clean picture."""

_PROBES = 4


@dataclass(frozen=True)
class Explanation:
    """What an identity changes.

    Args:
        by_layer: Target to its share of the squared length of all ΔW together; they sum to 1.
        by_level: Noise level to the length of the change of the prediction over that of the prediction.
        lost_without: Block to the share of the change that goes when the block's layers are left out: 0 for a block
            that does nothing, 1 for one that does everything. The shares need not sum to 1, since later blocks work on
            what earlier ones did.
    """

    by_layer: Mapping[str, float]
    by_level: Mapping[float, float]
    lost_without: Mapping[str, float]

    def by_block(self) -> dict[str, float]:
        """Shares of ΔW, the layers of a block together."""
        sums: dict[str, float] = {}
        for name, share in self.by_layer.items():
            sums[block_of(name)] = sums.get(block_of(name), 0.0) + share
        return sums

    def fields(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(self), "by_block": self.by_block()}

    def text(self) -> str:
        """Two tables for people."""
        blocks = self.by_block()
        rows = [("block", "share of ΔW", "lost without it")]
        rows += [(name, f"{share:.1%}", f"{self.lost_without.get(name, 0):.1%}") for name, share in blocks.items()]
        layers = sorted(self.by_layer.items(), key=lambda item: -item[1])[:8]
        strongest = [("strongest layers", "share of ΔW"), *((name, f"{share:.1%}") for name, share in layers)]
        levels = [
            ("noise level", "change"),
            *((f"{level:g}", f"{change:.1%}") for level, change in self.by_level.items()),
        ]
        return "\n\n".join(table(rows) for rows in (rows, strongest, levels))


def block_of(target: str) -> str:
    """The block that a target belongs to: its name up to the last number that stands alone, or its first part."""
    found = re.match(r".*?\.\d+(?=\.|$)", target)
    return found[0] if found else target.split(".")[0]


def layer_shares(chains: Mapping[str, ChainFactors]) -> dict[str, float]:
    """Share of each layer in the squared length of all ΔW, ``‖ΔW_l‖² / Σ‖ΔW‖²``.

    ΔW is never built: ``‖up · down‖² = Σ (upᵀ up) ∘ (down downᵀ)``.
    """
    squares: dict[str, float] = {}
    for name, chain in chains.items():
        down = (chain.mid.double() @ chain.meta_down.double().flatten(1)) * chain.scale * chain.strength
        squares[name] = float(((chain.up.double().mT @ chain.up.double()) * (down @ down.mT)).sum())
    total = sum(squares.values())
    return {name: square / total if total else 0.0 for name, square in squares.items()}


@torch.no_grad()
def explain_identity(
    host: Host, identity: Identity, prior: Prior, prompt: str = "", size_px: int = 0, seed: int = 0
) -> Explanation:
    """Measure where an identity acts, on random latents under a prompt.

    Args:
        host: The base model; it is left unchanged.
        identity: A learned subject.
        prior: The prior it was learned with.
        prompt: The prompt; "photo of a <trigger> <class word>" if empty.
        size_px: Width and height the latents stand for; 16 latent pixels if 0.
        seed: Of the latents.

    Raises:
        IncompatibleBaseModel: If prior, identity and model do not belong together.
    """
    targets = targets_of_prior(prior, host.targets())
    chains = chain_factors(identity, prior, device=host.device)
    own = identity.metadata
    conditioning = host.encode_prompts([prompt or f"photo of a {own.trigger} {own.class_word}".replace("  ", " ")])
    probes = _Probes(host, repeat_conditioning(conditioning, _PROBES), size_px // host.downscale or 16, seed)
    base = probes.predictions()
    with Injection(host.model, targets, chains):
        whole = probes.predictions()
        without: dict[str, float] = {}
        for block in dict.fromkeys(map(block_of, chains)):
            with _silent([chain for name, chain in chains.items() if block_of(name) == block]):
                left = probes.predictions()
            without[block] = _length(whole - left) / max(_length(whole - base), 1e-12)
    changes = {
        level: _length(whole[i] - base[i]) / max(_length(base[i]), 1e-12) for i, level in enumerate(LEVELS)
    }  # fmt: skip
    return Explanation(layer_shares(chains), changes, without)


class _Probes:
    """The same noisy latents at every level, so that predictions can be compared."""

    def __init__(self, host: Host, conditioning: dict[str, Tensor], side: int, seed: int) -> None:
        self._host, self._conditioning = host, conditioning
        shape = (_PROBES, host.latent_channels, side, side)
        clean = torch.randn(shape, generator=step_generator(seed, "explain clean"))
        noise = torch.randn(shape, generator=step_generator(seed, "explain noise"))
        times = [host.objective.timesteps_from_uniform(torch.full((_PROBES,), level)) for level in LEVELS]
        device, dtype = host.device, host.dtype
        self._noisy = [host.objective.make_noisy(clean, noise, t).to(device, dtype) for t in times]
        self._times = [t.to(device) for t in times]

    def predictions(self) -> Tensor:
        """(levels, probes, C, h, w), float32."""
        pairs = zip(self._noisy, self._times, strict=True)
        return torch.stack([self._host.predict(x, t, self._conditioning).float() for x, t in pairs])


@contextmanager
def _silent(chains: Sequence[ChainFactors]) -> Generator[None]:
    before = [chain.strength for chain in chains]
    for chain in chains:
        chain.strength = 0.0
    try:
        yield
    finally:
        for chain, strength in zip(chains, before, strict=True):
            chain.strength = strength


def _length(x: Tensor) -> float:
    return float(x.double().norm())


def explanation_png(explanation: Explanation) -> bytes:
    """Plot an explanation: ΔW by layer, what is lost without each block, the change by noise level.

    Raises:
        MissingDependency: If matplotlib is not installed.
    """
    import io

    figure = optional("matplotlib.figure", "A picture of an explanation", "Figure")(
        figsize=(13, 0.22 * len(explanation.by_layer) + 1.8), dpi=120, layout="constrained"
    )
    layers, blocks, levels = figure.subplots(1, 3, width_ratios=(2, 1.4, 1))
    _bars(layers, explanation.by_layer, "share of ΔW by layer", "#00798c")
    _bars(blocks, explanation.lost_without, "share of the change lost without the block", "#d1495b")
    levels.plot(list(explanation.by_level), list(explanation.by_level.values()), "o-", color="#00798c")
    levels.set(title="change of the prediction", xlabel="noise level", ylim=(0, None))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _bars(axis: Any, values: Mapping[str, float], title: str, colour: str) -> None:
    names = list(values)[::-1]
    axis.barh(names, [100 * values[name] for name in names], color=colour)
    axis.set(title=title, xlabel="%")
    axis.tick_params(axis="y", labelsize=8)
