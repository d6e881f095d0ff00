"""What was learned before is given out only where nothing that decides it differs, and any MODEL can be a base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from checks.support import adapt, conditioning, folders, message_of, pack, pocket, random_factors, sampled


def _kept() -> set[Path]:
    return set((folders() / "models/metalora_identities/adapted").glob("[!.]*.safetensors"))


def _skipped(args: Any, _extra: Any) -> Any:
    return {"img": args["img"], "txt": args["txt"]}


def _halved(run: Any, *args: Any, **kwargs: Any) -> Any:
    return run(*args, **kwargs) * 0.5


def _bypass_lora(model: Any, size: float) -> Any:
    """Core's own loader, beside the weights, with a LoRA of this size on every layer."""
    import comfy.sd

    tensors = pack("nodes.bridge.lora_tensors").lora_tensors(_factors(model, size))
    return comfy.sd.load_bypass_lora_for_models(model, None, tensors, 1.0, 0.0)[0]


def _factors(model: Any, size: float = 0.02) -> Any:
    return random_factors(pack("nodes.bridge.host.targets").targets_of(model), size=size)


def _identity(model: Any, mode: str, **window: float) -> Any:
    patching = pack("nodes.bridge.patching")
    return patching.apply_identity(model, _factors(model), 1.0, patching.Window(**window), mode, "The identity")[0]


def _models() -> dict[str, Callable[[], Any]]:
    import comfy.sd
    from comfy.patcher_extension import WrappersMP
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux, ModelSamplingSD3

    import nodes  # noqa: F401 - core's nodes, which comfy_extras expect

    model = pocket()[0]

    def replaced() -> Any:
        clone = model.clone()
        clone.set_model_patch_replace(_skipped, "dit", "double_block", 0)
        return clone

    def wrapped() -> Any:
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", _halved)
        return clone

    def scaled(alpha: float) -> Any:
        tensors = pack("nodes.bridge.lora_tensors").lora_tensors(_factors(model))
        tensors = {key: kept * alpha if key.endswith("alpha") else kept for key, kept in tensors.items()}
        return comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0]

    makers: dict[str, Callable[[], Any]] = {
        "plain": lambda: model,
        "shift of Flux": lambda: ModelSamplingFlux().patch(model, 3.0, 3.0, 128, 128)[0],
        "shift 9": lambda: ModelSamplingSD3().patch(model, 9.0)[0],
        "shift 5": lambda: ModelSamplingSD3().patch(model, 5.0)[0],
        "replaced block": replaced,
        "wrapper": wrapped,
        "LoRA": lambda: scaled(1.0),
        "LoRA of half the alpha": lambda: scaled(0.5),
        "identity in the weights": lambda: _identity(model, "patch"),
        "identity beside them": lambda: _identity(model, "bypass"),
        "identity in the last instant": lambda: _identity(model, "bypass", start=0.999),
    }
    if hasattr(comfy.sd, "load_bypass_lora_for_models"):
        makers["bypass LoRA"] = lambda: _bypass_lora(model, 0.02)
        makers["other bypass LoRA"] = lambda: _bypass_lora(model, 0.03)
    return makers


def check_every_change_of_the_model_is_learned_on_its_own() -> dict[str, float]:
    """None is given another's identity, each is given its own again, and a second one is learned on a first."""
    losses: dict[str, float] = {}
    for name, make in _models().items():
        report, before = "", _kept()
        with torch.inference_mode():
            changed = make()
        outputs = adapt(model=changed, steps=2, seed=7107)
        losses[name], report = outputs[2]["loss"][0], outputs[3]
        assert "Learned before" not in report and len(_kept() - before) == 1, f"{name}: {report}"
        with torch.inference_mode():
            sampled(changed, conditioning("photo of a ohwx person"))
            again = adapt(model=make(), steps=2, seed=7107)[3]
        assert "Learned before" in again, f"{name}: {again}"
    plain, changed_by = losses.pop("plain"), losses.pop("identity in the weights")
    assert losses.pop("identity in the last instant") == plain != changed_by, "outside its window it does nothing"
    for name in ("LoRA", "identity beside them", "bypass LoRA"):
        assert abs(losses.pop(name, changed_by) - changed_by) < 1e-4, f"{name} is the same change of the model"
    assert len({plain, changed_by, *losses.values()}) == 2 + len(losses), f"one changed nothing: {losses}"
    return losses


def check_every_change_of_the_text_encoder_is_learned_on_its_own() -> None:
    clip = pocket()[1]
    skipped = clip.clone()
    skipped.clip_layer(-2)
    weight = next(key for key in clip.patcher.model_state_dict() if key.endswith("weight"))
    shape = clip.patcher.model_state_dict()[weight].shape
    loras: list[Any] = []
    for strength in (1.0, 2.0):
        changed = clip.clone()
        changed.add_patches({weight: ("diff", (torch.full(shape, 0.01),))}, strength)
        loras.append(changed)
    for part in (clip, skipped, *loras):
        report = adapt(clip=part, steps=2, seed=72)[3]
        assert "Learned before" not in report, report
        assert "Learned before" in adapt(clip=part.clone(), steps=2, seed=72)[3]


def check_what_cannot_be_compared_is_trained_each_time() -> None:
    from comfy.patcher_extension import WrappersMP

    model = pocket()[0].clone()
    numbers = iter(range(10**9))

    def counting(run: Any, *args: Any, **kwargs: Any) -> Any:
        next(numbers)
        return run(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", counting)
    steps = set((folders() / "models/metalora_identities/adapted").glob(".*.step.safetensors"))
    for _ in range(2):
        report = adapt(model=model, steps=2, seed=73)[3]
        assert "Learned before" not in report and "cannot be compared" in report and "range_iterator" in report, report
    assert set((folders() / "models/metalora_identities/adapted").glob(".*.step.safetensors")) == steps
    said = message_of(lambda: adapt(model=model, steps=2, seed=73, use_step=2))
    assert "no step is kept" in said and "range_iterator" in said, said


def check_a_model_that_would_be_saved_without_its_identity_says_so() -> None:
    learned, apply = adapt(steps=2, seed=74)[0], pack("nodes.apply").ApplyIdentity.execute
    assert "Save Model writes the model without it" in apply(pocket()[0], learned, 1.0, method="bypass").args[1]
    assert "Save Model" not in apply(pocket()[0], learned, 1.0, method="patch").args[1]
