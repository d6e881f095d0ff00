"""Laws of the step plan: a run whose step does not work goes on in another way and ends where it would have ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core.test_adaptation import OPTIONS, photos, same, tensors
from core.test_adaptation import prior as prior  # the fixture
from core.toy_host import ToyHost

from metalora_core.adaptation import adapt
from metalora_core.commands.terminal import EXIT_ERROR, run
from metalora_core.errors import OutOfMemory, is_compile_failure, is_out_of_memory
from metalora_core.files.prior import Prior
from metalora_core.training.retries import StepPlan

TWO = replace(OPTIONS, batch_size=2)


class Cramped(ToyHost):
    """Fails from a given pass on unless blocks are recomputed, or unless a pass has few samples."""

    checkpointing = False

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
    notes: list[str] = []
    host = Cramped(fails_at, error)
    result = adapt(host, prior, photos(), OPTIONS, on_note=notes.append)
    unbroken = adapt(ToyHost(), prior, photos(), OPTIONS)
    assert same(result.identity, unbroken.identity) and result.losses == unbroken.losses
    good = (fails_at - 1) // OPTIONS.read_every * OPTIONS.read_every
    assert notes == [f"A step did not fit into memory; going on from step {good}, recomputing blocks."]
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

    notes: list[str] = []
    result = adapt(Twice(13, error), prior, photos(), TWO, on_note=notes.append)
    assert [note.split("from step ")[1].split(",")[0] for note in notes] == ["10", "10"]
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
    with pytest.raises(OutOfMemory, match="It was said: MemoryError"):
        adapt(Cramped(1, MemoryError(), largest=0), prior, photos(), OPTIONS)


def test_goes_on_uncompiled_where_the_passes_cannot_be_compiled_and_says_why(prior: Prior):
    from torch._inductor.exc import InvalidCxxCompiler

    class WithoutCompiler(ToyHost):
        compiled = True

        def predict(self, noisy, t, conditioning):
            if self.compiled:
                raise InvalidCxxCompiler()
            return super().predict(noisy, t, conditioning)

    notes: list[str] = []
    host = WithoutCompiler()
    result = adapt(host, prior, photos(), OPTIONS, on_note=notes.append)
    assert same(result.identity, adapt(ToyHost(), prior, photos(), OPTIONS).identity)
    assert len(notes) == 1 and notes[0].startswith("The passes could not be compiled (No working C++ compiler")
    assert notes[0].endswith("; going on from step 0, keeping all activations.")
    assert result.memory == "keeping all activations" and host.compiled


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
    assert [list(range(3))[rows] for rows in StepPlan(pieces=2).cut(3)] == [[0, 1], [2]]
    assert StepPlan().smaller(ToyHost(), 1) is None  # it has no blocks to recompute


def test_the_command_line_says_it_in_one_line(capsys):
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert run(work, as_json=False) == EXIT_ERROR
    assert capsys.readouterr().err == (
        "error: Out of memory. Close other programs, or use smaller pictures or a smaller base model.\n"
    )
