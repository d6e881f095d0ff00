"""What an adaptation is shown: mirrored photos and moved windows."""

from __future__ import annotations

from dataclasses import replace

import torch
from core.toy_host import ReadingHost, ToyHost

from metalora_core.photos.training_set import GivenCaption, TrainingSet, chosen_flip, mirror_caption, with_mirrored
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.photo_batches import PhotoBatches


def _photos() -> TrainingSet:
    images = tuple(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(5)))
    captions = tuple(f"photo of a ohwx blob, looking left, view {i}" for i in range(2))
    return TrainingSet(images, captions, "blob", "ohwx", ("a", "b"))


def test_flip_mirrors_words_and_crop_moves_the_window():
    assert mirror_caption("Left eye, light from the right, leftover") == "Right eye, light from the left, leftover"
    host = ReadingHost()
    batches = PhotoBatches(host, _photos(), AdaptationOptions(flip=True, crop_px=2))
    drawn = [batches.draw(step) for step in range(12)]
    assert {batch.latents.shape for batch in drawn} == {(1, 4, 2, 2)}
    assert {"left" in host.captions_of(batch)[0] for batch in drawn} == {True, False}
    assert len({batch.latents.sum().item() for batch in drawn}) > 4


def test_photos_with_the_same_words_bring_their_own_pictures_mirrored_with_the_photo():
    masks = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(6))
    captions = tuple(GivenCaption("photo of a ohwx blob", {"mask": mask}) for mask in masks)
    both = with_mirrored(replace(_photos(), captions=captions))
    assert [str(text) for text in both.captions] == ["photo of a ohwx blob"] * 4
    shown = [text.pictures["mask"] for text in both.captions if isinstance(text, GivenCaption)]
    assert torch.equal(torch.stack(shown[::2]), masks) and torch.equal(torch.stack(shown[1::2]), masks.flip(-1))
    host = ReadingHost()
    batches = PhotoBatches(host, replace(_photos(), captions=captions), AdaptationOptions(flip=True))
    drawn = [host.captions_of(batches.draw(step))[0] for step in range(12)]
    assert len({id(caption) for caption in drawn}) == 4, "each view is encoded with its own pictures"


def test_mirrored_photos_follow_their_originals_and_change_nothing_else():
    plain = _photos()
    both = with_mirrored(plain)
    assert torch.equal(torch.stack(both.images[::2]), torch.stack(plain.images))
    assert torch.equal(torch.stack(both.images[1::2]), torch.stack(plain.images).flip(-1))
    assert both.captions[::2] == plain.captions
    assert both.captions[1::2] == tuple(map(mirror_caption, plain.captions))
    assert both.photo_hashes == ("a", "a", "b", "b")
    both.check(ToyHost().downscale, 1)
    assert with_mirrored(replace(plain, one_sided=True)).images == plain.images


def test_things_with_a_handle_are_mirrored_only_if_asked():
    choices = [
        (choice, preset, word) for word in ("person", "Mug") for choice in ("on", "auto", "off") for preset in (1, 0)
    ]
    flips = [chosen_flip(choice, bool(preset), word) for choice, preset, word in choices]
    assert flips == [True, True, True, False, False, False, True, True, False, False, False, False]


def test_a_trigger_is_no_side():
    text = "RIGHT: Right Guard seen from the left, 左を向く, bright"
    assert mirror_caption(text, "Right Guard") == "LEFT: Right Guard seen from the right, 右を向く, bright"
