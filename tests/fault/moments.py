"""An operation in a process of its own that is broken off at a moment: killed, or by a disk that fills up."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metalora_core.errors import MetaLoRAError

DONE, EXPLAINED, UNEXPLAINED = 0, 1, 70
_WATCHED = ("open", "os.", "shutil.")


@dataclass(frozen=True)
class Moment:
    """When something happens to a run.

    Attributes:
        happens: What; given the run's process, or 0 for the own one.
        seconds: After the start, unless there is an event.
        event: Number of the file-system call in the run's folder before which it happens, from 1; 0 for none.
    """

    happens: Callable[[int], None]
    seconds: float = 0.0
    event: int = 0


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: DONE, EXPLAINED after an error in the program's words, UNEXPLAINED after another, or minus a signal.
        printed: What it said.
    """

    code: int
    printed: str


def run(work: Callable[[], None], folder: Path, moment: Moment | None = None) -> Ended:
    """Run an operation to its end, or until a moment ends it.

    Args:
        work: The operation.
        folder: Where it writes.
        moment: Breaks it off.
    """

    def watched(number: int) -> None:
        if moment is not None and number == moment.event:
            moment.happens(0)

    reading, writing = os.pipe()  # no file: that may be what cannot be written
    process = os.fork()
    if process == 0:
        code = UNEXPLAINED
        try:
            if moment is not None and moment.event:
                _watch(folder, watched)
            code = _code_of(work, writing)
        finally:
            os._exit(code)
    os.close(writing)
    if moment is not None and not moment.event:
        time.sleep(moment.seconds)
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            moment.happens(process)
    with os.fdopen(reading, errors="replace") as said:
        printed = said.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), printed)


def measured(work: Callable[[], None], folder: Path) -> tuple[float, int]:
    """Run an operation to its end; returns its seconds and the number of its file-system calls in the folder."""
    began, counter = time.monotonic(), mmap.mmap(-1, mmap.PAGESIZE)  # shared with the process

    def counted() -> None:
        _watch(folder, lambda number: counter.__setitem__(slice(8), number.to_bytes(8, "little")))
        work()

    ended = run(counted, folder)
    if ended.code != DONE:
        raise AssertionError(f"An unbroken run ended with {ended.code}: {ended.printed[-2000:]}")
    return time.monotonic() - began, int.from_bytes(counter[:8], "little")


def _watch(folder: Path, on_call: Callable[[int], None]) -> None:
    seen, place = 0, str(folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        paths = [os.fsdecode(one) for one in arguments if isinstance(one, (str, bytes, os.PathLike))]
        if event.startswith(_WATCHED) and any(path.startswith(place) for path in paths):
            seen += 1
            on_call(seen)

    sys.addaudithook(hook)


def _code_of(work: Callable[[], None], writing: int) -> int:
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    try:
        work()
    except MetaLoRAError:
        return EXPLAINED
    except BaseException:  # noqa: BLE001 - whatever is not explained is what is looked for
        os.write(2, traceback.format_exc().encode())
        return UNEXPLAINED
    return DONE


def kill(process: int) -> None:
    """End a process as the system does when memory runs out: nothing of it runs any more."""
    os.kill(process or os.getpid(), signal.SIGKILL)


def terminate(process: int) -> None:
    """Ask a process to end, as the system does before it shuts down."""
    os.kill(process or os.getpid(), signal.SIGTERM)
