"""Inputs of nodes that take ComfyUI's lists, so that photos of different sizes come together as one set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...metalora_core.errors import InvalidOptions
from .image_tensors import from_image


def photo_list(images: Sequence[Tensor] | None) -> list[Tensor]:
    """Every picture of every IMAGE in a list input, (3, H, W) each; sizes may differ."""
    return [picture for image in images or () for picture in from_image(image)]


def one_each(lists: Mapping[str, Sequence[Any] | None]) -> dict[str, Any]:
    """The single value of every list input; an empty input is None.

    Raises:
        InvalidOptions: If a list has several different values where the node takes one.
    """
    given = {name: values for name, values in lists.items() if values}
    findings = [f"{name} got {len(values)} different values" for name, values in given.items() if _differ(values)]
    if findings:
        raise InvalidOptions(f"{'; '.join(findings)}. The photos become one set, so connect one value.")
    return {name: given[name][0] if name in given else None for name in lists}


def _differ(values: Sequence[Any]) -> bool:
    # Only plain values are compared by what they say; tensors inside a prior cannot be asked whether they are equal.
    plain = all(isinstance(value, (str, int, float)) for value in values)
    return len({value if plain else id(value) for value in values}) > 1


def caption_lines(items: Sequence[str], photos: int) -> tuple[str, ...]:
    """Caption lines of a list input: one line per photo of a single text, or one item per photo of a list.

    Args:
        items: A widget's text as the only item, or one text per photo from a dataset node, lines and all.
        photos: How many there are.
    """
    if len(items) == 1 and photos != 1:
        return tuple(line for line in items[0].splitlines() if line.strip())
    return tuple(" ".join(item.split()) for item in items)
