"""Whether factors fit a connected MODEL, checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...metalora_core.chain import ChainFactors
from ...metalora_core.errors import IncompatibleBaseModel
from .host.targets import describe, targets_of


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


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
