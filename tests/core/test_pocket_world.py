"""The small world: its splits, its pictures, its words."""

from __future__ import annotations

import pytest
import torch

from metalora_core.errors import InvalidOptions
from metalora_core.pocket.making.dataset import PhotoPlan, rendered_photos
from metalora_core.pocket.text import SPARE_FIRST, TOKENS, VOCABULARY, tokenize, words_of
from metalora_core.pocket.world.factors import (
    DOMAINS,
    FACTORS,
    draw_subject,
    draw_subjects,
    identity_error,
    slices,
    vector_size,
)
from metalora_core.pocket.world.looks import looks
from metalora_core.pocket.world.render import render
from metalora_core.pocket.world.scenes import Scene, draw_scenes, scene_truth


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_never_meet(domain):
    seeds = [
        {subject.seed for subject in draw_subjects(domain, split, 200)} for split in ("train", "validation", "test")
    ]
    assert not (seeds[0] & seeds[1] or seeds[0] & seeds[2] or seeds[1] & seeds[2])


def test_an_index_outside_its_split_is_refused():
    with pytest.raises(InvalidOptions, match="outside"):
        draw_subject("avatars", "train", 10_000_000)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_subject_is_its_seed(domain):
    first, again, other = (draw_subject(domain, "validation", i) for i in (3, 3, 4))
    assert torch.equal(first.vector, again.vector)
    assert not torch.equal(first.vector, other.vector)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_vector_holds_values_and_one_choice_of_each_category(domain):
    for subject in draw_subjects(domain, "validation", 20):
        assert subject.vector.shape == (vector_size(domain),)
        assert subject.vector.min() >= 0 and subject.vector.max() <= 1
        for factor, place in zip(FACTORS[domain], slices(domain).values(), strict=True):
            if factor.kind == "category":
                assert sorted(subject.vector[place].tolist())[-2:] == [0, 1]


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_same_photo_is_the_same_picture_alone_or_in_a_batch(domain):
    subjects, scenes = draw_subjects(domain, "validation", 3), draw_scenes(domain, 3, seed=1)
    together = render(subjects, scenes)
    alone = render(subjects[1:2], scenes[1:2])
    assert together.shape == (3, 3, 128, 128)
    assert together.min() >= 0 and together.max() <= 1
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_background_is_the_one_that_was_asked_for(domain):
    scenes = [Scene(background="red"), Scene(background="blue")]
    red, blue = render(draw_subjects(domain, "validation", 1) * 2, scenes)
    assert red[0, 2, 2] > 2 * red[2, 2, 2]
    assert blue[2, 2, 2] > 2 * blue[0, 2, 2]


@pytest.mark.parametrize("domain", DOMAINS)
def test_identity_outweighs_the_scene(domain):
    """Two photos of one subject in like scenes are nearer than two subjects in the very same scene."""
    one, other = draw_subjects(domain, "validation", 2)
    calm, again = Scene(jitter=1), Scene(jitter=2)
    base, same, different = render([one, one, other], [calm, again, calm])
    assert (base - same).square().mean() < (base - different).square().mean()


def test_mixed_domains_are_refused():
    subjects = [draw_subject("avatars", "validation", 0), draw_subject("products", "validation", 0)]
    with pytest.raises(ValueError, match="2 domains"):
        render(subjects, [Scene(), Scene()])


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_word_of_a_caption_is_known_and_none_is_cut(domain):
    for subject, scene in zip(draw_subjects(domain, "validation", 50), draw_scenes(domain, 50, 3), strict=True):
        tokens = tokenize(scene.caption(domain, subject.class_word))
        assert max(tokens) < SPARE_FIRST
        assert tokens[-1] == 0 and len(tokens) == TOKENS


def test_a_trigger_takes_a_spare_place_and_shifts_the_rest():
    plain = tokenize("photo of a person, smiling")
    called = tokenize("photo of a ohwx person, smiling")
    assert called[3] >= SPARE_FIRST
    assert called[:3] + called[4:] == plain[:-1]


def test_scene_numbers_follow_the_words():
    left, right = (scene_truth(Scene(turn=turn), "avatars") for turn in ("left", "right"))
    assert left[0] < 0 < right[0]
    assert torch.equal(left[1:], right[1:])
    assert len(scene_truth(Scene(), "products")) == 7


@pytest.mark.parametrize("domain", DOMAINS)
def test_identity_error_counts_differences(domain):
    one, other = draw_subjects(domain, "validation", 2)
    assert identity_error(one.vector, one.vector, domain) == 0
    mistake = identity_error(other.vector, one.vector, domain)
    assert 0 < mistake <= 1
    batch = identity_error(torch.stack([one.vector, other.vector]), one.vector, domain)
    torch.testing.assert_close(batch, torch.stack([torch.zeros(()), mistake]))


def test_photos_that_were_removed_are_rendered_again(tmp_path):
    plan = PhotoPlan("products", "validation", subjects=1, photos=1)
    first = rendered_photos(plan, tmp_path).copy()
    (tmp_path / plan.file_name).unlink()

    assert (rendered_photos(plan, tmp_path) == first).all()
    assert first.any()


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_look_is_spelled_in_known_words(domain):
    phrases = [phrase for subject in draw_subjects(domain, "validation", 50) for phrase in looks(subject)]
    assert {word for phrase in phrases for word in words_of(phrase)} <= set(VOCABULARY)


def test_a_factor_that_no_photo_shows_is_the_same_for_all():
    where = slices("products")
    unmarked = [s for s in draw_subjects("products", "validation", 50) if s.vector[where["mark_kind"]][0] == 1]
    assert unmarked
    assert all(bool((s.vector[where["mark"]] == 0.5).all()) for s in unmarked)


def test_a_mirror_image_swaps_left_and_right_in_pose_and_light_alone():
    scene = Scene(turn="left", light="right", tilt="up", background="blue", expression="sad")
    assert scene.mirrored().words("avatars") == "sad, looking right, head up, light from left, blue background"
    assert scene.mirrored().mirrored() == scene
