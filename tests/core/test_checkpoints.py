"""A run goes on from its own checkpoint only; anything else is refused in words before work starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from core.toy_host import ToyHost, ToySubjects

from metalora_core.adaptation import adapt
from metalora_core.errors import InvalidOptions, UnreadableFile
from metalora_core.files import checkpoint
from metalora_core.files.atomic import UnwritableFile
from metalora_core.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metalora_core.files.prior import Prior
from metalora_core.meta_training import meta_train
from metalora_core.model.weights_digest import weights_digest
from metalora_core.photos.training_set import TrainingSet
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.meta_options import MetaTrainingOptions

META = MetaTrainingOptions(steps=2, subjects_per_batch=3, r_meta=6, r_mid=2, checkpoint_every=1)


@cache
def prior() -> Prior:
    return meta_train(ToyHost(), ToySubjects(), META)


def run_meta_training(path: Path, host: ToyHost) -> None:
    meta_train(host, ToySubjects(), META, checkpoint=path)


def run_adaptation(path: Path, host: ToyHost) -> None:
    photo = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(5))
    photos = TrainingSet((photo,), ("photo of a ohwx blob",), "blob", "ohwx")
    adapt(host, prior(), photos, AdaptationOptions(steps=2, checkpoint_every=1), checkpoint=path)


def options_of(saved: Checkpoint) -> dict[str, Any]:
    return saved.state["optimizer"]["param_groups"][0]


RUNS = {"adaptation": run_adaptation, "meta-training": run_meta_training}


@pytest.mark.parametrize("kind", RUNS)
def test_a_base_of_the_same_shapes_but_other_weights_is_refused(kind: str, tmp_path: Path):
    path = tmp_path / "run.safetensors"
    RUNS[kind](path, ToyHost())
    RUNS[kind](path, ToyHost())
    with pytest.raises(InvalidOptions, match="other options or photos, another prior or base model"):
        RUNS[kind](path, ToyHost(seed=1))


@pytest.mark.parametrize(
    "kind, change, words",
    [
        ("meta-training", lambda c: c.tensors.pop("meta_down.conv"), "'meta_down.conv' is missing"),
        ("meta-training", lambda c: c.tensors.update(odd=torch.zeros(1)), "'odd' is unknown"),
        ("meta-training", lambda c: c.tensors.update(common=torch.zeros(3)), r"'common' has shape \(3,\), not \("),
        ("meta-training", lambda c: c.tensors.update({"bank.visits": torch.zeros(5)}), "'bank.visits' has shape"),
        ("meta-training", lambda c: c.state.pop("losses"), "damaged.*losses"),
        ("meta-training", lambda c: c.state["optimizer"]["param_groups"].pop(), "damaged"),
        ("meta-training", lambda c: c.state["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)), "exp_avg"),
        ("adaptation", lambda c: c.tensors.pop("mids"), "'mids' is missing"),
        ("adaptation", lambda c: c.tensors.update(ups=torch.zeros(3)), r"'ups' has shape \(3,\), not \("),
        ("adaptation", lambda c: c.tensors.update(best=torch.zeros(3)), "'best' has shape"),
        ("adaptation", lambda c: c.state.pop("validation"), "damaged.*validation"),
        ("adaptation", lambda c: c.state["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)), "exp_avg"),
        ("adaptation", lambda c: c.tensors["mids"].fill_(float("nan")), "NaN or infinite"),
        ("adaptation", lambda c: c.state["losses"].append(0.5), "step 2 of 2 with 3 losses"),
        ("adaptation", lambda c: c.state["losses"].__setitem__(0, float("nan")), "a loss is not finite"),
        ("adaptation", lambda c: c.state["validation"].append([9, 0.5]), "held-out photos at the steps .9."),
        ("adaptation", lambda c: options_of(c).update(betas=(0.9, 2.0)), "betas of the optimizer is"),
        ("adaptation", lambda c: options_of(c).update(weight_decay=1e9), "weight_decay"),
        ("adaptation", lambda c: options_of(c).update(lr="fast"), "lr of the optimizer is 'fast'"),
        ("adaptation", lambda c: options_of(c).pop("eps"), "has the options"),
        ("adaptation", lambda c: c.state["optimizer"]["state"].clear(), "holds .. of a tensor"),
        ("adaptation", lambda c: c.state["optimizer"]["state"][0].pop("exp_avg_sq"), "of a tensor"),
        ("adaptation", lambda c: c.state["optimizer"]["state"][0]["exp_avg_sq"].fill_(-1), "negative square"),
        ("adaptation", lambda c: c.state["optimizer"]["state"][0].update(step=torch.tensor(7.0)), "has taken"),
        ("meta-training", lambda c: c.state["losses"].clear(), "losses of the steps"),
        ("meta-training", lambda c: c.state["losses"].append([5.0, 0.1]), "losses of the steps"),
        ("meta-training", lambda c: c.tensors["bank.visits"].fill_(-1), "less than never"),
    ],
)
def test_other_contents_are_refused_in_words(
    kind: str, change: Callable[[Checkpoint], object], words: str, tmp_path: Path
):
    path = tmp_path / "run.safetensors"
    RUNS[kind](path, ToyHost())
    saved = load_checkpoint(path, kind=kind)
    change(saved)
    save_checkpoint(path, saved)
    with pytest.raises(UnreadableFile, match=words):
        RUNS[kind](path, ToyHost())


@pytest.mark.parametrize("kind", RUNS)
def test_a_checkpoint_far_larger_than_the_run_is_not_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "run.safetensors"
    RUNS[kind](path, ToyHost())
    monkeypatch.setattr(checkpoint, "_SMALL_BYTES", 0)
    with path.open("ab") as file:
        file.truncate(10_000_000)
    with pytest.raises(UnreadableFile, match="10000000 bytes, at most"):
        RUNS[kind](path, ToyHost())


@pytest.mark.parametrize("kind", RUNS)
def test_a_full_disk_is_told_before_work_starts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UnwritableFile, match=r"needs [\d,]+ bytes, its disk has 100 left"):
        RUNS[kind](tmp_path / "run.safetensors", ToyHost())
    assert not list(tmp_path.iterdir())


def test_the_digest_sees_weights_names_and_dtypes_and_nothing_else():
    model = ToyHost().model
    digests = [weights_digest(model.named_parameters())]
    assert weights_digest(ToyHost().model.named_parameters()) == digests[0]
    digests.append(weights_digest(ToyHost(seed=1).model.named_parameters()))
    digests.append(weights_digest((f"x.{name}", tensor) for name, tensor in model.named_parameters()))
    digests.append(weights_digest(model.bfloat16().named_parameters()))
    assert len(set(digests)) == 4
