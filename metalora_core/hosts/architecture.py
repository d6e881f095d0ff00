"""What a family's own file gives the diffusers host: how the model is called, and how a lone file becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from torch import Tensor, nn

from ..errors import InvalidOptions
from ..model.families import Base, Family, family_of_denoiser
from ..model.host import Conditioning

__all__ = ["Architecture", "Denoiser", "Naming", "architecture_of", "base_of", "count", "family_of", "require"]

Builder = Callable[[Mapping[str, Tensor]], nn.Module]
"""A model of the sizes that a file's tensors have; it need not have their values."""


class Denoiser(Protocol):
    """A call of the model; noisy (B, C, h, w), t (B,) in the objective's unit, result like noisy."""

    def __call__(self, model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...


@dataclass(frozen=True)
class Naming:
    """Names of the original checkpoint that follow from a model's configuration.

    Args:
        keys: A model to every key that its checkpoint may have.
        seeds: Names of some layers to keys from which a converter sees how large the model is.
        config: Names of some layers to the configuration, as far as a converter asks.
    """

    keys: Callable[[nn.Module], list[str]]
    seeds: Callable[[Iterable[str]], list[str]]
    config: Callable[[Iterable[str]], Mapping[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """The code of one family.

    Args:
        denoise: One prediction.
        encode: A pipeline and prompts to conditioning.
        builders: A key that only this kind of file has, to what builds its model.
        naming: How the original checkpoint names layers, where renaming parts of diffusers' names does not say it.
        base: Which of the family's bases a model is; None for the only one.
        steady: Wraps a training in which the model's inputs keep their sizes.
    """

    denoise: Denoiser
    encode: Callable[[Any, list[str]], Conditioning]
    builders: Mapping[str, Builder] = field(default_factory=dict)
    naming: Naming | None = None
    base: Callable[[nn.Module], Base] | None = None
    steady: Callable[[Any], AbstractContextManager[None]] = lambda _: nullcontext()


def family_of(model: nn.Module) -> Family:
    """Family of a denoiser.

    Raises:
        IncompatibleBaseModel: If the model is of a class that no family has.
    """
    return family_of_denoiser(type(model).__name__)


def architecture_of(family: Family) -> Architecture | None:
    """The code of a family, from the file with its name; None if its pipeline is asked instead."""
    if find_spec(f"{__package__}.{family.name}") is None:
        return None
    return import_module(f".{family.name}", __package__).ARCHITECTURE


def base_of(model: nn.Module) -> Base:
    """Which base of its family a denoiser is."""
    family = family_of(model)
    code = architecture_of(family)
    return code.base(model) if code and code.base else family.bases[0]


def require(conditioning: Conditioning, *names: str) -> None:
    """Raise `InvalidOptions` unless the conditioning has the entries that the architecture needs."""
    missing = [name for name in names if name not in conditioning]
    if missing:
        raise InvalidOptions(
            f"The conditioning has {sorted(conditioning)}; this model also needs {missing}. Encode the prompts with "
            "this model's own text encoders."
        )


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered blocks a state has below a prefix."""
    return len({key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)})
