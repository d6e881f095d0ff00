"""What the base model was trained to predict: rectified flow, noise (eps) or velocity (v)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import InvalidOptions

__all__ = [
    "EpsObjective",
    "FlowObjective",
    "MixedObjective",
    "Objective",
    "StratifiedTimesteps",
    "VObjective",
    "loss_scale",
    "scaled_linear_alphas",
]

_HALF_SCALE = 4096.0
"""Lifts the gradients of a mean over a latent from 1e-7 to 1e-3, far from both ends of float16."""


class Objective(Protocol):
    """Forward process and regression target; t is in the objective's own unit."""

    @property
    def name(self) -> str:
        """One of "flow", "eps", "v", "mixed"."""
        ...

    def timesteps_from_uniform(self, u: Tensor) -> Tensor:
        """Map uniform numbers in (0, 1) through the quantile function of the timestep distribution."""
        ...

    def sample_timesteps(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Independent timesteps, shape (count,)."""
        ...

    def make_noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t from x_0 and noise, all (B, C, h, w), at timesteps (B,)."""
        ...

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model should predict, (B, C, h, w)."""
        ...


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *([1] * (like.dim() - 1)))


@dataclass(frozen=True)
class FlowObjective:
    """Rectified flow: ``x_t = (1 - t) x_0 + t · noise``, target ``noise - x_0``, t in 0..1.

    Args:
        sampling: "uniform", or "logit_normal" (more weight on the middle).
        shift: Resolution shift ``t' = s t / (1 + (s - 1) t)``; 1 leaves t alone, FLUX.1-dev at 1024 px uses about 3.

    Source: Esser et al., arXiv 2403.03206, equations 1, 13 and 23.
    """

    sampling: Literal["uniform", "logit_normal"] = "uniform"
    shift: float = 1.0
    name: str = "flow"

    def timesteps_from_uniform(self, u: Tensor) -> Tensor:
        """Quantiles of the timestep distribution at u in (0, 1)."""
        # A float32 u can round to exactly 0 or 1, whose normal quantile is infinite; the clamp keeps t inside (0, 1).
        t = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)).sigmoid() if self.sampling == "logit_normal" else u
        return self.shift * t / (1 + (self.shift - 1) * t)

    def sample_timesteps(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Independent timesteps, shape (count,)."""
        return self.timesteps_from_uniform(torch.rand(count, generator=generator)).to(device)

    def make_noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Straight line between picture and noise."""
        return torch.lerp(latents, noise, _per_sample(t, latents))

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Velocity of that line."""
        return noise - latents


def scaled_linear_alphas(count: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """Cumulative alphas of Stable Diffusion's "scaled linear" schedule, shape (count,)."""
    betas = torch.linspace(math.sqrt(start), math.sqrt(end), count, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


@dataclass(frozen=True, eq=False)
class EpsObjective:
    """DDPM: ``x_t = sqrt(ā_t) x_0 + sqrt(1 - ā_t) · noise``, target noise, t an index below ``len(alphas_cumprod)``.

    Args:
        alphas_cumprod: ā, shape (T,), falling.

    Source: Ho et al., arXiv 2006.11239, equation 4.
    """

    alphas_cumprod: Tensor
    name: str = "eps"

    def timesteps_from_uniform(self, u: Tensor) -> Tensor:
        """Index in 0..T-1 as float."""
        count = self.alphas_cumprod.shape[0]
        return (u * count).floor().clamp(0, count - 1)

    def sample_timesteps(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Independent timesteps, shape (count,)."""
        return self.timesteps_from_uniform(torch.rand(count, generator=generator)).to(device)

    def make_noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Variance-preserving mix of picture and noise."""
        alpha = self._alpha(t)
        return _per_sample(alpha.sqrt(), latents) * latents + _per_sample((1 - alpha).sqrt(), latents) * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noise."""
        return noise

    def _alpha(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[t.long()]


@dataclass(frozen=True, eq=False)
class VObjective(EpsObjective):
    """DDPM with target ``v = sqrt(ā_t) · noise - sqrt(1 - ā_t) x_0``.

    Source: Salimans and Ho, arXiv 2202.00512, appendix D.
    """

    name: str = "v"

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity."""
        alpha = self._alpha(t)
        return _per_sample(alpha.sqrt(), latents) * noise - _per_sample((1 - alpha).sqrt(), latents) * latents


@dataclass(frozen=True, eq=False)
class MixedObjective:
    """Any mix of picture and noise: ``x_t = a x_0 + b · noise``, target ``c x_0 + d · noise``.

    Flow, eps and v are cases of it, and so is whatever else a host's own sampler computes (EDM, Karras et al., arXiv
    2206.00364). t is the host's noise level.

    Args:
        rates: Noise levels (B,) to a, b, c, d, shape (4, B), float64.
        quantile: A number in (0, 1) to a noise level, rising.
    """

    rates: Callable[[Tensor], Tensor]
    quantile: Callable[[float], float]
    name: str = "mixed"

    def timesteps_from_uniform(self, u: Tensor) -> Tensor:
        """Quantiles of the noise level distribution at u in (0, 1)."""
        levels = [self.quantile(min(max(float(x), 1e-6), 1 - 1e-6)) for x in u.flatten()]
        return torch.tensor(levels).view(u.shape)

    def sample_timesteps(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Independent noise levels, shape (count,)."""
        return self.timesteps_from_uniform(torch.rand(count, generator=generator)).to(device)

    def make_noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The model's input."""
        a, b, _, _ = self._rates(latents, t)
        return a * latents + b * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model's output means at this noise level."""
        _, _, c, d = self._rates(latents, t)
        return c * latents + d * noise

    def weight(self, t: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(t)

    def picture_and_noise(self, noisy: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What input and prediction say the picture and the noise are, all (B, C, h, w)."""
        a, b, c, d = self._rates(noisy, t)
        span = a * d - b * c
        return (d * noisy - b * prediction) / span, (a * prediction - c * noisy) / span

    def _rates(self, like: Tensor, t: Tensor) -> list[Tensor]:
        return [_per_sample(rate.to(like.device), like) for rate in self.rates(t)]


_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class StratifiedTimesteps:
    """Timesteps that cover the range evenly over batches *and* steps.

    Sample n of the whole training gets ``u_n = frac(u_0 + n · φ)`` with φ the golden ratio's fraction, the most even
    one-dimensional sequence there is; so a few dozen steps see all noise levels. A function of the step alone: nothing
    has to be stored to resume.

    Args:
        objective: Supplies the quantile function.
        batch: Samples a step.
        seed: Chooses u_0.

    Raises:
        InvalidOptions: If batch is below 1.
    """

    objective: Objective
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InvalidOptions(f"The batch size is {self.batch}; it must be at least 1.")

    def at(self, step: int) -> Tensor:
        """Timesteps of one step, shape (batch,), on the CPU."""
        offset = torch.rand((), generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        numbers = torch.arange(step * self.batch, (step + 1) * self.batch, dtype=torch.float64)
        return self.objective.timesteps_from_uniform(((offset + numbers * _GOLDEN) % 1.0).float())


def loss_scale(dtype: torch.dtype) -> float:
    """What a loss is multiplied by before its backward pass; gradients are divided by it in float32.

    float16 has no number below 6e-8, where the gradients of a mean squared error over a picture lie. It is a power of
    two, so no digit changes.

    Args:
        dtype: What the model computes in.

    Source: Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740, section 3.2.
    """
    return _HALF_SCALE if dtype == torch.float16 else 1.0
