"""A training leaves the user's MODEL as it found it, however it ends."""

from __future__ import annotations

from typing import Any

import torch

from checks.small_models import build, inputs
from checks.support import captions_of, pack, random_factors


def check_training_leaves_no_trace() -> dict[str, Any]:
    """After a normal end, an exception and an interruption; for every family, with recomputed blocks."""
    return {family: [_traces(family, ending) for ending in (_end, _fail, _interrupt)] for family in ("flux", "unet")}


def _end() -> None:
    """Nothing happens."""


def _fail() -> None:
    raise RuntimeError("a failure in the middle of a step")


def _interrupt() -> None:
    from comfy import model_management

    # As the server does it; the next operation of the model raises.
    model_management.interrupt_current_processing(True)


def _traces(family: str, ending: Any) -> list[str]:
    from comfy import model_management

    model = build(family)
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, resolution=64, checkpointing=True)
    before, output = _state(model), _output(model, family)
    cancelled = pack("metalora_core.errors").TrainingCancelled
    try:
        with torch.inference_mode():
            _train(host, family, ending)
    except (RuntimeError, cancelled) as stop:
        assert ending is not _end, stop
        assert not isinstance(stop, cancelled) or ending is _interrupt, stop
    else:
        # ComfyUI 0.3.64 looks at the flag between operations of a queue only; our loop looks at it after each step.
        pending = model_management.processing_interrupted()
        assert ending is _end or (ending is _interrupt and pending), "the ending was ignored"
        model_management.interrupt_current_processing(False)
    after = _state(model)
    found = [name for name in before if before[name] != after[name]]
    if not torch.equal(output, _output(model, family)):
        found.append("output")
    if getattr(model_management, "in_training", False):
        found.append("in_training")
    assert not model_management.processing_interrupted()
    assert not found, f"{family}, {ending.__name__}: changed {found}"
    return found


def _train(host: Any, family: str, ending: Any) -> None:
    data = inputs(family)
    noisy, t = data.pop("x"), torch.tensor([0.3, 0.8])
    with torch.inference_mode(False):
        factors = random_factors(host.targets())
        for chain in factors.values():
            chain.up.requires_grad_()
    with host.training(), pack("metalora_core.inject").Injection(host.model, host.targets(), factors):
        loss = host.predict(noisy, t, captions_of(host, data)).square().mean()
        ending()
        loss.backward()


def _state(model: Any) -> dict[str, Any]:
    """Everything that a training touches: identity of objects, hooks, methods, patches."""
    base = model.model
    return {
        "parameters": {name: id(parameter) for name, parameter in base.named_parameters()},
        "bits": {name: parameter.detach().double().sum().item() for name, parameter in base.named_parameters()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules()],
        "methods": ["forward" in vars(m) for m in base.modules()],
        "gradients": [parameter.requires_grad for parameter in base.parameters()],
        "rules": id(base.model_sampling),
        "patches": (len(model.patches), len(model.object_patches), len(model.injections), model.is_injected),
        "options": repr(model.model_options),
    }


def _output(model: Any, family: str) -> torch.Tensor:
    data = inputs(family)
    with torch.inference_mode():
        return model.model.apply_model(data.pop("x"), torch.tensor([0.3, 0.8]), **data)
