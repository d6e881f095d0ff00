"""Applies an identity to a MODEL: by weight patches, or beside the weights where patching would lose it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...metalora_core.chain import ChainFactors
from ...metalora_core.errors import InvalidOptions
from ...metalora_core.inject import Coverage, Injection
from .fit import require_fit
from .host.targets import PREFIX, compute_dtype, targets_of

PATCHABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Window:
    """The part of sampling in which an identity acts, as fractions of the whole."""

    start: float = 0.0
    end: float = 1.0

    @classmethod
    def checked(cls, start: float, end: float) -> Window:
        """Raises InvalidOptions unless start is before end."""
        if not 0.0 <= start < end <= 1.0:
            raise InvalidOptions(
                f"start_percent is {start} and end_percent is {end}. Choose a start below the end, both from 0 to 1."
            )
        return cls(start, end)

    @property
    def whole(self) -> bool:
        return self.start <= 0.0 and self.end >= 1.0


def apply_identity(
    model: Any, factors: Mapping[str, ChainFactors], strength: float, window: Window, mode: str, what: str
) -> tuple[Any, Coverage]:
    """A clone of a MODEL with the factors applied; the MODEL itself is not changed.

    Args:
        model: ComfyUI's MODEL.
        factors: Chain per target name.
        strength: The user's setting; 0 returns the MODEL itself.
        window: When the identity acts; anything but the whole needs the bypass.
        mode: "patch" (into the weights), "bypass" (beside them, in compute dtype) or "auto" (patch if every weight is
            an ordinary 16- or 32-bit tensor and the window is whole).
        what: The identity's name in messages.

    Raises:
        IncompatibleBaseModel: If the factors do not fit.
    """
    require_fit(model, factors, what)
    if strength == 0:
        return model, Coverage(0, len(factors), ())
    if mode == "bypass" or not window.whole or (mode == "auto" and not patchable(model, factors)):
        return _bypassed(model, factors, strength, window)
    return _patched(model, factors, strength)


def asked_at_start(model: Any, applied: Any, ask: Any) -> Any:
    """The applied MODEL with a question that is asked whenever a sampler starts; the MODEL itself asks nothing.

    Args:
        model: Before the identity was applied.
        applied: After.
        ask: Wraps a sampler's run.
    """
    from comfy.patcher_extension import WrappersMP

    if applied is not model:
        applied.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, f"metalora_{uuid.uuid4().hex}", ask)
    return applied


def beside_note(model: Any, applied: Any) -> str:
    """What a user of core's Save Model must know if an identity acts beside the weights; empty for a patch."""
    if len(applied.injections) == len(model.injections):
        return ""
    return "; beside the weights, so Save Model writes the model without it. Choose patch to save it with the model"


def patchable(model: Any, factors: Mapping[str, ChainFactors]) -> bool:
    """Whether every targeted weight is an ordinary tensor in which a small delta survives."""
    weights = [model.model.diffusion_model.get_submodule(name).weight for name in factors]
    return all(type(weight.data) is torch.Tensor and weight.dtype in PATCHABLE for weight in weights)


def _patched(model: Any, factors: Mapping[str, ChainFactors], strength: float) -> tuple[Any, Coverage]:
    from comfy.weight_adapter import LoRAAdapter

    patches: dict[str, Any] = {}
    for name, chain in factors.items():
        down, up = chain.fold()
        alpha = chain.scale * down.shape[0]
        weights = (up.contiguous(), down.contiguous(), alpha, None, None, None)
        patches[f"{PREFIX}{name}.weight"] = LoRAAdapter(set(), weights)
    patched = model.clone()
    taken = set(patched.add_patches(patches, strength))
    missing = tuple(name for name in factors if f"{PREFIX}{name}.weight" not in taken)
    return patched, Coverage(len(taken), len(factors), missing)


def _bypassed(model: Any, factors: Mapping[str, ChainFactors], strength: float, window: Window) -> tuple[Any, Coverage]:
    from comfy.patcher_extension import PatcherInjection, WrappersMP

    beside = BesideWeights(factors, strength)
    bypassed = model.clone()
    # ComfyUI compares clones by the keys of their injections, so every application needs a key of its own.
    key = f"metalora_{uuid.uuid4().hex}"
    bypassed.set_injections(key, [PatcherInjection(inject=beside.inject, eject=beside.eject)])
    if not window.whole:
        sampling = model.get_model_object("model_sampling")
        limits = (sampling.percent_to_sigma(window.start), sampling.percent_to_sigma(window.end))
        bypassed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, beside.scheduled(limits))
    return bypassed, Coverage(len(factors), len(factors), ())


class BesideWeights:
    """An identity computed beside the weights while a model is loaded; any number of them may be stacked."""

    def __init__(self, factors: Mapping[str, ChainFactors], strength: float) -> None:
        self.factors = factors
        self.strength = strength
        self._loaded = ExitStack()
        self._placed: dict[str, ChainFactors] = {}

    def inject(self, patcher: Any) -> None:
        self.eject(patcher)
        device, dtype = patcher.load_device, compute_dtype(patcher)
        self._placed = {name: self._place(chain, device, dtype) for name, chain in self.factors.items()}
        network = patcher.model.diffusion_model
        self._loaded.enter_context(Injection(network, targets_of(patcher), self._placed))

    def eject(self, _patcher: Any) -> None:
        self._loaded.close()
        self._placed = {}

    def _place(self, chain: ChainFactors, device: torch.device, dtype: torch.dtype) -> ChainFactors:
        # Copies outside inference mode, so that a training on top of this identity can save them for its backward pass.
        with torch.inference_mode(False):
            names = ("meta_down", "mid", "up")
            tensors = {name: getattr(chain, name).to(device, dtype, copy=True) for name in names}
        return replace(chain, **tensors, strength=self.strength)

    def scheduled(self, limits: tuple[float, float]) -> Any:
        """A wrapper of the model's call that switches the identity by noise level, from the first limit down."""

        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            sigma = float(args[1].max())
            inside = limits[1] <= sigma <= limits[0]
            for chain in self._placed.values():
                chain.strength = self.strength if inside else 0.0
            return executor(*args, **kwargs)

        return wrapper
