"""Targets: the layers that get a delta, under ComfyUI's names for every architecture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import InvalidOptions

__all__ = [
    "Part",
    "Target",
    "choose_targets",
    "fingerprint",
    "rank_for",
]


@dataclass(frozen=True)
class Part:
    """A host module that computes some output rows of a target.

    Args:
        module: Dotted path below the host's model.
        start: First row of the target's output that the module computes.
        stop: One past the last row.
    """

    module: str
    start: int
    stop: int


@dataclass(frozen=True)
class Target:
    """One adapted layer.

    Args:
        name: ComfyUI's module path below ``diffusion_model.``, e.g. ``double_blocks.0.img_attn.qkv``.
        shape: Weight shape of the whole layer, (out, in) or (out, in, kh, kw).
        parts: Host modules that compute it; one part with the same path where the host is ComfyUI itself.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def choose_targets(
    targets: Iterable[Target], include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> tuple[Target, ...]:
    """Choose targets by shell-style patterns on their names.

    Args:
        targets: All targets a host offers.
        include: A target is taken if any of these patterns matches its name.
        exclude: And none of these.

    Returns:
        The chosen targets in the host's order.

    Raises:
        InvalidOptions: If nothing is left; the message lists what there is.
    """
    offered = tuple(targets)
    chosen = tuple(
        target
        for target in offered
        if any(fnmatchcase(target.name, pattern) for pattern in include)
        and not any(fnmatchcase(target.name, pattern) for pattern in exclude)
    )
    if not chosen:
        names = [target.name for target in offered]
        shown = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
        raise InvalidOptions(
            f"No layer matches include={list(include)} without exclude={list(exclude)}. The model has {len(names)} "
            f"layers: {shown or 'none'}."
        )
    return chosen


def rank_for(name: str, default: int, by_pattern: Mapping[str, int] | None = None) -> int:
    """Rank of a target: the first matching pattern decides, else the default.

    Args:
        name: Target name.
        default: Rank where no pattern matches, at least 1.
        by_pattern: Shell-style pattern to rank, in order of precedence.

    Raises:
        InvalidOptions: If the rank that was found is below 1.
    """
    rank = next((r for pattern, r in (by_pattern or {}).items() if fnmatchcase(name, pattern)), default)
    if rank < 1:
        raise InvalidOptions(f"The rank of {name} is {rank}; it must be at least 1.")
    return rank


def fingerprint(targets: Iterable[Target]) -> str:
    """Fingerprint of a base model's targeted layers: SHA-256 over the sorted lines "name shape".

    Two models with equal fingerprints can exchange priors and identities, whatever their weights.
    """
    lines = sorted(f"{target.name} {'x'.join(map(str, target.shape))}" for target in targets)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
