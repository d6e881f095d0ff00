"""Laws of the scores that embedders give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metalora_core.errors import InvalidOptions, UnreadableFile
from metalora_core.evaluation.embedders import load_embedder
from metalora_core.evaluation.photo_folders import FolderOptions, embedded_scores


def stand_in() -> Any:
    """Pictures are their own vectors; every prompt is as likely as any other."""

    def look(pictures: Tensor) -> Tensor:
        return F.normalize(pictures.flatten(1), dim=-1)

    def likelihoods(pictures: Tensor, prompts: list[str]) -> Tensor:
        return torch.full((len(pictures), len(prompts)), 1 / len(prompts))

    return SimpleNamespace(pictures=look, likelihoods=likelihoods)


def test_true_photos_have_no_identity_error_and_the_reference_again_is_copied() -> None:
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(5, 3, 4, 4, generator=generator)
    asked, eyes = ("one", "two"), stand_in()
    again = embedded_scores(tuple(photos[:1]), photos[1:], asked, eyes, eyes, photos[:1].expand(2, -1, -1, -1), 1)
    assert again.copying == pytest.approx(1, abs=1e-5) and again.diversity == pytest.approx(0, abs=1e-4)
    assert again.prompt_error == pytest.approx(0.5)
    near = photos[1:].mean(0, keepdim=True).expand(2, -1, -1, -1)
    true = embedded_scores(tuple(photos[:1]), photos[1:], asked, eyes, eyes, near, 1)
    assert true.identity_error < 0 < again.identity_floor


def test_what_cannot_work_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"no config\.json"):
        load_embedder(tmp_path)
    options = FolderOptions(tmp_path, tmp_path, tmp_path, prompts=("a dog",), held_out=0)
    with pytest.raises(InvalidOptions, match=r"does not name.*at least 2.*held_out is 0"):
        options.check()
