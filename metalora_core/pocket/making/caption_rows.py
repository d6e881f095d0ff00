"""The captions that the base model is trained on, varied in every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..text import PAD, SPARE_FIRST, SPARE_PLACES, TOKENS, token_of, words_of


@dataclass(frozen=True)
class CaptionOptions:
    """How captions are varied."""

    drop: float = 0.1  # share of samples that see the empty prompt, for guidance
    add_trigger: float = 0.4  # share of samples with an unknown word before the class word
    describe: float = 0.6  # share of samples with a caption that also says what the subject looks like
    shorten: float = 0.2  # share of samples with about half of the scene left out of the caption


class CaptionRows:
    """Token rows of the training captions, varied in every batch.

    A share of them says what the subject looks like, in a random choice and order of phrases; a share leaves parts of
    the scene out, as people do; a share has a random unknown word before the class word, so that a trigger disturbs
    nothing before it is learned; a share is empty.
    """

    def __init__(self, captions: Sequence[str], looks: Sequence[Sequence[str]], options: CaptionOptions) -> None:
        self._captions = [[words_of(part) for part in caption.split(",")] for caption in captions]
        self._looks = [[words_of(phrase) for phrase in phrases] for phrases in looks]
        self._options = options
        if any(parts[0][:3] != ["photo", "of", "a"] for parts in self._captions):
            raise ValueError('Every caption has to begin with "photo of a", where triggers are inserted.')

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (B,) → token numbers (B, 26)."""
        lots = torch.rand(len(rows), 4, generator=generator).tolist()
        spare = torch.randint(SPARE_FIRST, SPARE_FIRST + SPARE_PLACES, (len(rows),), generator=generator).tolist()
        drawn: list[list[int]] = []
        for row, (empty, trigger, describe, shorten), unknown in zip(rows.tolist(), lots, spare, strict=True):
            what, *scene = self._captions[row]
            if shorten < self._options.shorten:
                kept = torch.rand(len(scene), generator=generator) < 0.5
                scene = [words for words, stays in zip(scene, kept.tolist(), strict=True) if stays]
            numbers = [token_of(word) for words in (what, *scene) for word in words]
            if describe < self._options.describe:
                for phrase in torch.randperm(len(self._looks[row]), generator=generator).tolist():
                    numbers += [token_of(word) for word in self._looks[row][phrase]]
            if trigger < self._options.add_trigger:
                numbers.insert(3, unknown)
            numbers = [] if empty < self._options.drop else numbers[:TOKENS]
            drawn.append(numbers + [PAD] * (TOKENS - len(numbers)))
        return torch.tensor(drawn)
