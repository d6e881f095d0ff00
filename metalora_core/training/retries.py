"""How a step of a training is computed, and what changes if that fails.

A run starts with the requested plan. Whenever a step does not fit into memory, it saves memory in the next way; if the
passes cannot be compiled, it continues without. Each time it resumes from the last good state. Recomputing blocks
changes nothing in the result; a batch in pieces and compiled passes change its rounding.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ..errors import OutOfMemory, TrainingDiverged, is_compile_failure, is_out_of_memory
from ..files.checkpoint import forget_checkpoint
from ..model.host import Host
from .batches import Batch

__all__ = [
    "Resumable",
    "StepPlan",
    "first_line",
    "free_memory",
    "kept_on_failure",
    "last_good_saved",
    "train_with_retries",
]

_Samples = TypeVar("_Samples", Batch, list[int])
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepPlan:
    """How a step is computed.

    Args:
        compiled: Passes are compiled; worth it for long runs only, see `metalora_core.model.compiled_pass`.
        checkpointing: Blocks are computed again in the backward pass: a third more time, a fraction of the memory.
        swapped: The blocks' weights are in main memory, and on the card only while they compute.
        pieces: Number of passes that a batch is split into; their gradients are summed.
    """

    compiled: bool = False
    checkpointing: bool = False
    swapped: bool = False
    pieces: int = 1

    @staticmethod
    def of(host: Host) -> StepPlan:
        """The plan that a host is set to."""
        return StepPlan(host.compiled, host.checkpointing, host.swapped and host.can_swap)

    def smaller(self, host: Host, samples: int) -> StepPlan | None:
        """The next plan that needs less memory, or None.

        Args:
            host: Says what it can save.
            samples: In a batch.
        """
        if not self.checkpointing and host.can_checkpoint:
            return replace(self, checkpointing=True)
        if self.pieces < samples:
            return replace(self, pieces=min(2 * self.pieces, samples))
        if self.checkpointing and not self.swapped and host.can_swap:
            return replace(self, compiled=False, swapped=True)
        return None

    def set_on(self, host: Host) -> None:
        """Let the host follow the plan from the next `Host.training` on."""
        host.compiled, host.checkpointing, host.swapped = self.compiled, self.checkpointing, self.swapped

    def cut(self, batch: _Samples) -> Iterator[_Samples]:
        """The pieces of a batch, or of a list with an entry for each of its samples."""
        size = -(-len(batch) // self.pieces)
        return (batch[start : start + size] for start in range(0, len(batch), size))

    @property
    def text(self) -> str:
        """As text, e.g. "recomputing blocks, the batch in 2 pieces"."""
        words = ["compiled"] if self.compiled else []
        words += ["blocks in main memory"] if self.swapped else []
        words += ["recomputing blocks"] if self.checkpointing else ["keeping all activations"]
        return ", ".join(words + ([f"the batch in {self.pieces} pieces"] if self.pieces > 1 else []))


class Resumable(Protocol):
    """State of a training that keeps its last good state."""

    @property
    def kept_step(self) -> int:
        """Step of the last good state."""
        ...

    def go_back(self) -> None:
        """Resume from the last good state."""
        ...

    def save(self, path: Path) -> None:
        """Write the state; it is the last good one."""
        ...


def train_with_retries(
    host: Host, samples: int, train: Callable[[StepPlan], None], state: Resumable
) -> tuple[StepPlan, tuple[str, ...]]:
    """Train to the end, with another plan whenever one fails.

    Args:
        host: Starts with the plan it is set to and has it again at the end.
        samples: In the largest batch.
        train: From the state's step to the last; called again after a failure.
        state: Taken back to its last good state after a failure.

    Returns:
        The plan that worked, and a line for each change; each is logged too.

    Raises:
        OutOfMemory: If a step does not fit even with every saving.
    """
    asked = plan = StepPlan.of(host)
    notes: list[str] = []
    try:
        while True:
            plan.set_on(host)
            failure = _attempt(train, plan)
            if failure is None:
                return plan, tuple(notes)
            # Nothing of the failed step is alive here: its frames went with the exception.
            free_memory(host.device)
            state.go_back()
            plan, reason = _other_plan(plan, host, samples, failure, state.kept_step)
            notes.append(f"{reason}; resuming from step {state.kept_step}, {plan.text}.")
            _LOG.warning("%s", notes[-1])
    finally:
        asked.set_on(host)


@dataclass(frozen=True)
class _Failure:
    """Why a plan did not work.

    Args:
        said: The error's first line.
        of_compiler: The passes could not be compiled; otherwise the run was out of memory.
    """

    said: str
    of_compiler: bool


def _attempt(train: Callable[[StepPlan], None], plan: StepPlan) -> _Failure | None:
    try:
        train(plan)
    except Exception as error:
        uncompiled = plan.compiled and is_compile_failure(error)
        if not (uncompiled or is_out_of_memory(error)):
            raise
        return _Failure(first_line(error), of_compiler=uncompiled)
    return None


def _other_plan(plan: StepPlan, host: Host, samples: int, failure: _Failure, step: int) -> tuple[StepPlan, str]:
    """The plan to continue with, and why in words."""
    if failure.of_compiler:
        return replace(plan, compiled=False), f"The passes could not be compiled ({failure.said})"
    smaller = plan.smaller(host, samples)
    if smaller is None:
        raise OutOfMemory(
            f"Step {step + 1} does not fit into memory, even {plan.text}. Use smaller pictures, free memory, or load "
            f"the base in fewer bits. The error was: {failure.said}"
        )
    return smaller, "A step did not fit into memory"


def first_line(error: BaseException) -> str:
    """What was said, of a compiler's backend what it met; the error is not kept, nor the frames that hang on it."""
    cause = getattr(error, "inner_exception", error)
    return (str(cause) or type(cause).__name__).splitlines()[0][:200]


def free_memory(device: torch.device) -> None:
    """Free what a failed step left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def kept_on_failure(
    state: Resumable,
    checkpoint: Path | None,
    result: Callable[[], object],
    *,
    forget: bool,
    saves: bool,
    can_save: Callable[[], bool] = lambda: True,
) -> Generator[None]:
    """Keep the last good state whatever stops a training: in the error, or as a checkpoint to resume from.

    The last state is written only where the result itself is not saved inside: on a disk that fills up the result
    comes first.

    Args:
        state: Of the training.
        checkpoint: Where to write it, unless no step was finished since it was read; None for nowhere.
        result: Makes what the error carries, once the state is back at its last good step.
        forget: Remove the checkpoint of a run that diverged: resumed, it would only diverge again.
        saves: The result is saved inside, and the checkpoint removed afterwards.
        can_save: Whether the state can be written after what was raised: several ranks have to do it together.

    Raises:
        TrainingDiverged: As it came, with ``last_good``.
    """
    began = state.kept_step
    try:
        yield
    except TrainingDiverged as error:
        state.go_back()
        error.last_good = result()
        if checkpoint is not None and forget:
            forget_checkpoint(checkpoint)
        raise
    except BaseException:  # a host's own interrupt may be anything; finished steps are saved
        if checkpoint is not None and state.kept_step != began and can_save():
            state.go_back()
            state.save(checkpoint)
        raise
    if checkpoint is None:
        return
    if not saves:
        state.save(checkpoint)
        return
    forget_checkpoint(checkpoint)


@contextmanager
def last_good_saved(path: Path, save: Callable[[Path, Any], object]) -> Generator[None]:
    """Save what a training had learned by its last good step if it diverges inside.

    Args:
        path: Of the whole result; what is saved gets ".last_good" into its name, if there was a good step.
        save: Writes it.

    Raises:
        TrainingDiverged: As it came; the text says where the result is.
    """
    try:
        yield
    except TrainingDiverged as error:
        if error.last_good is None or not error.last_good_step:
            raise
        kept = path.with_suffix(f".last_good{path.suffix}")
        save(kept, error.last_good)
        text = f"{error} What was learned up to step {error.last_good_step} is saved as {kept}."
        raise TrainingDiverged(text, error.step, error.last_good_step, error.last_good) from error
