"""Which layers of a model should get a delta, judged by a trial pass and not by the family's name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LayerFacts", "dead_layers", "role_of", "structural_targets"]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class LayerFacts:
    """What one pass with one latent saw of a layer.

    Args:
        shape: Of its weight, (out, in) or (out, in, kh, kw).
        rows: Vectors that it was given; 1 for a modulation or an embedded timestep, 0 if it was never called.
        learns: Whether a delta there got a gradient.
    """

    shape: tuple[int, ...]
    rows: int
    learns: bool


def role_of(name: str) -> str:
    """A layer's name without the numbers of its blocks: the same in every block that is built alike."""
    return _NUMBER.sub("N", f".{name}")[1:]


def dead_layers(facts: Mapping[str, LayerFacts]) -> tuple[str, ...]:
    """Layers that no delta can reach, such as the text half of a last block.

    An expert that was sent no token is not dead: its like in another place learned.
    """
    living = {role_of(name) for name, fact in facts.items() if fact.learns}
    return tuple(name for name, fact in facts.items() if not fact.learns and (fact.rows or role_of(name) not in living))


def structural_targets(facts: Mapping[str, LayerFacts]) -> tuple[str, ...]:
    """The linear layers of repeated blocks that see tokens and learn: attention and feed-forward of any architecture.

    Left out are modulations (one vector a sample), embedders and final layers (outside the blocks), and lists of single
    layers, such as a projection for each text encoder. A model without repeated blocks gives every living linear layer.

    Args:
        facts: Name to facts, of every layer that can be adapted.

    Returns:
        Names in the order of the facts.
    """
    dead = set(dead_layers(facts))
    blocks: dict[str, list[str]] = defaultdict(list)
    for name, fact in facts.items():
        number = _NUMBER.search(name)
        if number and name not in dead and len(fact.shape) == 2 and fact.rows != 1:
            blocks[name[: number.end()]].append(name)
    full = {block: names for block, names in blocks.items() if len(names) > 1}
    lists = defaultdict[str, list[str]](list)
    for block in full:
        lists[block.rsplit(".", 1)[0]].append(block)
    repeated = [block for alike in lists.values() if len(alike) > 1 for block in alike] or list(full)
    chosen = {name for block in repeated for name in full[block]}
    if not chosen:
        chosen = {name for name, fact in facts.items() if len(fact.shape) == 2 and name not in dead}
    return tuple(name for name in facts if name in chosen)
