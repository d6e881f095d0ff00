"""A run goes on from its own checkpoint only; anything else is refused in words before work starts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from core.disk_limits import file_size_limit
from core.toy_host import ToyHost, ToySubjects

from metalora_core.adaptation import adapt
from metalora_core.errors import InvalidOptions, TrainingCancelled, UnreadableFile
from metalora_core.files import checkpoint
from metalora_core.files.atomic import UnwritableFile, atomic_save_safetensors
from metalora_core.files.bounded import read_safetensors
from metalora_core.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metalora_core.files.prior import Prior, save_prior
from metalora_core.meta_training import meta_train
from metalora_core.model.weights_digest import weights_digest
from metalora_core.photos.training_set import TrainingSet
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.meta_options import MetaTrainingOptions
from metalora_core.training.progress import MetaTrainingProgress

META = MetaTrainingOptions(steps=2, subjects_per_batch=3, r_meta=6, r_mid=2, checkpoint_every=1)


@cache
def prior() -> Prior:
    return meta_train(ToyHost(), ToySubjects(), META)


def run_meta_training(path: Path, host: ToyHost, save: Callable[[Any], Any] | None = None) -> None:
    meta_train(host, ToySubjects(), META, checkpoint=path, save=save)


def run_adaptation(path: Path, host: ToyHost, save: Callable[[Any], Any] | None = None) -> None:
    photo = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(5))
    photos = TrainingSet((photo,), ("photo of a ohwx blob",), "blob", "ohwx")
    adapt(host, prior(), photos, AdaptationOptions(steps=2, checkpoint_every=1), checkpoint=path, save=save)


RUNS = {"adaptation": run_adaptation, "meta-training": run_meta_training}
ROWS = ".rows-1-of-1"
BESIDE = {"adaptation": [""], "meta-training": ["", ROWS]}
"""What the names of a run's files end with: those of a meta-training are the checkpoint and the rows of its bank."""


def files_of(kind: str, name: str = "run.safetensors") -> list[str]:
    return [f"{name}{end}" for end in BESIDE[kind]]


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
    ],
)
def test_other_contents_are_moved_aside_in_words_and_the_run_starts_over(
    kind: str, change: Callable[[Checkpoint], object], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "run.safetensors"
    RUNS[kind](path, ToyHost())
    whole = path.read_bytes()
    saved = load_checkpoint(path, kind=kind)
    change(saved)
    save_checkpoint(path, saved)
    changed = path.read_bytes()
    RUNS[kind](path, ToyHost())
    (message,) = (record.getMessage() for record in caplog.records)
    assert "moved aside to run.safetensors.damaged" in message and re.search(words, message)
    assert (tmp_path / "run.safetensors.damaged").read_bytes() == changed
    assert path.read_bytes() == whole  # started over, bit for bit


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("place", [3, 0.3, 0.6, 0.99])
def test_any_changed_byte_is_noticed_and_moved_aside(
    kind: str, place: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "run.safetensors"
    RUNS[kind](path, ToyHost())
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[int(place if place > 1 else place * len(whole))] ^= 1
    path.write_bytes(changed)
    RUNS[kind](path, ToyHost())
    assert "moved aside" in caplog.text and (tmp_path / "run.safetensors.damaged").read_bytes() == changed
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", RUNS)
def test_a_file_that_is_not_a_checkpoint_stays_where_it_is(kind: str, tmp_path: Path):
    path = tmp_path / "run.safetensors"
    save_prior(path, prior())
    with pytest.raises(UnreadableFile, match=r"expected a metalora\.checkpoint file"):
        RUNS[kind](path, ToyHost())
    other = next(name for name in RUNS if name != kind)
    path.unlink()
    RUNS[other](path, ToyHost())
    with pytest.raises(UnreadableFile, match=f"expected one of a {kind}"):
        RUNS[kind](path, ToyHost())
    assert sorted(file.name for file in tmp_path.iterdir()) == files_of(other)


@pytest.mark.parametrize("kind", RUNS)
def test_a_disk_that_fills_up_costs_the_checkpoint_and_not_the_run(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    RUNS[kind](tmp_path / "whole.safetensors", ToyHost())
    whole = (tmp_path / "whole.safetensors").read_bytes()
    with file_size_limit(1000):
        RUNS[kind](tmp_path / "run.safetensors", ToyHost())
    assert "The training continues without this checkpoint" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == files_of(kind, "whole.safetensors")
    RUNS[kind](tmp_path / "run.safetensors", ToyHost())
    assert (tmp_path / "run.safetensors").read_bytes() == whole


@pytest.mark.parametrize("kind", RUNS)
def test_the_result_is_saved_before_the_last_checkpoint_is_tried(kind: str, tmp_path: Path):
    path, saved = tmp_path / "run.safetensors", list[Any]()

    def save(result: Any) -> Any:
        assert load_checkpoint(path, kind=kind).step == 1
        saved.append(result)
        return result

    RUNS[kind](path, ToyHost(), save)
    assert len(saved) == 1 and not path.exists()


@pytest.mark.parametrize("kind", RUNS)
def test_a_result_that_cannot_be_saved_is_in_the_last_checkpoint(kind: str, tmp_path: Path):
    path, saved = tmp_path / "run.safetensors", list[Any]()

    def refuse(result: Any) -> Any:
        saved.append(result)
        raise UnwritableFile("the disk is full")

    def save(result: Any) -> Any:
        saved.append(result)
        return result

    with pytest.raises(UnwritableFile):
        RUNS[kind](path, ToyHost(), refuse)
    assert load_checkpoint(path, kind=kind).step == 2
    RUNS[kind](path, ToyHost(), save)
    first, again = (getattr(one, "identity", one).layers for one in saved)
    assert first.keys() == again.keys()
    for name, layer in first.items():
        for part, tensor in vars(layer).items():
            assert tensor is None or torch.equal(tensor, getattr(again[name], part))
    assert not path.exists()


@pytest.mark.parametrize("kind", RUNS)
def test_a_checkpoint_of_an_earlier_release_needs_no_checksum(kind: str, tmp_path: Path):
    path = tmp_path / "run.safetensors"
    RUNS[kind](path, ToyHost())
    file = read_safetensors(path)
    record = json.loads(file.metadata["metalora"])
    state = record.pop("state")
    del record["sha256"]
    older = {"metalora": json.dumps(record | {"format_version": 1}), "state": state}
    atomic_save_safetensors(path, file.tensors, older)
    saved = load_checkpoint(path, kind=kind, digest=record["digest"])
    assert saved.step == 2 and saved.state["losses"] and saved.tensors
    RUNS[kind](path, ToyHost())
    assert sorted(file.name for file in tmp_path.iterdir()) == files_of(kind)


@pytest.mark.parametrize("damage", ["changed", "cut off", "missing"])
def test_damaged_rows_are_moved_aside_with_their_checkpoint(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path, rows = tmp_path / "run.safetensors", tmp_path / f"run.safetensors{ROWS}"
    run_meta_training(path, ToyHost())
    whole = [path.read_bytes(), rows.read_bytes()]
    changed = bytearray(whole[1])
    changed[100] ^= damage == "changed"
    rows.write_bytes(changed[:-1] if damage == "cut off" else changed)
    if damage == "missing":
        rows.unlink()
    run_meta_training(path, ToyHost())
    assert "moved aside to run.safetensors.damaged" in caplog.text
    aside = [f"run.safetensors{end}.damaged" for end in ("", ROWS) if end == "" or damage != "missing"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*files_of("meta-training"), *aside])
    assert [path.read_bytes(), rows.read_bytes()] == whole  # started over, bit for bit


def test_a_meta_training_resumes_from_a_checkpoint_of_an_earlier_release_with_the_bank_inside(tmp_path: Path):
    path, options = tmp_path / "run.safetensors", replace(META, steps=4, checkpoint_every=2)

    def stop(progress: MetaTrainingProgress) -> None:
        if progress.step == 2:
            raise TrainingCancelled("enough")

    unbroken = meta_train(ToyHost(), ToySubjects(), options)
    with pytest.raises(TrainingCancelled):
        meta_train(ToyHost(), ToySubjects(), options, checkpoint=path, on_progress=stop)
    saved = load_checkpoint(path, kind="meta-training")
    index, content = saved.tensors["bank.rows"], (tmp_path / f"run.safetensors{ROWS}").read_bytes()
    versions = torch.frombuffer(bytearray(content), dtype=torch.float32).view(len(index), 3, -1)
    tensors = {name: tensor for name, tensor in saved.tensors.items() if name != "bank.rows"}
    save_checkpoint(path, replace(saved, tensors=tensors | {"bank.shard.0": versions[index[:, 0]]}))
    (tmp_path / f"run.safetensors{ROWS}").unlink()
    seen = list[int]()
    again = meta_train(ToyHost(), ToySubjects(), options, checkpoint=path, on_progress=lambda p: seen.append(p.step))
    assert seen == [4] and again.metadata == unbroken.metadata
    for name, layer in unbroken.layers.items():
        for part, tensor in vars(layer).items():
            assert tensor is None or torch.equal(tensor, getattr(again.layers[name], part))


@pytest.mark.parametrize("kind", RUNS)
def test_a_checkpoint_far_larger_than_the_run_is_not_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "run.safetensors"
    RUNS[kind](path, ToyHost())
    monkeypatch.setattr(checkpoint, "_SMALL_BYTES", 0)
    with path.open("ab") as file:
        file.truncate(10_000_000)
    with pytest.raises(UnreadableFile, match="10000000 bytes; at most"):
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
