"""An identity as ComfyUI hooks: it acts on the conditionings it is attached to, so each subject keeps its region."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...metalora_core.chain import ChainFactors
from .fit import require_fit
from .lora_tensors import lora_tensors
from .patching import Window


def identity_hooks(
    factors: Mapping[str, ChainFactors], strength: float, window: Window, what: str, ask: Callable[[], None]
) -> Any:
    """A hook group with the folded LoRA of an identity.

    Args:
        factors: Chain per target name.
        strength: The user's setting.
        window: When the identity acts.
        what: The identity's name in messages.
        ask: Refuses what is not permitted; called whenever a sampler starts.
    """
    from comfy.hooks import HookGroup, HookKeyframe, HookKeyframeGroup, WeightHook

    hook = WeightHook(strength_model=strength, strength_clip=0.0)
    hook.weights = lora_tensors(factors)
    hook.custom_should_register = _refusing_other_models(factors, what, ask)
    group = HookGroup()
    group.add(hook)
    if not window.whole:
        frames = HookKeyframeGroup()
        edges = [(0.0, 0.0), (window.start, 1.0)] if window.start > 0 else [(0.0, 1.0)]
        if window.end < 1.0:
            edges.append((window.end, 0.0))
        for percent, share in edges:
            frames.add(HookKeyframe(strength=share, start_percent=percent, guarantee_steps=0))
        group.set_keyframes_on_hooks(frames)
    return group


def _refusing_other_models(factors: Mapping[str, ChainFactors], what: str, ask: Callable[[], None]) -> Any:
    def should_register(_hook: Any, model: Any, _options: Any, _target: Any, _registered: Any) -> bool:
        if not model.is_clip:
            require_fit(model, factors, what)
            ask()
        return not model.is_clip

    return should_register


def combined_hooks(first: Any, second: Any) -> Any:
    """Both hook groups as one; either may be missing."""
    from comfy.hooks import HookGroup

    return HookGroup.combine_all_hooks([first, second])
