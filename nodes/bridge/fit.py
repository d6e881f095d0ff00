"""Whether factors fit a connected MODEL, checked before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ...metalora_core.chain import ChainFactors
from ...metalora_core.errors import IncompatibleBaseModel
from ...metalora_core.model.base_weights import SAMPLE, other_weights, weights_sample
from .host.targets import PREFIX, describe, targets_of
from .learned import LearnedIdentity


def require_fit(model: Any, factors: Mapping[str, ChainFactors], what: str) -> None:
    """Refuse a MODEL that factors were not made for.

    Args:
        model: ComfyUI's MODEL.
        factors: Chain per target name.
        what: Name of the factors in messages, e.g. "identity 'ohwx'".

    Raises:
        IncompatibleBaseModel: With every difference that was found, the first three by name.
    """
    shapes = {target.name: target.shape for target in targets_of(model)}
    findings: list[str] = []
    for name, chain in factors.items():
        wanted = (chain.up.shape[-2], *chain.meta_down.shape[1:])
        if name not in shapes:
            findings.append(f"{name} does not exist")
        elif shapes[name] != wanted:
            findings.append(f"{name} is {_size(shapes[name])}, not {_size(wanted)}")
    if findings:
        more = f" and {len(findings) - 3} more" if len(findings) > 3 else ""
        raise IncompatibleBaseModel(
            f"{what} does not fit the connected model ({describe(model)}): {len(findings)} of {len(factors)} layers "
            f"differ: {'; '.join(findings[:3])}{more}. Connect the model that it was made for, or learn the photos "
            "again on this one."
        )


def weights_note(model: Any, learned: LearnedIdentity) -> str:
    """One line if a MODEL is another finetune than the one that an identity was learned on; empty if not."""
    identity = learned.identity
    name, recorded = identity.metadata.name or learned.words, identity.metadata.metrics.get(SAMPLE)
    return other_weights(_Unpatched(model), targets_of(model), identity.layers, recorded, f"identity {name!r}")


def base_weights(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """A record of a MODEL's weights for `weights_note`, without the LoRAs in them."""
    return {SAMPLE: weights_sample(_Unpatched(model), targets_of(model), names)}


class _Unpatched:
    """Layers of a MODEL as they were before a LoRA was loaded into them."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def get_submodule(self, target: str) -> Any:
        kept = self._model.backup.get(f"{PREFIX}{target}.weight")
        found = self._model.model.diffusion_model.get_submodule(target)
        return found if kept is None else SimpleNamespace(weight=kept.weight)


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
