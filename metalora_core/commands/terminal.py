"""What every command shares: errors and exit codes, progress bars, machine-readable answers, a clean Ctrl-C."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from ..checks import optional, visible
from ..errors import MetaLoRAError, TrainingCancelled, is_out_of_memory

if TYPE_CHECKING:
    from ..training.progress import StepProgress

    class OpenBar(Protocol):
        """From a label, and what is counted, to a training's on_progress."""

        def __call__(self, label: str, unit: str = "step") -> Callable[[StepProgress], None]:
            """Open a bar."""
            ...


EXIT_OK = 0
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

_INTERRUPTED = "Interrupted. No file was left half-written; you can run the same command again."


def run(command: Callable[[], Any], as_json: bool) -> int:
    """Run the command line and turn its errors into text and an exit code.

    Args:
        command: Does the work; may raise MetaLoRAError, KeyboardInterrupt or SystemExit.
        as_json: Print an error as a JSON object on standard output too.

    Returns:
        0, or 1 for an error of ours, 2 for wrong usage, 130 when interrupted.
    """
    try:
        with _library_notes():
            command()
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:  # how typer passes Ctrl-C on, without a message
            _complain(_INTERRUPTED, KeyboardInterrupt(), as_json)
        return stop.code if isinstance(stop.code, int) else EXIT_OK if stop.code is None else EXIT_ERROR
    except (KeyboardInterrupt, TrainingCancelled) as stop:
        _complain(str(stop) or _INTERRUPTED, stop, as_json)
        return EXIT_INTERRUPTED
    except (MetaLoRAError, OSError) as error:
        _complain(str(error), error, as_json)
        return EXIT_ERROR
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        text = "Out of memory. Close other programs, or use smaller pictures or a smaller base model."
        _complain(text, error, as_json)
        return EXIT_ERROR
    return EXIT_OK


def answer(fields: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a command's result on standard output: one JSON object for machines, or text for people."""
    out = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, default=str) if as_json else shown(text)
    sys.stdout.write(out.rstrip("\n") + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """Print a note beside the answer, on standard error."""
    sys.stderr.write(f"note: {shown(text)}\n")


class _Notes(logging.Handler):
    """Shows what the library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        remark(record.getMessage())


@contextmanager
def _library_notes() -> Generator[None]:
    logger, notes = logging.getLogger(__name__.partition(".")[0]), _Notes()
    level = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.setLevel(level)


def shown(text: str) -> str:
    """Untrusted text without the control characters that a terminal would act on, except line breaks."""
    return "\n".join(visible(line) for line in text.split("\n"))


@contextmanager
def counting_bar(label: str, unit: str, quiet: bool = False) -> Generator[Callable[[int, int], None]]:
    """A bar on standard error for things done one after the other: a function of how many are done, and of how many."""
    bars: Any = optional("tqdm", "The progress bar")
    with bars.tqdm(desc=label, unit=unit, disable=quiet, dynamic_ncols=True) as bar:

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        yield show


@contextmanager
def progress_bars(quiet: bool = False, *, checkpoint: Path | None = None) -> Generator[OpenBar]:
    """Progress bars on standard error: a function from a label to a training's on_progress.

    Args:
        quiet: Show nothing.
        checkpoint: Of a training that can resume: the first Ctrl-C lets the running steps end, so that they are saved,
            a second one stops at once. None leaves Ctrl-C as it is.

    Raises:
        TrainingCancelled: After Ctrl-C if there is a checkpoint; the text says how to resume.
    """
    bars: Any = optional("tqdm", "The progress bar")
    with ExitStack() as stack:
        asked = stack.enter_context(_interrupts(checkpoint)) if checkpoint is not None else list[int]()

        def open_bar(label: str, unit: str = "step") -> Callable[[StepProgress], None]:
            bar = stack.enter_context(bars.tqdm(desc=label, unit=unit, disable=quiet, dynamic_ncols=True))

            def show(progress: StepProgress) -> None:
                bar.total = progress.steps
                bar.set_postfix_str(f"loss {progress.loss:.4f}", refresh=False)
                bar.update(progress.step - bar.n)
                if progress.step == progress.steps:
                    bar.close()
                if asked:
                    raise TrainingCancelled(
                        f"Stopped after {unit} {progress.step}. Run the same command again to resume."
                    )

            return show

        yield open_bar


@contextmanager
def _interrupts(checkpoint: Path) -> Generator[list[int], None, None]:
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        sys.stderr.write("\nStopping when the running steps are done; press Ctrl-C again to stop at once.\n")

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # a system that shuts down does not wait for a step

    previous = {signal.SIGINT: signal.signal(signal.SIGINT, note), signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    try:
        yield asked
    except KeyboardInterrupt as stop:
        goes_on = f"resumes from {checkpoint}" if checkpoint.exists() else "starts over; no step was saved"
        raise TrainingCancelled(f"Stopped at once. The same command {goes_on}.") from stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _complain(text: str, error: BaseException, as_json: bool) -> None:
    if as_json:
        answer({"error": text, "kind": type(error).__name__}, "", as_json)
    sys.stderr.write(f"error: {shown(text)}\n")
