"""Laws of stage 1."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from core.toy_host import ReadingHost, ToyHost, ToySubjects
from torch import Tensor

from metalora_core import meta_training
from metalora_core.errors import InvalidOptions, TrainingCancelled, TrainingDiverged
from metalora_core.files.prior import Prior, load_prior, save_prior
from metalora_core.meta_training import meta_train
from metalora_core.model.host import Conditioning
from metalora_core.training.meta_options import MetaTrainingOptions
from metalora_core.training.progress import MetaTrainingProgress
from metalora_core.training.subject_batches import SubjectBatches

OPTIONS = MetaTrainingOptions(
    steps=30, subjects_per_batch=3, r_meta=6, r_mid=2, read_every=5, checkpoint_every=10,
    meta_learning_rate=1e-2, common_learning_rate=1e-2, mid_learning_rate=1e-2, up_learning_rate=1e-2,
)  # fmt: skip
DESIGNS = {
    "joint": OPTIONS,
    "learned": replace(OPTIONS, warm_start="learned", slot_decay=0.1),
    "from nothing": replace(OPTIONS, warm_start="none"),
    "episodes": replace(OPTIONS, inner_steps=2, warm_start="learned"),
    "one shot": replace(OPTIONS, inner_steps=2, support_photos=1, warm_start="learned"),
    "on the way": replace(OPTIONS, inner_steps=5, query_every=2, warm_start="learned"),
    "photos": replace(OPTIONS, photos_per_subject=3, max_grad_norm=1.0, caption_dropout=0.3),
}


def tensors(prior: Prior) -> dict[str, Tensor]:
    parts = ("meta_down", "mid_init", "up_init")
    values = {f"{n}.{p}": getattr(layer, p) for n, layer in prior.layers.items() for p in parts}
    return {name: value for name, value in values.items() if value is not None}


def same(a: Prior, b: Prior) -> bool:
    one, two = tensors(a), tensors(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) and a.metadata == b.metadata


@pytest.mark.parametrize("design", DESIGNS)
def test_stopped_and_resumed_ends_bit_identical_to_unbroken(design: str, tmp_path: Path):
    path, options = tmp_path / "run.safetensors", DESIGNS[design]
    unbroken = meta_train(ToyHost(), ToySubjects(), options)

    def stop(progress: MetaTrainingProgress) -> None:
        if progress.step == 15:
            raise TrainingCancelled("enough")

    with pytest.raises(TrainingCancelled):
        meta_train(ToyHost(), ToySubjects(), options, on_progress=stop, checkpoint=path)
    seen: list[int] = []
    resumed = meta_train(ToyHost(), ToySubjects(), options, on_progress=lambda p: seen.append(p.step), checkpoint=path)
    assert seen == [20, 25, 30]
    assert same(unbroken, resumed)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied")
@pytest.mark.parametrize("design", ["joint", "episodes"])
def test_killed_at_any_moment_it_ends_bit_identical_to_unbroken_and_clears_up(design: str, tmp_path: Path):
    from fault.moments import Moment, kill, measured, run

    options = replace(DESIGNS[design], steps=12, read_every=1, checkpoint_every=1, subjects_per_batch=2)
    unbroken, result = meta_train(ToyHost(), ToySubjects(), options), list[Prior]()

    def work() -> None:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        meta_train(ToyHost(), ToySubjects(), options, checkpoint=folder / "c.safetensors", save=keep)

    def keep(prior: Prior) -> Prior:
        result.append(prior)
        return prior

    seconds, calls = measured(work, tmp_path)
    random = Random(0)
    for by_call in (True, False) * 3:
        for _ in range(2):  # also the run that resumes
            moment = Moment(kill, random.random() * seconds, 1 + random.randrange(calls) if by_call else 0)
            run(work, tmp_path, moment)
        work()
        assert same(unbroken, result.pop())
        assert not [path for path in (tmp_path / "run").iterdir() if not path.name.startswith(".metalora-")]


@pytest.mark.parametrize("design", DESIGNS)
def test_learns_and_leaves_the_host_as_it_was(design: str):
    host, losses = ToyHost(), list[float]()
    state = {name: value.clone() for name, value in host.model.state_dict().items()}
    options = replace(DESIGNS[design], steps=120)
    prior = meta_train(host, ToySubjects(), options, on_progress=lambda p: losses.append(p.loss))
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert all(torch.equal(value, state[name]) for name, value in host.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in host.model.parameters())
    assert not any(module._forward_hooks for module in host.model.modules())
    warm = {"none": set(), "mean": {"mid_init", "up_init"}, "learned": {"mid_init", "up_init"}}[options.warm_start]
    found = {name.rpartition(".")[2] for name in tensors(prior)}
    assert found == {"meta_down"} | warm


def test_prior_survives_its_file(tmp_path: Path):
    prior = meta_train(ToyHost(), ToySubjects(), DESIGNS["learned"])
    save_prior(tmp_path / "toy.safetensors", prior)
    assert same(load_prior(tmp_path / "toy.safetensors"), prior)
    assert prior.metadata.training["subjects"] == 6


def test_mapped_bank_gives_the_same_prior(tmp_path: Path):
    mapped = meta_train(ToyHost(), ToySubjects(), replace(OPTIONS, bank_folder=tmp_path))
    plain = meta_train(ToyHost(), ToySubjects(), OPTIONS)
    one, two = tensors(mapped), tensors(plain)
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_room_is_asked_for_the_subjects_that_a_run_can_visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = list[int]()

    def note(path: Path, size_bytes: int) -> None:
        asked.append(size_bytes)

    monkeypatch.setattr(meta_training, "require_writable", note)
    for count, steps in ((6, 2), (60, 2), (60, 3)):
        options = replace(OPTIONS, steps=steps, subjects_per_batch=1)
        meta_train(ToyHost(), ToySubjects(count), options, checkpoint=tmp_path / f"{count}-{steps}.safetensors")
    assert asked[1] - asked[0] == 20 * 54 < asked[2] - asked[1]


def test_runs_inside_inference_mode():
    host, subjects = ToyHost(), ToySubjects()
    with torch.inference_mode():
        prior = meta_train(host, subjects, replace(OPTIONS, steps=2))
    assert not any(value.is_inference() for value in tensors(prior).values())


def test_every_caption_is_encoded_once():
    host = ToyHost()
    meta_train(host, ToySubjects(), OPTIONS)
    assert host.prompts_encoded == 4


def test_an_epoch_shows_every_subject_once_and_roles_share_no_photo():
    host = ReadingHost()
    batches = SubjectBatches(host, ToySubjects(), replace(OPTIONS, inner_steps=1, warm_start="none"))
    assert sorted(batches.subjects_at(0) + batches.subjects_at(1)) == list(range(6))
    assert batches.subjects_at(2) + batches.subjects_at(3) != batches.subjects_at(0) + batches.subjects_at(1)
    shown = {
        role: {c for step in range(20) for c in host.captions_of(batches.draw([0, 1], step, role, step))}
        for role in ("support", "query")
    }
    assert len(shown["support"]) == len(shown["query"]) == 2
    assert not shown["support"] & shown["query"]


def test_nan_stops_with_the_step_and_keeps_the_last_checkpoint(tmp_path: Path):
    class Poisoned(ToySubjects):
        calls = 0

        def latents_of(self, subject: int) -> Tensor:
            self.calls += 1
            return super().latents_of(subject) * (float("nan") if self.calls > 40 else 1)

    path = tmp_path / "run.safetensors"
    with pytest.raises(TrainingDiverged, match=r"step 15.*learning rates") as found:
        meta_train(ToyHost(), Poisoned(), OPTIONS, checkpoint=path)
    assert found.value.step == 15
    assert path.exists()


def test_a_run_stopped_at_its_very_end_is_told_of_again(tmp_path: Path):
    path, told = tmp_path / "run.safetensors", list[MetaTrainingProgress]()

    def stop(progress: MetaTrainingProgress) -> None:
        if progress.step == OPTIONS.steps:
            raise TrainingCancelled("enough")

    with pytest.raises(TrainingCancelled):
        meta_train(ToyHost(), ToySubjects(), OPTIONS, on_progress=stop, checkpoint=path)
    meta_train(ToyHost(), ToySubjects(), OPTIONS, on_progress=told.append, checkpoint=path)
    assert [progress.step for progress in told] == [OPTIONS.steps] and told[0].loss > 0


def test_another_run_may_not_continue_a_checkpoint(tmp_path: Path):
    path = tmp_path / "run.safetensors"
    meta_train(ToyHost(), ToySubjects(), OPTIONS, checkpoint=path)
    with pytest.raises(InvalidOptions, match="other options"):
        meta_train(ToyHost(), ToySubjects(), replace(OPTIONS, seed=1), checkpoint=path)


def test_a_changed_photo_of_any_subject_is_another_run(tmp_path: Path):
    class Changed(ToySubjects):
        def latents_of(self, subject: int) -> Tensor:
            return super().latents_of(subject) + (subject == len(self) - 1)

    path, short = tmp_path / "run.safetensors", replace(OPTIONS, steps=2)
    meta_train(ToyHost(), ToySubjects(), short, checkpoint=path)
    with pytest.raises(InvalidOptions, match="other options"):
        meta_train(ToyHost(), Changed(), short, checkpoint=path)


@pytest.mark.parametrize(
    "options, words",
    [
        (replace(OPTIONS, steps=0, r_mid=0), "steps is 0.*r_mid is 0"),
        (replace(OPTIONS, inner_steps=1), "warm_start"),
        (replace(OPTIONS, subjects_per_batch=7), "data set has 6"),
        (replace(OPTIONS, include=("nothing.*",)), r"attn\.qkv"),
        (replace(OPTIONS, caption_dropout=1.0), "caption_dropout"),
    ],
)
def test_impossible_options_are_refused_before_work(options: MetaTrainingOptions, words: str):
    with pytest.raises(InvalidOptions, match=words):
        meta_train(ToyHost(), ToySubjects(), options)


def test_goes_on_from_an_earlier_prior_with_another_design():
    earlier = meta_train(ToyHost(), ToySubjects(), DESIGNS["learned"])
    later = meta_train(ToyHost(), ToySubjects(), replace(DESIGNS["episodes"], steps=1), earlier=earlier)
    for name, value in tensors(earlier).items():
        moved = float((tensors(later)[name] - value).abs().max())
        assert 0 < moved < 0.2, name
    assert later.metadata.training["earlier"] == earlier.metadata.training


def test_an_earlier_prior_of_other_ranks_is_refused_layer_by_layer():
    earlier = meta_train(ToyHost(), ToySubjects(), replace(OPTIONS, steps=1))
    with pytest.raises(InvalidOptions, match=r"meta_down of .* is .* here and .* there"):
        meta_train(ToyHost(), ToySubjects(), replace(OPTIONS, r_meta=4), earlier=earlier)


def test_an_earlier_prior_keeps_its_scale_or_is_refused():
    earlier = meta_train(ToyHost(), ToySubjects(), replace(DESIGNS["learned"], steps=1))
    same_design = replace(DESIGNS["learned"], steps=1)
    with pytest.raises(InvalidOptions, match="scale is 2 here and 1 there"):
        meta_train(ToyHost(), ToySubjects(), replace(same_design, scale=2.0), earlier=earlier)


@pytest.mark.parametrize(
    "inner_steps, query_every, rounds", [(0, 0, (0,)), (8, 0, (8,)), (8, 3, (3, 3, 2)), (6, 3, (3, 3)), (2, 5, (2,))]
)
def test_every_episode_ends_with_a_query(inner_steps: int, query_every: int, rounds: tuple[int, ...]):
    assert replace(OPTIONS, inner_steps=inner_steps, query_every=query_every).rounds == rounds


def test_support_photos_of_an_episode_stay_and_are_never_its_query_photos():
    options = replace(OPTIONS, inner_steps=3, support_photos=1, warm_start="none", photos_per_subject=2)
    host = ReadingHost()
    batches = SubjectBatches(host, ToySubjects(), options)
    episodes: set[frozenset[str]] = set()
    for episode in range(12):
        passes = [batches.draw([0], 3 * episode + inner, "support", episode) for inner in range(3)]
        support = {caption for batch in passes for caption in host.captions_of(batch)}
        query = set(host.captions_of(batches.draw([0], episode, "query", episode)))
        assert len(support) == 1 and not support & query
        episodes.add(frozenset(support))
    assert len(episodes) > 1


def test_rows_that_need_passes_of_their_own_learn_the_same():
    class OneRowAPass(ToyHost):
        def passes(self, conditioning: Conditioning) -> list[list[int]]:
            return [[row] for row in range(len(conditioning["text"]))]

    options = MetaTrainingOptions(steps=3, subjects_per_batch=3, photos_per_subject=2, r_meta=4, r_mid=2)
    together, apart = (meta_train(host, ToySubjects(), options) for host in (ToyHost(), OneRowAPass()))
    for name, layer in together.layers.items():
        torch.testing.assert_close(apart.layers[name].meta_down, layer.meta_down, rtol=1e-3, atol=1e-4)
