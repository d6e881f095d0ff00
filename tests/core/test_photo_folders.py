"""Laws of the scores that embedders give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metalora_core.commands.bench_folder import own_rates, prompts_in, require_rates
from metalora_core.errors import InvalidOptions, UnreadableFile
from metalora_core.evaluation.subjects.embedders import load_embedder
from metalora_core.evaluation.subjects.folders import FolderOptions, embedded_scores
from metalora_core.evaluation.subjects.scores import likeness


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


def test_other_photos_of_the_subject_set_the_scale_of_likeness() -> None:
    def vectors(count: int, seed: int) -> Tensor:
        spread = torch.randn(count, 24, generator=torch.Generator().manual_seed(seed))
        return F.normalize(torch.ones(24) + 0.8 * spread, dim=-1)

    held_out, learned = vectors(400, 1), vectors(4, 2)
    as_good = likeness(vectors(400, 3), held_out, learned)
    assert sum(as_good.error) / 400 == pytest.approx(0, abs=0.01)
    assert sum(as_good.copying) / 400 == pytest.approx(0, abs=0.03)
    assert as_good.similarity == pytest.approx([as_good.ceiling - error for error in as_good.error])
    again = likeness(learned, held_out, learned)
    assert again.copying == pytest.approx([1.0] * 4, abs=1e-5)
    stranger = likeness(-held_out[:2], held_out)
    assert min(stranger.error) > 1 and stranger.copying == ()


def test_one_held_out_photo_is_compared_with_the_learned_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    photos = F.normalize(torch.rand(3, 8, generator=generator), dim=-1)
    assert likeness(photos[:1], photos[2:], photos[:2]).ceiling == pytest.approx(
        float((photos[2:] @ photos[:2].mT).mean())
    )
    alone = likeness(photos[:1], photos[2:])
    assert alone.ceiling == 1 and alone.similarity == pytest.approx([float(photos[0] @ photos[2])])


def test_what_cannot_work_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"config\.json is missing"):
        load_embedder(tmp_path)
    options = FolderOptions(tmp_path, tmp_path, tmp_path, prompts=("a dog",), held_out=0)
    with pytest.raises(InvalidOptions, match=r"does not contain.*at least 2.*held_out is 0"):
        options.check()


def test_a_pooler_that_the_file_lacks_is_not_used(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTForImageClassification(ViTConfig(**size, image_size=32, patch_size=16))
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, two = (load_embedder(tmp_path) for _ in range(2))
    assert torch.equal(one.pictures(pictures), two.pictures(pictures))


def test_given_rates_replace_all_that_was_tuned_for_their_methods() -> None:
    known = {"plain_lora@1": 1.0, "plain_lora@1@avatars": 2.0, "meta_warm@1": 3.0}
    assert own_rates("plain_lora=1e-4", known) == {"plain_lora@1": 1e-4, "meta_warm@1": 3.0}
    assert own_rates("", known) == known
    for wrong in ("plain_lora=nan", "plain_lora", "plain_lora=-1", "unknown=1"):
        with pytest.raises(InvalidOptions):
            own_rates(wrong, known)


def test_methods_without_a_rate_for_the_users_model_are_refused_by_name() -> None:
    require_rates(("base_model", "plain_lora"), {"plain_lora@1": 1e-4})
    with pytest.raises(InvalidOptions, match=r"meta_warm: no learning rate .*--rates"):
        require_rates(("plain_lora", "meta_warm"), {"plain_lora@1": 1e-4})


def test_a_prompt_file_of_another_encoding_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("photo of {subject}, caf\u00e9\n\n".encode("latin-1"))
    with pytest.raises(InvalidOptions, match="UTF-8"):
        prompts_in(path)
    path.write_text("photo of {subject}, {red} hat\n\n", encoding="utf-8")
    assert prompts_in(path) == ("photo of {subject}, {red} hat",)
