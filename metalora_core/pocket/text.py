"""The pocket text encoder: whole words in, 26 context vectors of 64 numbers and a pooled vector of 32 out.

A word that the small world does not use (a trigger, a name) falls into one of 64 spare places by its hash. During
training such words stand in front of the class word at random, so a trigger disturbs nothing before it is learned.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .world.factors import PRODUCT_KINDS
from .world.looks import LOOK_WORDS
from .world.scenes import BACKGROUNDS, EXPRESSIONS

TOKENS = 26
CONTEXT_WIDTH = 64
POOLED_WIDTH = 32
SPARE_PLACES = 64

_GRAMMAR = (
    "photo of a person looking facing seen turned the head at eye level up down from below above light left right"
)
_WORDS = (*_GRAMMAR.split(), "front", *EXPRESSIONS, "background", *PRODUCT_KINDS, *BACKGROUNDS, *LOOK_WORDS)
PAD = 0
VOCABULARY: dict[str, int] = {word: i + 1 for i, word in enumerate(dict.fromkeys(_WORDS))}
SPARE_FIRST = len(VOCABULARY) + 1
VOCABULARY_SIZE = SPARE_FIRST + SPARE_PLACES


def token_of(word: str) -> int:
    """The number of one lower-case word."""
    known = VOCABULARY.get(word)
    if known is not None:
        return known
    return SPARE_FIRST + hashlib.sha256(word.encode()).digest()[0] % SPARE_PLACES


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; punctuation is dropped."""
    return re.findall(r"[^\W_]+", text.lower())


def tokenize(text: str) -> list[int]:
    """Text → exactly 26 token numbers: words in order, longer texts cut, shorter ones padded with 0."""
    words = words_of(text)[:TOKENS]
    return [token_of(word) for word in words] + [PAD] * (TOKENS - len(words))


class WordTextEncoder(nn.Module):
    """Two transformer layers over word embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY_SIZE, CONTEXT_WIDTH)
        self.places = nn.Parameter(torch.randn(TOKENS, CONTEXT_WIDTH) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(CONTEXT_WIDTH, 2, 2 * CONTEXT_WIDTH, 0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(CONTEXT_WIDTH)
        self.pool = nn.Linear(CONTEXT_WIDTH, POOLED_WIDTH)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token numbers (B, 26) → context (B, 26, 64) and pooled (B, 32)."""
        x = self.words(tokens) + self.places
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return x, self.pool(x.mean(dim=1))

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts → conditioning of the pocket Flux: "context" and "pooled"."""
        tokens = torch.tensor([tokenize(text) for text in texts], device=self.places.device)
        context, pooled = self(tokens)
        return {"context": context, "pooled": pooled}
