"""The small world's models: the slim and the stored autoencoder, the shipped files, the readers."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from metalora_core.errors import UnreadableFile
from metalora_core.hosts.latents import load_latent_space
from metalora_core.model.families import FLUX
from metalora_core.model.generation import Request, generate_pictures
from metalora_core.pocket import load_pocket_host, load_pocket_prior, load_readers
from metalora_core.pocket.autoencoder import (
    SLIM_WIDTHS,
    decode,
    encode,
    make_autoencoder,
    narrow,
    to_taesd_names,
    widen,
)
from metalora_core.pocket.load import (
    AUTOENCODER_FILE,
    WEIGHTS,
    PocketMetadata,
    load_autoencoder,
    load_part,
    save_part,
)
from metalora_core.pocket.making.base_photos import TrainingPhotos, channel_gains, face_places
from metalora_core.pocket.making.caption_rows import CaptionOptions, CaptionRows
from metalora_core.pocket.making.latents_cache import patch_map
from metalora_core.pocket.making.patch_start import start_from_patches
from metalora_core.pocket.making.train_base import BaseOptions, noise_levels, place_weights, train_base
from metalora_core.pocket.making.train_prior import shipped_stages
from metalora_core.pocket.readers import error_floor, prompt_error
from metalora_core.pocket.text import PAD, SPARE_FIRST, token_of
from metalora_core.pocket.world.factors import DOMAINS, SPLIT_BASE, draw_subjects, identity_error
from metalora_core.pocket.world.render import render
from metalora_core.pocket.world.scenes import SCENE_GROUPS, Scene, draw_scenes, scene_truth

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def photos():
    return torch.cat([render(draw_subjects(d, "validation", 4), draw_scenes(d, 4, 9)) for d in DOMAINS])


@pytest.fixture(scope="module")
def slim(photos):
    torch.manual_seed(0)
    model = make_autoencoder(SLIM_WIDTHS)
    start_from_patches(model, photos)
    return model.requires_grad_(False)


def test_the_widened_autoencoder_computes_what_the_slim_one_does(slim, photos):
    wide = make_autoencoder()
    wide.load_state_dict(widen(slim))
    latents = encode(slim, photos[:2])
    torch.testing.assert_close(encode(wide, photos[:2]), latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(decode(wide, latents), decode(slim, latents), atol=1e-5, rtol=0)


def test_narrowing_undoes_widening_and_refuses_a_full_one(slim):
    again = narrow(widen(slim)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in slim.state_dict().items())
    with pytest.raises(ValueError, match="beyond the slim widths"):
        narrow(make_autoencoder().state_dict())


def test_the_encoder_keeps_what_patches_differ_in(slim, photos):
    """A linear map back from the latents to 8 × 8 patches explains nearly all of their variance."""
    latents = encode(slim, photos).permute(0, 2, 3, 1).reshape(-1, 16)
    patches = torch.nn.functional.pixel_unshuffle(photos, 8).permute(0, 2, 3, 1).reshape(-1, 192)
    centred = patches - patches.mean(0)
    rows = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    found = rows @ torch.linalg.lstsq(rows, centred).solution
    assert (centred - found).square().sum() / centred.square().sum() < 0.02


def test_a_stored_autoencoder_is_a_taesd_file(slim, photos, tmp_path):
    path = tmp_path / "vae.safetensors"
    save_part(path, to_taesd_names(widen(slim)), PocketMetadata(part="autoencoder", name="test"))
    space = load_latent_space(path, FLUX.bases[0])
    # Its own scale and shift cancel the base's, to rounding.
    assert abs(space.scale - 1) < 1e-6 and abs(space.shift) < 1e-6
    torch.testing.assert_close(space.encode(photos[:1]), encode(slim, photos[:1]), atol=2e-2, rtol=0)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UnreadableFile, match="no Meta-LoRA record"):
        load_part(path)


def test_shipped_files_stay_small():
    sizes = {path.name: path.stat().st_size for path in WEIGHTS.glob("*.safetensors")}
    assert {"pocket_vae.safetensors", "pocket_flux.safetensors", "pocket_text.safetensors"} <= set(sizes)
    assert sum(sizes.values()) <= 16 * MEGABYTE


def test_the_shipped_autoencoder_gives_photos_back(photos):
    again = load_latent_space(AUTOENCODER_FILE, FLUX.bases[0])
    restored = again.decode(again.encode(photos))
    assert (restored - photos).square().mean().log10() * -10 > 27


@pytest.mark.parametrize("domain", DOMAINS)
def test_readers_read_unseen_photos(domain):
    reader = load_readers()[domain]
    subjects = draw_subjects(domain, "validation", 16, first=500)
    scenes = draw_scenes(domain, 16, SPLIT_BASE["validation"] + 5)
    floor = error_floor(reader, subjects, scenes)
    asked = torch.stack([scene_truth(scene, domain) for scene in scenes])
    guessing_scene = prompt_error(asked.mean(0), asked).mean()
    vectors = torch.stack([subject.vector for subject in subjects])
    guessing_identity = identity_error(vectors.mean(0), vectors, domain).mean()
    # Products hide much: a mark on the far side, the colour of a band that a bowl does not show.
    assert floor.prompt < {"avatars": 0.35, "products": 0.65}[domain] * guessing_scene
    assert floor.identity < {"avatars": 0.55, "products": 0.85}[domain] * guessing_identity


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_shipped_prior_fits_the_shipped_base(domain):
    host, prior = load_pocket_host(), load_pocket_prior(domain)
    names = {target.name: target for target in host.targets()}
    assert prior.metadata.domain == domain
    for name, layer in prior.layers.items():
        assert layer.meta_down.shape[1] == names[name].shape[1]


def test_prompt_error_counts_words_alike():
    asked = scene_truth(Scene(), "avatars")
    wrong_pose, wrong_light = asked.clone(), asked.clone()
    wrong_pose[0:2] += 1
    wrong_light[2:4] += 1
    assert prompt_error(asked, asked) == 0
    torch.testing.assert_close(prompt_error(wrong_pose, asked), prompt_error(wrong_light, asked))


def test_base_training_repeats_itself_and_learns(caplog: pytest.LogCaptureFixture):
    photos = TrainingPhotos(torch.randn(8, 16, 4, 4), [Scene().caption("avatars", "person")] * 8, [["tan skin"]] * 8)
    options = BaseOptions(steps=3, batch_size=2, report_every=3)
    caplog.set_level("INFO", logger="metalora_core")
    runs = [train_base(photos, options) for _ in range(2)]
    lines = [record.getMessage() for record in caplog.records]
    first, second = (run.state_dict() for run in runs)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert lines[0].split("loss")[1].split()[0] == lines[1].split("loss")[1].split()[0]


def test_base_training_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match="one of each a photo"):
        TrainingPhotos(torch.zeros(2, 16, 4, 4), ["photo of a person"], [[]])
    with pytest.raises(ValueError, match="rows of focus"):
        TrainingPhotos(torch.zeros(1, 16, 4, 4), ["photo of a person"], [[]], focus=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="rows of products"):
        TrainingPhotos(torch.zeros(1, 16, 4, 4), ["photo of a person"], [[]], products=torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="begin with"):
        train_base(TrainingPhotos(torch.zeros(1, 16, 4, 4), ["a person"], [[]]))


def test_training_captions_are_described_named_and_dropped_in_the_asked_shares():
    captions, looks = ["photo of a person, smiling"] * 2, [["tan skin", "big nose"]] * 2
    draw = CaptionRows(captions, looks, CaptionOptions(drop=0.25, add_trigger=0.5, describe=0.5)).draw
    rows = draw(torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    empty = (rows == PAD).all(1)
    assert abs(float(empty.float().mean()) - 0.25) < 0.03
    kept = rows[~empty]
    assert abs(float((kept[:, 3] >= SPARE_FIRST).float().mean()) - 0.5) < 0.03
    assert abs(float((kept == token_of("nose")).any(1).float().mean()) - 0.5) < 0.03


def test_a_share_of_the_training_captions_leaves_half_of_the_scene_out():
    captions = ["photo of a person, smiling, looking left, blue background"] * 2
    draw = CaptionRows(captions, [[], []], CaptionOptions(drop=0, add_trigger=0, describe=0, shorten=0.5)).draw
    rows = draw(torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    assert (rows[:, 3] == token_of("person")).all()
    shares = [float((rows == token_of(word)).any(1).float().mean()) for word in ("smiling", "left", "background")]
    assert all(abs(share - 0.75) < 0.03 for share in shares)
    whole = (rows != PAD).sum(1) == 4 + 1 + 2 + 2
    assert abs(float(whole.float().mean()) - (0.5 + 0.5 / 8)) < 0.03


def test_the_places_of_a_face_are_mouth_eyes_and_brows():
    places = face_places(load_autoencoder(), torch.ones(16), subjects=4).view(8, 8)
    assert float(places.max()) == 1 and torch.equal(places, places.flip(-1))
    assert places[4, 3] == 1 and places[3, 3] == 1 and float(places[2, 3]) > 0.2
    assert float(places[[0, 7]].max()) < 0.1 and float(places[:, [0, 1]].max()) < 0.1


def test_photos_are_drawn_with_the_asked_share_of_products():
    products = torch.arange(10) >= 8
    photos = TrainingPhotos(torch.zeros(10, 16, 4, 4), ["photo of a mug"] * 10, [[]] * 10, products=products)
    drawn = photos.draw(20_000, 0.6, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=10) / len(drawn)
    torch.testing.assert_close(shares, torch.where(products, 0.3, 0.05), atol=0.01, rtol=0)


def test_places_are_weighted_with_mean_one_for_each_photo():
    focus = torch.tensor([[0.0, 1.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    photos = TrainingPhotos(torch.zeros(2, 16, 4, 4), ["photo of a person"] * 2, [[]] * 2, focus=focus)
    weights = place_weights(photos, torch.tensor([0, 1]), 4.0)
    torch.testing.assert_close(weights[:, :, 0].mean(1), torch.ones(2))
    assert float(weights[0, 1] / weights[0, 0]) == pytest.approx(5) and (weights[1] == 1).all()


def test_noise_levels_fall_one_into_each_equally_likely_slice():
    levels = noise_levels(64, 0.4, 1.3, torch.Generator().manual_seed(0)).sort().values
    uniform = torch.special.ndtr((torch.logit(levels) - 0.4) / 1.3)
    assert torch.equal((uniform * 64).long(), torch.arange(64))


def test_the_encoder_is_one_affine_map_of_patches(photos):
    autoencoder = load_autoencoder()
    weight, bias = patch_map(autoencoder)
    mapped = torch.nn.functional.conv2d(photos, weight, bias, stride=8)
    torch.testing.assert_close(mapped, encode(autoencoder, photos), atol=1e-4, rtol=0)


def test_a_channel_that_moves_the_picture_more_has_more_gain(photos):
    autoencoder = load_autoencoder()
    gains = channel_gains(autoencoder, encode(autoencoder, photos))
    assert gains.shape == (16,) and gains[0] > 5 * gains[-1] > 0


@pytest.mark.parametrize("domain", DOMAINS)
def test_shipped_priors_were_made_by_the_recipe_that_the_code_names(domain):
    record = load_pocket_prior(domain).metadata.training
    stages = [json.loads(json.dumps(asdict(stage))) for stage in shipped_stages(domain)]
    # Settings of an earlier release that were off; there is no code for them any more.
    off = {"step_sizes": False, "step_size_learning_rate": 0.01, "support_query_split": False}
    assert record["settings"] == {**stages[-1], **off}
    first = record["earlier"]["settings"]
    assert {**first, "steps": 0} == {**stages[0], **off, "steps": 0}


def test_a_short_prompt_is_obeyed_in_what_it_says():
    scenes = draw_scenes("avatars", 6, 12)
    prompts = tuple(f"photo of a person, {scene.background} background" for scene in scenes)
    pictures = generate_pictures(load_pocket_host(), Request(prompts, 128, steps=6, guidance=2.0, batch=6))
    with torch.no_grad():
        _, read = load_readers()["avatars"](pictures)
    asked = torch.stack([scene_truth(scene, "avatars") for scene in scenes])
    background = SCENE_GROUPS["background"]
    assert float((read - asked)[:, background].square().mean()) < 0.02  # another colour is 0.1 away
