"""A quick prior: LoRA files become one by algebra, subjects by training, and both together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from core.toy_host import ToyHost, ToySubjects
from safetensors.torch import save_file
from torch import Tensor

from metalora_core.commands.cli import main
from metalora_core.errors import InvalidOptions, UnreadableFile
from metalora_core.files.lora_files import FoundLoRAs, LoRAFile, layer_names, read_loras
from metalora_core.files.prior import Prior, load_prior, save_prior
from metalora_core.model.families import default_patterns
from metalora_core.model.targets import Target, choose_targets
from metalora_core.photos.folder_files import FoundPhotos
from metalora_core.photos.pictures import save_picture, to_pil
from metalora_core.photos.subject_folders import SubjectFolder
from metalora_core.pocket import load_pocket_host
from metalora_core.quick.left_out import aside, compare_on_left_out, photos_aside
from metalora_core.quick.making import QuickSources, quick_prior
from metalora_core.training.lora_start import chains_of_lora, prior_of_loras
from metalora_core.training.meta_options import MetaTrainingOptions

RANK, FILES = 2, 3
OPTIONS = MetaTrainingOptions(r_meta=8, r_mid=4, steps=4, subjects_per_batch=2, read_every=1)
Deltas = dict[str, tuple[Tensor, Tensor]]


def deltas(seed: int, targets: Sequence[Target] = ToyHost().targets(), rank: int = RANK) -> Deltas:
    """Random factors (up, down) of every layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        t.name: (
            torch.randn(t.shape[0], rank, generator=generator),
            torch.randn(rank, *t.shape[1:], generator=generator),
        )
        for t in targets
    }


def as_comfyui(factors: Deltas) -> dict[str, Tensor]:
    tensors = dict[str, Tensor]()
    for name, (up, down) in factors.items():
        tensors[f"diffusion_model.{name}.lora_up.weight"] = up[:, :, None, None] if down.ndim == 4 else up
        tensors[f"diffusion_model.{name}.lora_down.weight"] = down
    return tensors


def as_kohya(factors: Deltas) -> dict[str, Tensor]:
    """With an alpha of half the rank, so the factors are twice as large."""
    tensors = dict[str, Tensor]()
    for name, (up, down) in factors.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_up.weight"] = 2 * (up[:, :, None, None] if down.ndim == 4 else up)
        tensors[f"{key}.lora_down.weight"] = down
        tensors[f"{key}.alpha"] = torch.tensor(len(down) / 2)
    return tensors


def as_diffusers(factors: Deltas) -> dict[str, Tensor]:
    """PEFT's keys: fused layers in their parts, each with a rank of its own through padding."""
    tensors = dict[str, Tensor]()
    for target in ToyHost().targets():
        up, down = factors[target.name]
        for place, part in enumerate(target.parts):
            rows, spare = up[part.start : part.stop], torch.zeros(place, *down.shape[1:])
            rows = torch.cat([rows, torch.ones(len(rows), place)], dim=1)
            tensors[f"transformer.{part.module}.lora_A.weight"] = torch.cat([down, spare])
            tensors[f"transformer.{part.module}.lora_B.weight"] = rows[:, :, None, None] if down.ndim == 4 else rows
    return tensors


def written(folder: Path, files: Sequence[dict[str, Tensor]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, tensors in enumerate(files):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{number}.safetensors")
    return folder


def read(folder: Path) -> FoundLoRAs:
    targets = ToyHost().targets()
    return read_loras(folder, layer_names(targets), targets)


def made_of(found: FoundLoRAs, options: MetaTrainingOptions = OPTIONS) -> Prior:
    host = ToyHost()
    return prior_of_loras(host, found.files, host.targets(), options, "blobs")


def test_the_start_spans_every_update_and_is_their_mean(tmp_path: Path) -> None:
    given = [deltas(seed) for seed in range(FILES)]
    prior = made_of(read(written(tmp_path / "loras", [as_comfyui(one) for one in given])))
    sizes = [sum((up @ down.flatten(1)).square().sum() for up, down in one.values()) ** 0.5 for one in given]
    median = sorted(sizes)[len(sizes) // 2]
    for name, layer in prior.layers.items():
        rows = layer.meta_down.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
        updates = [up @ down.flatten(1) for up, down in (one[name] for one in given)]
        for update in updates:
            torch.testing.assert_close(update @ rows.T @ rows, update, atol=1e-4, rtol=1e-4)
        assert layer.up_init is not None and layer.mid_init is not None
        mean = sum(update * median / size for update, size in zip(updates, sizes, strict=True)) / FILES
        left = torch.linalg.svd(torch.cat([u * median / s for u, s in zip(updates, sizes, strict=True)], 1))[0][:, :4]
        torch.testing.assert_close(layer.up_init @ layer.mid_init @ rows, left @ left.T @ mean, atol=1e-4, rtol=1e-3)


def test_three_key_layouts_give_the_same_prior(tmp_path: Path) -> None:
    given = [deltas(seed) for seed in range(FILES)]
    priors = [
        made_of(read(written(tmp_path / write.__name__, [write(one) for one in given])))
        for write in (as_comfyui, as_kohya, as_diffusers)
    ]
    for name, layer in priors[0].layers.items():
        rows = layer.meta_down.flatten(1)[: RANK * FILES]  # the rest is filled at random
        for other in priors[1:]:
            torch.testing.assert_close(other.layers[name].meta_down.flatten(1)[: RANK * FILES], rows, atol=1e-4, rtol=0)
            torch.testing.assert_close(other.layers[name].up_init, layer.up_init, atol=1e-4, rtol=0)


def test_a_strong_file_weighs_as_much_as_a_weak_one(tmp_path: Path) -> None:
    given = [deltas(seed) for seed in range(FILES)]
    plain = made_of(read(written(tmp_path / "plain", [as_comfyui(one) for one in given])))
    given[0] = {name: (1000 * up, down) for name, (up, down) in given[0].items()}
    strong = made_of(read(written(tmp_path / "strong", [as_comfyui(one) for one in given])))
    for name, layer in plain.layers.items():
        ours, theirs = layer.meta_down.flatten(1)[:6], strong.layers[name].meta_down.flatten(1)[:6]
        torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=0)


def test_files_that_do_not_fit_are_named_with_the_reason(tmp_path: Path) -> None:
    good = as_kohya(deltas(0))
    layer = "lora_unet_attn_proj"
    other_model = {f"{layer}.lora_up.weight": torch.ones(5, 1), f"{layer}.lora_down.weight": torch.ones(1, 5)}
    folder = written(
        tmp_path / "loras",
        [
            good | {"lora_te_text.lora_up.weight": torch.ones(2, 1)},
            good,
            other_model,
            {"lora_unet_elsewhere.lora_up.weight": torch.ones(5, 1)},
            {f"{layer}.hada_w1_a": torch.ones(2, 2)},
            {f"{layer}.lora_up.weight": torch.ones(12, 1)},
            {key: tensor * float("nan") for key, tensor in as_comfyui(deltas(1)).items()},
            good,
            good | {f"{layer}.alpha": torch.tensor(1j)},
            good | {f"{layer}.alpha": torch.tensor(1e300, dtype=torch.float64)},
        ],
    )
    (folder / "99.safetensors").write_bytes(b"PK\x03\x04 not a tensor")
    found = read(folder)
    assert [file.name for file in found.files] == ["0.safetensors", "1.safetensors"]
    assert (found.files[0].used, found.files[0].keys) == (9, 10)
    reasons = ("made for another model", "names an adapted layer", "another kind of adapter", "lacks one of its two")
    reasons += ("NaN", "the same file as 1.safetensors", "one real number", "too large", "pickle")
    assert len(found.passed_over) == len(reasons)
    for number, (told, reason) in enumerate(zip(found.passed_over, reasons, strict=True), start=2):
        name = 99 if reason == "pickle" else number
        assert told.startswith(f"{name}.safetensors") and reason in told
    assert "2 LoRA files, 18 of 19 keys used" in found.note
    with pytest.raises(UnreadableFile, match=r"0\.safetensors: .*another model"):
        read(written(tmp_path / "none", [other_model]))


def test_files_that_change_nothing_are_refused(tmp_path: Path) -> None:
    zero = {name: (torch.zeros_like(up), down) for name, (up, down) in deltas(0).items()}
    with pytest.raises(InvalidOptions, match="change nothing"):
        made_of(read(written(tmp_path / "loras", [as_comfyui(zero)])))


def test_a_file_as_chains_is_its_update(tmp_path: Path) -> None:
    given, host = deltas(0), ToyHost()
    file = read(written(tmp_path / "loras", [as_diffusers(given)])).files[0]
    for name, chain in chains_of_lora(host, file, host.targets()).items():
        up, down = given[name]
        torch.testing.assert_close(chain.delta().flatten(1), up @ down.flatten(1), atol=1e-5, rtol=1e-4)


def test_loras_are_the_start_of_a_training_on_subjects(tmp_path: Path) -> None:
    given = deltas(0)
    del given["conv"]
    found, forecasts = read(written(tmp_path / "loras", [as_comfyui(given)])), list[float]()
    path = tmp_path / "prior.safetensors"
    made = [
        quick_prior(
            ToyHost(), QuickSources("blobs", subjects, found), OPTIONS,
            on_forecast=forecasts.append, save=lambda prior: save_prior(path, prior),
        )
        for subjects in (None, ToySubjects())
    ]  # fmt: skip
    start, trained = made
    assert set(start.layers) == set(trained.layers) == {"attn.qkv", "attn.proj"}
    assert len(forecasts) == 1 and forecasts[0] > 0
    moved = (trained.layers["attn.proj"].meta_down - start.layers["attn.proj"].meta_down).abs().max()
    assert 0 < moved < 0.01
    assert load_prior(path).metadata.training["earlier"]["loras"][0]["name"] == "0.safetensors"  # type: ignore[index]


def test_licence_and_sources_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prior", "quick", "--class-word", "mug", "--output", str(tmp_path / "p.safetensors")]
    for more, told in (([], "nothing to make a prior of"), (["--loras", str(tmp_path)], "Say with --license")):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code == 1 and told in capsys.readouterr().err


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Any], str]:
    with pytest.raises(SystemExit) as stop:
        main(["prior", "quick", *map(str, words), "--class-word", "mug", "--json"])
    told = capsys.readouterr()
    assert stop.value.code == 0, told.err
    return json.loads(told.out), told.err


def test_a_folder_of_subjects_becomes_a_prior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = torch.rand(3, 2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    for number, photos in enumerate(drawn):
        for place, photo in enumerate(photos):
            save_picture(to_pil(photo), tmp_path / "subjects" / str(number) / f"{place}.png")
    path = tmp_path / "prior.safetensors"
    told, notes = run(capsys, tmp_path / "subjects", "--output", path, "--steps", 2, "--batch", 2)
    assert (told["subjects"], told["loras"], told["left_out"]) == (3, 0, 0)
    assert "will take about" in notes and "20 subjects or more" in notes and "0 kept aside" in notes
    assert load_prior(path).metadata.picture_px == 128


def test_a_folder_of_loras_becomes_a_prior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = load_pocket_host()
    targets = choose_targets(host.targets(), default_patterns(host.family))
    folder = written(tmp_path / "loras", [as_comfyui(deltas(seed, targets)) for seed in range(3)])
    (folder / "broken.safetensors").write_bytes(b"nothing")
    path = tmp_path / "prior.safetensors"
    told, notes = run(capsys, "--loras", folder, "--license", "own work", "--output", path)
    assert (told["subjects"], told["loras"], len(told["passed_over"])) == (0, 3, 1)
    assert "Passed over: broken.safetensors is not" in notes and "32 LoRA files or more" in notes
    prior = load_prior(path)
    assert prior.metadata.license == "own work" and len(prior.layers) == len(targets)
    assert prior.metadata.base_name == "Pocket Flux"


def test_every_tenth_is_kept_aside_at_most(tmp_path: Path) -> None:
    folders = [SubjectFolder(tmp_path / str(n), "mug", FoundPhotos((tmp_path,) * (1 + n % 2))) for n in range(20)]
    files = tuple(LoRAFile(str(number), "", (), 0, 0) for number in range(19))
    (left, others), (loras, drawn) = aside(folders, FoundLoRAs(files, ()), 2)
    assert [folder.path.name for folder in others] == ["17", "19"] and len(left) == 18
    assert loras is not None and (len(loras.files), drawn) == (19, ())
    (left, others), (loras, drawn) = aside([], loras, 2)
    assert (left, others, [file.name for file in drawn]) == ([], [], ["18"])
    assert loras is not None and len(loras.files) == 18


def test_a_prior_is_measured_on_what_it_has_not_seen(tmp_path: Path) -> None:
    host, weights = ToyHost(), ToyHost().weights_digest()
    found = read(written(tmp_path / "loras", [as_comfyui(deltas(seed)) for seed in range(FILES)]))
    photos = photos_aside(host, [], found.files[:2], host.targets(), "blob", 8, 1.0)
    assert [len(one.images) for one in photos] == [4, 4] and not torch.equal(photos[0].images[0], photos[1].images[0])
    done = list[int]()
    scores = compare_on_left_out(host, made_of(found), photos, on_subject=lambda one, of: done.append(of - one))
    assert set(scores.gains) == {"with this prior", "without a prior", "plain_lora"} and done == [5, 4, 3, 2, 1, 0]
    assert all(isfinite(gain) and gain < 1 for gain in scores.gains.values())
    assert "Left-out subjects (2, one photo each" in scores.text and min(scores.picture.size) > 8
    assert host.weights_digest() == weights
