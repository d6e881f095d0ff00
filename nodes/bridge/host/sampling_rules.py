"""What a ComfyUI model was trained to predict, read from its ``model_sampling``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....metalora_core.errors import IncompatibleBaseModel
from ....metalora_core.model.objective import EpsObjective, FlowObjective, Objective, VObjective


def objective_of(model_sampling: Any) -> Objective:
    """The training objective of a model: flow, eps or v, with the model's own noise schedule.

    Flow models draw timesteps uniformly along the path that their sampler walks, so the shift is the sampler's.

    Raises:
        IncompatibleBaseModel: If the model predicts something else.
    """
    from comfy import model_sampling as rules

    flow_rules = tuple(getattr(rules, name) for name in ("ModelSamplingDiscreteFlow", "ModelSamplingFlux"))
    if isinstance(model_sampling, rules.CONST) and isinstance(model_sampling, flow_rules):
        shift = float(model_sampling.shift)
        return FlowObjective(shift=math.exp(shift) if isinstance(model_sampling, rules.ModelSamplingFlux) else shift)
    # EDM is a V_PREDICTION by inheritance, but with the other sign.
    if isinstance(model_sampling, rules.ModelSamplingDiscrete) and not isinstance(model_sampling, rules.EDM):
        with torch.inference_mode(False):
            alphas = 1 / (model_sampling.sigmas.detach().clone().double() ** 2 + 1)
        if isinstance(model_sampling, rules.V_PREDICTION):
            return VObjective(alphas.float())
        if type(model_sampling).calculate_denoised is rules.EPS.calculate_denoised:
            return EpsObjective(alphas.float())
    names = ", ".join(base.__name__ for base in type(model_sampling).__mro__[1:3])
    raise IncompatibleBaseModel(
        f"The connected model predicts by the rules {names}; flow (FLUX, SD3), eps (SD1.5, SDXL) and v models can be "
        "adapted. Connect one of those, or remove a ModelSampling node that changes the prediction type."
    )


class RawPrediction(nn.Module):
    """Stands in for ``model_sampling`` so that ``apply_model`` takes noisy latents and gives the bare prediction.

    Args:
        to_model_time: Maps the objective's timesteps to what the network is given.
    """

    def __init__(self, to_model_time: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.to_model_time = to_model_time

    def calculate_input(self, _t: Tensor, noisy: Tensor) -> Tensor:
        return noisy

    def timestep(self, t: Tensor) -> Tensor:
        return self.to_model_time(t)

    def calculate_denoised(self, _t: Tensor, output: Tensor, _noisy: Tensor) -> Tensor:
        return output


def raw_prediction(model_sampling: Any, objective: Objective) -> RawPrediction:
    """The stand-in for a model with this objective; eps and v timesteps are already what the network is given."""
    return RawPrediction(model_sampling.timestep if objective.name == "flow" else lambda t: t)
