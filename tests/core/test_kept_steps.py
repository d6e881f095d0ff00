"""Steps that are kept for a choice: which, under what name, and with what in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core.test_adaptation import OPTIONS, photos, raise_at, tensors
from core.toy_host import ToyHost, ToySubjects
from torch import Tensor

from metalora_core.adaptation import adapt
from metalora_core.errors import TrainingCancelled
from metalora_core.files.checkpoint import load_checkpoint
from metalora_core.files.identity import Identity, load_identity, save_identity
from metalora_core.files.kept_steps import kept_step_beside, kept_steps
from metalora_core.files.metadata import thumbnail_of
from metalora_core.files.prior import Prior
from metalora_core.meta_training import meta_train
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.meta_options import MetaTrainingOptions
from metalora_core.training.progress import AdaptationProgress

SAMPLED = replace(OPTIONS, preview_every=10, preview_steps=2)


@pytest.fixture(scope="module")
def prior() -> Prior:
    return meta_train(ToyHost(), ToySubjects(), MetaTrainingOptions(steps=5, subjects_per_batch=3, r_meta=6, r_mid=2))


@pytest.mark.parametrize("every", [1, 3, 13, 50, 10_000])
@pytest.mark.parametrize("steps", [1, 6, 50, 625, 20_000])
def test_at_most_sixteen_sampled_steps_are_kept_and_the_last_is_one_of_them(steps: int, every: int) -> None:
    kept = AdaptationOptions(steps=steps, preview_every=every).kept_steps
    assert 1 <= len(kept) <= 16 and kept[-1] == steps
    assert all(step % every == 0 for step in kept[:-1])
    assert len({after - before for before, after in zip((0, *kept), kept[:-1], strict=False)}) <= 1
    sampled = -(-steps // every)
    assert len(kept) == sampled if sampled <= 16 else len(kept) > 8


def test_without_samples_nothing_is_kept() -> None:
    assert AdaptationOptions(steps=100).kept_steps == ()


def listened(prior: Prior, options: AdaptationOptions) -> tuple[dict[int, Identity], Identity]:
    """What was learned by each report, and the result."""
    seen: dict[int, Identity] = {}

    def listen(progress: AdaptationProgress) -> None:
        assert progress.learned is not None
        seen[progress.step] = progress.learned()

    return seen, adapt(ToyHost(), prior, photos(), options, on_progress=listen).identity


def test_what_was_learned_by_a_step_is_what_a_run_stopped_there_holds(prior: Prior, tmp_path: Path) -> None:
    seen, result = listened(prior, SAMPLED)
    path = tmp_path / "run.safetensors"
    for step in (10, 20):
        with pytest.raises(TrainingCancelled):
            adapt(ToyHost(), prior, photos(), SAMPLED, on_progress=raise_at(step, TrainingCancelled()), checkpoint=path)
        stopped = load_checkpoint(path, kind="adaptation").tensors
        numbers = torch.cat([tensor.flatten() for tensor in tensors(seen[step])]).sort().values
        assert torch.equal(numbers, torch.cat([stopped["mids"].flatten(), stopped["ups"].flatten()]).sort().values)
        assert seen[step].metadata.steps == step and seen[step].metadata.settings["steps"] == SAMPLED.steps
    assert all(map(torch.equal, tensors(seen[30]), tensors(result)))


def test_looking_at_what_was_learned_changes_nothing(prior: Prior) -> None:
    _, result = listened(prior, SAMPLED)
    plain = adapt(ToyHost(), prior, photos(), OPTIONS).identity
    assert all(map(torch.equal, tensors(result), tensors(plain)))


def test_the_last_step_is_sampled_too(prior: Prior) -> None:
    seen: list[AdaptationProgress] = []
    adapt(ToyHost(), prior, photos(), replace(SAMPLED, preview_every=20), on_progress=seen.append)
    assert [progress.step for progress in seen if progress.preview is not None] == [20, 30]


def test_a_step_is_reported_before_its_checkpoint_so_that_a_killed_run_keeps_it_again(
    prior: Prior,
    tmp_path: Path,
) -> None:
    path, seen = tmp_path / "run.safetensors", list[tuple[int, int]]()

    def listen(progress: AdaptationProgress) -> None:
        saved = load_checkpoint(path, kind="adaptation").step if path.exists() else 0
        seen.append((progress.step, saved))

    adapt(ToyHost(), prior, photos(), SAMPLED, on_progress=listen, checkpoint=path)
    assert all(saved < step for step, saved in seen) and max(saved for _, saved in seen) > 0


def test_a_run_that_was_stopped_while_it_drew_tells_of_that_step_when_it_resumes(prior: Prior, tmp_path: Path) -> None:
    class Cancelled(ToyHost):
        def decode_latents(self, latents: Tensor) -> Tensor:
            raise TrainingCancelled("enough")

    path, seen = tmp_path / "run.safetensors", list[AdaptationProgress]()
    with pytest.raises(TrainingCancelled):
        adapt(Cancelled(), prior, photos(), SAMPLED, on_progress=seen.append, checkpoint=path)
    adapt(ToyHost(), prior, photos(), SAMPLED, on_progress=seen.append, checkpoint=path)
    assert [progress.step for progress in seen] == [5, 10, 15, 20, 25, 30]
    assert seen[1].preview is not None and seen[1].loss == seen[1].losses[-1]


def test_kept_steps_are_found_by_their_number_and_by_no_other_results_name(tmp_path: Path) -> None:
    path = tmp_path / "mug.safetensors"
    for step in (100, 20, 3):
        kept_step_beside(path, step).touch()
    other = tmp_path / "mug.20.safetensors"
    kept_step_beside(other, 7).touch()
    path.touch()
    assert list(kept_steps(path)) == [3, 20, 100] and list(kept_steps(other)) == [7]
    assert kept_steps(path)[20] == kept_step_beside(path, 20)
    assert kept_steps(tmp_path / "nobody" / "mug.safetensors") == {}


def test_a_picture_in_the_header_changes_nothing_of_an_identity(prior: Prior, tmp_path: Path) -> None:
    learned = adapt(ToyHost(), prior, photos(), replace(OPTIONS, steps=5)).identity
    with_picture, without = tmp_path / "with.safetensors", tmp_path / "without.safetensors"
    save_identity(with_picture, learned, b"\xff\xd8 a JPEG")
    save_identity(without, learned)
    read = load_identity(with_picture)
    assert all(map(torch.equal, tensors(read), tensors(learned))) and read.metadata == learned.metadata
    assert thumbnail_of(with_picture) == "data:image/jpeg;base64,/9ggYSBKUEVH"
    assert thumbnail_of(without) == thumbnail_of(tmp_path / "gone.safetensors") == ""
    save_identity(with_picture, read)
    assert with_picture.read_bytes() == without.read_bytes()
