"""Pictures from noise through diffusers' schedulers, with whatever is injected into the host's model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import optional
from ..errors import InvalidOptions
from .host import Conditioning, Host
from .objective import EpsObjective, MixedObjective

__all__ = ["sample"]


@torch.no_grad()
def sample(
    host: Host,
    conditioning: Conditioning,
    negative: Conditioning | None = None,
    *,
    shape: Sequence[int],
    steps: int = 28,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw latents: DPM-Solver++ 2M for eps and v models, Euler for all others.

    Args:
        host: The model.
        conditioning: One row per picture.
        negative: Conditioning of the unguided side; needed unless guidance is 1.
        shape: Of the latents, (B, C, h, w).
        steps: Model evaluations (twice as many with guidance).
        guidance: Classifier-free guidance, ``negative + guidance · (positive - negative)``; 1 is none.
        generator: CPU generator of the starting noise, so that a seed means the same on every device.
        noise: The starting noise itself, of that shape; drawn with the generator if None.
        on_step: Called with steps done and steps in all; it may raise.

    Returns:
        Latents of that shape, on the host's device.

    Raises:
        InvalidOptions: If the settings contradict each other.
    """
    if steps < 1:
        raise InvalidOptions(f"steps is {steps}; at least 1 step is needed.")
    if guidance != 1 and negative is None:
        raise InvalidOptions(
            f"guidance={guidance} needs a negative conditioning; encode an empty prompt, or set guidance to 1."
        )
    x = (torch.randn(tuple(shape), generator=generator) if noise is None else noise).to(host.device)
    objective = host.objective
    if isinstance(objective, MixedObjective):
        levels, step = _mixed_walk(objective, steps)
        x = objective.make_noisy(torch.zeros_like(x), x, _batch(levels[0], x))
    else:
        levels, step = _scheduled_walk(host, steps)
    for number, level in enumerate(levels):
        prediction = _guided(host, x, _batch(level, x), conditioning, negative, guidance)
        x = step(prediction, number, x)
        if on_step is not None:
            on_step(number + 1, steps)
    return x


_Walk = tuple[Sequence[float], Callable[[Tensor, int, Tensor], Tensor]]
"""Noise levels in the objective's unit, and a step: prediction, number and x to the next x."""


def _mixed_walk(objective: MixedObjective, steps: int) -> _Walk:
    levels = objective.timesteps_from_uniform(torch.linspace(1, 1 / steps, steps)).tolist()

    def step(prediction: Tensor, number: int, x: Tensor) -> Tensor:
        picture, noise = objective.picture_and_noise(x, prediction, _batch(levels[number], x))
        if number + 1 == steps:
            return picture
        return objective.make_noisy(picture, noise, _batch(levels[number + 1], x))

    return levels, step


def _scheduled_walk(host: Host, steps: int) -> _Walk:
    scheduler = _scheduler(host, steps)
    scheduler.set_begin_index(0)
    times = scheduler.timesteps
    flow = host.objective.name == "flow"
    levels = [float(scheduler.sigmas[i]) if flow else float(t) for i, t in enumerate(times)]
    return levels, lambda prediction, number, x: scheduler.step(prediction, times[number], x, return_dict=False)[0]


def _guided(
    host: Host, x: Tensor, t: Tensor, conditioning: Conditioning, negative: Conditioning | None, guidance: float
) -> Tensor:
    noisy = x.to(host.dtype)
    positive = host.predict(noisy, t, conditioning).float()
    if negative is None or guidance == 1:
        return positive
    return torch.lerp(host.predict(noisy, t, negative).float(), positive, guidance)


def _batch(t: float, like: Tensor) -> Tensor:
    return torch.full((like.shape[0],), t, device=like.device)


def _scheduler(host: Host, steps: int) -> Any:
    schedulers = optional("diffusers.schedulers", "Drawing with a diffusers model")
    objective = host.objective
    if isinstance(objective, EpsObjective):
        # diffusers' DDIM leaves 3 % of noise unless the steps divide the training's; this solver ends at no noise.
        scheduler = schedulers.DPMSolverMultistepScheduler(
            num_train_timesteps=len(objective.alphas_cumprod),
            trained_betas=_betas(objective.alphas_cumprod).numpy(),
            prediction_type="v_prediction" if objective.name == "v" else "epsilon",
            timestep_spacing="trailing",
            final_sigmas_type="zero",
        )
        scheduler.set_timesteps(steps, device=host.device)
        return scheduler
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=getattr(objective, "shift", 1.0))
    # Evenly spaced levels from pure noise down; the scheduler's default spacing never reaches the last part.
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), device=host.device)
    return scheduler


def _betas(alphas_cumprod: Tensor) -> Tensor:
    alphas = alphas_cumprod.double().cpu()
    return (1 - alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])).float()
