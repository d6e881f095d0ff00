"""Which weights a prior was made on: a few of them at fixed places, kept in its record and compared with a model's.

The layers of a model have to be the same, see `targets.fingerprint`. Its weights may be a finetune's, or the same in
fewer bits, and one line says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from .targets import Target

__all__ = ["SAMPLE", "Layers", "difference", "other_weights", "report_other_weights", "weights_sample"]

SAMPLE = "base_weights"
"""Where records keep a sample."""
_LAYERS, _VALUES = 16, 8
_LARGEST = 1e30  # of a weight in a record; a larger one is not a weight
_ROUNDING = 0.01  # 16 bits move weights by a few thousandths
_LOG = logging.getLogger(__name__)


class Layers(Protocol):
    """Where layers are found by their paths: a network, or a view of one that a LoRA has been patched into."""

    def get_submodule(self, target: str) -> Any:
        """The layer at a path; AttributeError if there is none."""
        ...


@torch.no_grad()
def weights_sample(model: Layers, targets: Iterable[Target], names: Iterable[str]) -> list[float]:
    """Weights of a model at places that depend only on its layers, so equal in every host and dtype but for rounding.

    Args:
        model: The network that parts' module paths are relative to.
        targets: Its targets.
        names: Layers that are trained; up to 16 of them are looked at.

    Returns:
        Up to 128 numbers; none if the weights are packed.
    """
    by_name = {target.name: target for target in targets}
    chosen = [by_name[name] for name in sorted(names) if name in by_name]
    chosen = chosen[:: max(1, len(chosen) // _LAYERS)][:_LAYERS]
    values = [_weight_at(model, target, place) for target in chosen for place in range(_VALUES)]
    known = [value for value in values if value is not None]
    return [float(f"{value:.4g}") for value in known] if len(known) == len(values) else []


def _weight_at(model: Layers, target: Target, place: int) -> float | None:
    columns = math.prod(target.shape[1:])
    row, column = divmod((2 * place + 1) * target.shape[0] * columns // (2 * _VALUES), columns)
    part = next(part for part in target.parts if part.start <= row < part.stop)
    try:
        weight: Any = getattr(model.get_submodule(part.module), "weight", None)
    except AttributeError:  # the injection says which layers are missing
        return None
    plain = isinstance(weight, Tensor) and type(weight.data) is Tensor and not weight.is_meta
    if not plain or weight.numel() != (part.stop - part.start) * columns:
        return None
    value = float(weight.detach().reshape(part.stop - part.start, columns)[row - part.start, column].float())
    return value if math.isfinite(value) else None


def difference(sample: list[float], recorded: list[float]) -> float | None:
    """Relative distance of two samples; None if they cannot be compared."""
    size = math.sqrt(sum(value * value for value in recorded))
    if not size or len(sample) != len(recorded):
        return None
    return math.dist(sample, recorded) / size


def other_weights(model: Layers, targets: Iterable[Target], names: Iterable[str], recorded: object, made: str) -> str:
    """One line if a model has other weights than those that something was made on; empty if not, or if unknown.

    Args:
        model: See `weights_sample`.
        targets: See `weights_sample`.
        names: See `weights_sample`.
        recorded: The sample in a record; anything else is passed over, as records of earlier releases have none.
        made: What was made on them, such as "prior 'avatars' (FLUX.1-dev)".
    """
    if not isinstance(recorded, list) or not all(map(_is_weight, cast("list[object]", recorded))):
        return ""
    found = difference(weights_sample(model, targets, names), cast("list[float]", recorded))
    if found is None or found <= _ROUNDING:
        return ""
    return (
        f"The model's weights differ by {100 * found:.0f} % from those that the {made} was made on, as with a "
        "finetune, another version, or fewer bits. It is used anyway; the likeness may be lower."
    )


def _is_weight(value: object) -> bool:
    return type(value) in (int, float) and abs(cast(float, value)) < _LARGEST


def report_other_weights(
    model: Layers, targets: Iterable[Target], names: Iterable[str], recorded: object, made: str
) -> None:
    """Log the line of `other_weights`, if there is one."""
    line = other_weights(model, targets, names, recorded, made)
    if line:
        _LOG.warning(line)
