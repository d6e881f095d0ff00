"""Laws of the retries: a training whose step does not work continues in another way and ends where it would have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core.test_adaptation import OPTIONS, photos, same, tensors
from core.test_adaptation import prior as prior  # the fixture
from core.toy_host import ToyHost, ToySubjects

from metalora_core.adaptation import adapt
from metalora_core.commands.terminal import EXIT_ERROR, run
from metalora_core.errors import OutOfMemory, TrainingDiverged, is_compile_failure, is_out_of_memory
from metalora_core.files.prior import Prior
from metalora_core.meta_training import meta_train
from metalora_core.training.meta_options import MetaTrainingOptions
from metalora_core.training.retries import StepPlan

TWO = replace(OPTIONS, batch_size=2)


class Cramped(ToyHost):
    """Fails from a given pass on unless blocks are recomputed, or unless a pass has few samples."""

    can_checkpoint = True

    def __init__(self, fails_at: int, error: Exception, largest: int = 64, needs_recomputing: bool = True) -> None:
        super().__init__()
        self.calls, self.fails_at, self.error = 0, fails_at, error
        self.largest, self.needs_recomputing = largest, needs_recomputing

    def predict(self, noisy, t, conditioning):
        self.calls += 1
        tight = (self.needs_recomputing and not self.checkpointing) or len(noisy) > self.largest
        if self.calls >= self.fails_at and tight:
            raise self.error
        return super().predict(noisy, t, conditioning)


@pytest.mark.parametrize("fails_at", [1, 13, 30])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
)
def test_goes_on_from_the_last_good_step_and_ends_bit_identical(fails_at: int, error, prior: Prior):
    host = Cramped(fails_at, error)
    result = adapt(host, prior, photos(), OPTIONS)
    unbroken = adapt(ToyHost(), prior, photos(), OPTIONS)
    assert same(result.identity, unbroken.identity) and result.losses == unbroken.losses
    good = (fails_at - 1) // OPTIONS.read_every * OPTIONS.read_every
    assert result.notes == (f"A step did not fit into memory; resuming from step {good}, recomputing blocks.",)
    assert result.memory == "recomputing blocks" and not host.checkpointing
    assert not any(module._forward_hooks for module in host.model.modules())


def test_a_batch_in_pieces_learns_the_same_up_to_rounding(prior: Prior):
    result = adapt(Cramped(1, MemoryError(), largest=1), prior, photos(), TWO)
    assert result.memory == "recomputing blocks, the batch in 2 pieces"
    unbroken = adapt(ToyHost(), prior, photos(), TWO)
    for ours, whole in zip(tensors(result.identity), tensors(unbroken.identity), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-3, atol=1e-5)
    again = adapt(Cramped(1, MemoryError(), largest=1), prior, photos(), TWO)
    assert same(result.identity, again.identity)


def test_says_so_when_nothing_helps_and_keeps_the_finished_steps(prior: Prior, tmp_path: Path):
    path = tmp_path / "run.safetensors"
    host = Cramped(13, torch.OutOfMemoryError("out of memory"), largest=0)
    with pytest.raises(OutOfMemory, match=r"Step 11 .* even recomputing blocks\. Use smaller pictures"):
        adapt(host, prior, photos(), OPTIONS, checkpoint=path)
    resumed = adapt(ToyHost(), prior, photos(), OPTIONS, checkpoint=path)
    assert same(resumed.identity, adapt(ToyHost(), prior, photos(), OPTIONS).identity)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("out of memory")])
def test_running_out_again_before_the_next_look_up_goes_back_to_the_same_step(error: Exception, prior: Prior):
    class Twice(Cramped):
        def predict(self, noisy, t, conditioning):
            # Passes 11 to 13 follow step 10; pass 14 repeats the first of them, pass 15 fails once more.
            self.largest = 1 if self.calls + 1 >= 15 else 64
            return super().predict(noisy, t, conditioning)

    result = adapt(Twice(13, error), prior, photos(), TWO)
    assert [note.split("from step ")[1].split(",")[0] for note in result.notes] == ["10", "10"]
    assert len(result.losses) == TWO.steps


def test_an_interrupt_after_a_lack_of_memory_leaves_a_checkpoint_that_goes_on(prior: Prior, tmp_path: Path):
    class Interrupted(Cramped):
        def predict(self, noisy, t, conditioning):
            if self.calls + 1 == 15:
                raise KeyboardInterrupt
            return super().predict(noisy, t, conditioning)

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        adapt(Interrupted(13, MemoryError()), prior, photos(), OPTIONS, checkpoint=path)
    resumed = adapt(ToyHost(), prior, photos(), OPTIONS, checkpoint=path)
    assert same(resumed.identity, adapt(ToyHost(), prior, photos(), OPTIONS).identity)


def test_a_lack_of_memory_without_words_is_told_in_words(prior: Prior):
    with pytest.raises(OutOfMemory, match="The error was: MemoryError"):
        adapt(Cramped(1, MemoryError(), largest=0), prior, photos(), OPTIONS)


def test_goes_on_uncompiled_where_the_passes_cannot_be_compiled_and_says_why(prior: Prior):
    from torch._inductor.exc import InvalidCxxCompiler

    class WithoutCompiler(ToyHost):
        compiled = True

        def predict(self, noisy, t, conditioning):
            if self.compiled:
                raise InvalidCxxCompiler()
            return super().predict(noisy, t, conditioning)

    host = WithoutCompiler()
    result = adapt(host, prior, photos(), OPTIONS)
    assert same(result.identity, adapt(ToyHost(), prior, photos(), OPTIONS).identity)
    (note,) = result.notes
    assert note.startswith("The passes could not be compiled (No working C++ compiler")
    assert note.endswith("; resuming from step 0, keeping all activations.")
    assert result.memory == "keeping all activations" and host.compiled


META = MetaTrainingOptions(steps=12, subjects_per_batch=3, r_meta=6, r_mid=2, read_every=3, checkpoint_every=6)
STAGE_1 = {
    "joint": META,
    "two photos": replace(META, photos_per_subject=2, warm_start="learned"),
    "episodes": replace(META, inner_steps=3, query_every=2, warm_start="learned"),
}


def factors(prior: Prior) -> list[torch.Tensor]:
    return [f for layer in prior.layers.values() for f in (layer.meta_down, layer.mid_init, layer.up_init)]


def same_prior(a: Prior, b: Prior) -> bool:
    return all(torch.equal(x, y) for x, y in zip(factors(a), factors(b), strict=True)) and a.metadata == b.metadata


@pytest.mark.parametrize("fails_at", [1, 11])
@pytest.mark.parametrize("design", STAGE_1)
def test_stage_1_continues_from_its_last_good_step_and_ends_bit_identical(
    design: str, fails_at: int, caplog: pytest.LogCaptureFixture
):
    host = Cramped(fails_at, torch.OutOfMemoryError("CUDA out of memory."))
    prior = meta_train(host, ToySubjects(), STAGE_1[design])
    assert same_prior(prior, meta_train(ToyHost(), ToySubjects(), STAGE_1[design]))
    (note,) = caplog.messages
    assert note.startswith("A step did not fit into memory; resuming from step ") and "recomputing blocks" in note
    assert not host.checkpointing


@pytest.mark.parametrize("design", STAGE_1)
def test_stage_1_in_pieces_learns_the_same_up_to_rounding(design: str):
    prior = meta_train(Cramped(1, MemoryError(), largest=2), ToySubjects(), STAGE_1[design])
    whole = meta_train(ToyHost(), ToySubjects(), STAGE_1[design])
    for ours, theirs in zip(factors(prior), factors(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_stage_1_says_so_when_nothing_helps_and_keeps_the_finished_steps(tmp_path: Path):
    path, host = tmp_path / "run.safetensors", Cramped(9, MemoryError(), largest=0)
    with pytest.raises(OutOfMemory, match=r"Step 7 .* even recomputing blocks, the batch in 3 pieces\. Use smaller"):
        meta_train(host, ToySubjects(), META, checkpoint=path)
    resumed = meta_train(ToyHost(), ToySubjects(), META, checkpoint=path)
    assert same_prior(resumed, meta_train(ToyHost(), ToySubjects(), META))


def test_stage_1_interrupted_inside_a_step_keeps_the_last_look(tmp_path: Path):
    class Interrupted(ToyHost):
        calls = 0

        def predict(self, noisy, t, conditioning):
            self.calls += 1
            if self.calls == 11:
                raise KeyboardInterrupt
            return super().predict(noisy, t, conditioning)

    path, seen = tmp_path / "run.safetensors", list[int]()
    with pytest.raises(KeyboardInterrupt):
        meta_train(Interrupted(), ToySubjects(), META, checkpoint=path)
    resumed = meta_train(
        ToyHost(), ToySubjects(), META, on_progress=lambda told: seen.append(told.step), checkpoint=path
    )
    assert seen[0] == 12
    assert same_prior(resumed, meta_train(ToyHost(), ToySubjects(), META))


def test_stage_1_diverged_hands_over_the_prior_of_its_last_good_step():
    class Breaking(ToyHost):
        calls = 0

        def predict(self, noisy, t, conditioning):
            self.calls += 1
            return super().predict(noisy, t, conditioning) * (float("nan") if self.calls == 8 else 1)

    with pytest.raises(TrainingDiverged, match=r"step 9; the last good step is 6\. Lower") as found:
        meta_train(Breaking(), ToySubjects(), META)
    assert (found.value.step, found.value.last_good_step) == (9, 6)
    assert all(factor.isfinite().all() for factor in factors(found.value.last_good))
    assert found.value.last_good.metadata.training["steps"] == 6


def test_other_errors_are_not_taken_for_a_lack_of_memory(prior: Prior):
    host = Cramped(3, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        adapt(host, prior, photos(), OPTIONS)
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_compile_failure(host.error)


def test_savings_come_in_order_and_end():
    host, plan = Cramped(1, MemoryError()), StepPlan()
    ladder = []
    while (plan := plan.smaller(host, 3)) is not None:
        ladder.append((plan.checkpointing, plan.pieces))
    assert ladder == [(True, 1), (True, 2), (True, 3)]
    assert list(StepPlan(pieces=2).cut([0, 1, 2])) == [[0, 1], [2]]
    assert StepPlan().smaller(ToyHost(), 1) is None  # it has no blocks to recompute


def test_the_command_line_says_it_in_one_line(capsys):
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert run(work, as_json=False) == EXIT_ERROR
    assert capsys.readouterr().err == (
        "error: Out of memory. Close other programs, or use smaller pictures or a smaller base model.\n"
    )
