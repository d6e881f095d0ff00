"""A lock on an open file that the system releases if its process dies."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def locked(descriptor: int, seconds: float) -> Generator[None]:
    """Hold a file for this process alone; the system unlocks it if the process dies.

    Args:
        descriptor: Of a file open for writing.
        seconds: How long to wait for another process.

    Raises:
        TimeoutError: If another process holds it for longer.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            _lock(descriptor, True)
            break
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, f"another program held it for {seconds:g} seconds") from error
            time.sleep(0.01)
    try:
        yield
    finally:
        _lock(descriptor, False)


def _lock(descriptor: int, hold: bool) -> None:
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK if hold else msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if hold else fcntl.LOCK_UN)
