"""Captions as ComfyUI's conditioning objects: known to the training loops by number, joined as its sampler does."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....metalora_core.model.host import Conditioning

Conds = Mapping[str, Any]
"""Name to ComfyUI's COND object, one caption."""

KEY = "caption"
_JOINED_KEPT = 16


def encode_prompt(clip: Any, prompt: str, reference: Tensor | None = None) -> list[Any]:
    """One prompt as ComfyUI's CONDITIONING, in either text encoder interface (0.3 and later).

    Args:
        clip: The text encoder.
        prompt: The words, or a `GivenCaption`.
        reference: Picture (3, H, W) that encoders with eyes read together with the prompt.
    """
    seen = {"images": [reference.movedim(0, -1)[None]]} if reference is not None and _sees(clip) else {}
    return clip.encode_from_tokens_scheduled(clip.tokenize(str(prompt), **seen))


def _sees(clip: Any) -> bool:
    tokenize = getattr(getattr(clip, "tokenizer", None), "tokenize_with_weights", None)
    return tokenize is not None and "images" in inspect.signature(tokenize).parameters


def model_conds(
    base: Any,
    entry: list[Any],
    noise: Tensor,
    device: torch.device,
    guidance: float,
    given: Mapping[str, Any] | None = None,
) -> Conds:
    """What the model makes of one CONDITIONING entry.

    Args:
        base: ComfyUI's BaseModel.
        entry: ``[cross_attn, options]``.
        noise: A latent of the trained size as the model takes it; size-conditioned models read it.
        device: Where the model computes.
        guidance: Guidance that distilled models are trained at, unless the entry names one.
        given: Entries that core's nodes add for edit and inpaint models.
    """
    cross_attn, options = entry
    # Some models scale what they are given in place.
    own = {name: _own(value, device) for name, value in (given or {}).items()}
    parameters = {
        "guidance": guidance,
        **options,
        **own,
        "cross_attn": cross_attn,
        "device": device,
        "noise": noise,
        "latent_image": noise,
        "prompt_type": "positive",
        "width": noise.shape[-1] * 8,
        "height": noise.shape[-2] * 8,
    }
    return base.extra_conds(**parameters)


class Captions:
    """Every caption that was encoded, on the CPU, and the batches that were lately joined from them.

    Args:
        device: Where joined batches are needed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._numbers: dict[str, int] = {}
        self._kept: list[Conds] = []
        self._joined: OrderedDict[Any, dict[str, Any]] = OrderedDict()

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._numbers

    def keep(self, prompt: str, conds: Conds) -> None:
        """Remember what the model takes for a prompt."""
        self._numbers[prompt] = len(self._kept)
        cpu = torch.device("cpu")
        self._kept.append({name: type(cond)(_own(cond.cond, cpu)) for name, cond in conds.items()})

    def numbered(self, prompts: Sequence[str]) -> Conditioning:
        """Kept prompts as the training loops carry them: their numbers, (B,)."""
        return {KEY: torch.tensor([self._numbers[prompt] for prompt in prompts])}

    def groups(self, conditioning: Conditioning) -> list[list[int]]:
        """Rows of a batch that the model can take in one pass."""
        numbers = _numbers_in(conditioning)
        groups: list[list[int]] = []
        for row, number in enumerate(numbers):
            fitting = (group for group in groups if self._joinable(numbers[group[0]], number))
            group = next(fitting, None)
            if group is None:
                groups.append([row])
            else:
                group.append(row)
        return groups

    def _joinable(self, first: int, other: int) -> bool:
        if first == other:
            return True
        a, b = self._kept[first], self._kept[other]
        return a.keys() == b.keys() and all(a[name].can_concat(b[name]) for name in a)

    def joined(self, conditioning: Conditioning, size: Sequence[int]) -> dict[str, Any]:
        """What the model is called with for a batch of one group.

        Args:
            conditioning: Rows of one group.
            size: Of the latents behind their channels; what has the latents' shape is cut to it.
        """
        key = (*_numbers_in(conditioning), *size)
        if key in self._joined:
            self._joined.move_to_end(key)
            return self._joined[key]
        area = (*size, *[0] * len(size))
        rows = [self._kept[number] for number in _numbers_in(conditioning)]
        whole = {name: [row[name].process_cond(batch_size=1, area=area) for row in rows] for name in rows[0]}
        self._joined[key] = {name: _own(c[0].concat(c[1:]), self._device) for name, c in whole.items()}
        if len(self._joined) > _JOINED_KEPT:
            self._joined.popitem(last=False)
        return self._joined[key]


def _numbers_in(conditioning: Conditioning) -> list[int]:
    return conditioning[KEY].tolist()


def _own(value: Any, device: torch.device) -> Any:
    """The same with tensors that autograd may save; they were encoded in inference mode."""
    if isinstance(value, Tensor):
        with torch.inference_mode(False):
            return value.detach().clone().to(device)
    return [_own(item, device) for item in value] if isinstance(value, list) else value
