"""What a ComfyUI model was trained to predict, found by asking its ``model_sampling``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....metalora_core.errors import IncompatibleBaseModel
from ....metalora_core.model.objective import MixedObjective

_LEVELS = (0.2, 0.5, 0.9)
_ROUNDING = 1e-4


def objective_of(model_sampling: Any) -> MixedObjective:
    """The training objective under which the model's sampler is right, with noise levels spread as the sampler's.

    A sampler mixes picture and noise, scales the mix for the network, and mixes the network's output with it into the
    picture. Asked with ones and zeros it says in which shares, whatever the prediction is called.

    Raises:
        IncompatibleBaseModel: If the model does not predict a mix of picture and noise.
    """
    objective = MixedObjective(
        rates=lambda t: _rates(model_sampling, t),
        quantile=lambda u: float(model_sampling.percent_to_sigma(1.0 - u)),
    )
    try:
        fits = _is_mix(model_sampling, objective)
    except (AttributeError, NotImplementedError):
        fits = False
    if not fits:
        names = ", ".join(base.__name__ for base in type(model_sampling).__mro__[1:3])
        raise IncompatibleBaseModel(
            f"The connected model's sampling type is {names}, which does not turn noise into a picture step by step, "
            "so it cannot be trained. Connect a text-to-image model, or remove a ModelSampling node."
        )
    return objective


def _rates(rules: Any, t: Tensor) -> Tensor:
    """Shares of picture and noise in the network's input, and in its target: (4, B)."""
    sigma = (t.cpu() if t.device.type == "mps" else t).double()
    one, zero = torch.ones_like(sigma)[:, None], torch.zeros_like(sigma)[:, None]
    picture, noise = rules.noise_scaling(sigma, zero.clone(), one), rules.noise_scaling(sigma, one.clone(), zero)
    scale = rules.calculate_input(sigma, one)
    kept, gain = rules.calculate_denoised(sigma, zero, one), rules.calculate_denoised(sigma, one, zero)
    rows = (picture * scale, noise * scale, (1 - kept * picture) / gain, -kept * noise / gain)
    return torch.stack([row.flatten() for row in rows])


def _is_mix(rules: Any, objective: MixedObjective) -> bool:
    """Whether the shares explain what the rules make of a picture and noise that they were not asked with."""
    generator = torch.Generator().manual_seed(0)
    picture, noise = (torch.randn(len(_LEVELS), 1, 2, 2, generator=generator).double() for _ in range(2))
    with torch.inference_mode(False):
        t = objective.timesteps_from_uniform(torch.tensor(_LEVELS)).double()
        rates = objective.rates(t)
        mixed = rules.noise_scaling(t, noise.clone(), picture.clone())
        found = rules.calculate_denoised(t, objective.target(picture, noise, t), mixed)
        close = torch.allclose(rules.calculate_input(t, mixed), objective.make_noisy(picture, noise, t), rtol=_ROUNDING)
    return close and torch.allclose(found, picture, atol=_ROUNDING) and bool(rates.isfinite().all() & rates[1].all())


class RawPrediction(nn.Module):
    """Stands in for ``model_sampling`` so that ``apply_model`` takes noisy latents and gives the bare prediction.

    Args:
        rules: The model's own; whatever else is asked of them they answer.
    """

    def __init__(self, rules: Any) -> None:
        super().__init__()
        self.__dict__["_rules"] = rules

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_rules"], name)

    def calculate_input(self, _t: Tensor, noisy: Tensor) -> Tensor:
        return noisy

    def calculate_denoised(self, _t: Tensor, output: Tensor, _noisy: Tensor) -> Tensor:
        return output
