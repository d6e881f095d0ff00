"""Optimizers by name; those of other packages are imported on request."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from ..checks import optional
from ..errors import InvalidOptions

__all__ = [
    "OPTIMIZERS",
    "copied_state",
    "evaluation_mode",
    "make_optimizer",
    "restore_optimizer",
    "scale_learning_rates",
    "training_mode",
]

_TORCH: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
_OTHERS = {
    "prodigy": ("prodigyopt", "Prodigy"),
    "schedulefree_adamw": ("schedulefree", "AdamWScheduleFree"),
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
}
_MOMENTS = {"exp_avg", "exp_avg_sq", "momentum_buffer"}
OPTIMIZERS: tuple[str, ...] = (*_TORCH, *_OTHERS)
"""Names that ``make_optimizer`` knows."""


def make_optimizer(name: str, param_groups: Sequence[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    """Build an optimizer.

    Args:
        name: One of ``OPTIMIZERS``.
        param_groups: As torch takes them; each group has its own ``lr``.
        options: More constructor arguments, e.g. ``weight_decay``.

    Raises:
        InvalidOptions: If the name is unknown.
        MissingDependency: If its package is not installed; the text has the pip line.
    """
    if name in _TORCH:
        return _TORCH[name](param_groups, fused=True, **options)
    if name not in _OTHERS:
        raise InvalidOptions(f"Unknown optimizer {name!r}; choose one of {', '.join(OPTIMIZERS)}.")
    return optional(_OTHERS[name][0], f"The optimizer {name!r}", _OTHERS[name][1])(param_groups, **options)


def scale_learning_rates(optimizer: torch.optim.Optimizer, base: Iterable[float], factor: float) -> None:
    """Set every group's learning rate to its base rate times the schedule's factor."""
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = rate * factor


def copied_state(optimizer: torch.optim.Optimizer, device: torch.device | None = None) -> dict[str, Any]:
    """A copy of an optimizer's state, for `restore_optimizer`.

    Args:
        optimizer: Which.
        device: Where the copies of its tensors should be; None for where they are.
    """
    saved = optimizer.state_dict()
    state = {
        number: {n: v.to(device, copy=True) if isinstance(v, torch.Tensor) else v for n, v in values.items()}
        for number, values in saved["state"].items()
    }
    return {"state": state, "param_groups": copy.deepcopy(saved["param_groups"])}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state that an optimizer with the same options had.

    Args:
        optimizer: Whose parameters it belongs to.
        state: From `copied_state` or a checkpoint; copied.

    Raises:
        ValueError: If it has other groups or shapes.
    """
    # A copy: torch keeps the given tensors, and the next step would write into the saved ones.
    optimizer.load_state_dict(copy.deepcopy(dict(state)))
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        values = optimizer.state.get(parameter, {})
        for name in _MOMENTS & values.keys():
            if values[name].shape != parameter.shape:
                raise ValueError(
                    f"{name} of the optimizer has shape {tuple(values[name].shape)}, not {tuple(parameter.shape)}"
                )


def training_mode(optimizer: torch.optim.Optimizer) -> None:
    """Switch a schedule-free optimizer's parameters to the point where gradients are taken; else nothing."""
    switch: Callable[[], Any] | None = getattr(optimizer, "train", None)
    if switch is not None:
        switch()


def evaluation_mode(optimizer: torch.optim.Optimizer) -> None:
    """Switch a schedule-free optimizer's parameters to their average, which is the result; else nothing."""
    switch: Callable[[], Any] | None = getattr(optimizer, "eval", None)
    if switch is not None:
        switch()
