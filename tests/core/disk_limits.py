"""A disk that takes no more than so many bytes of one file, by the operating system's own limit."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager

import pytest


@contextmanager
def file_size_limit(size_bytes: int) -> Generator[None]:
    """Writing beyond this length fails inside as on a full disk; skips where there is no such limit."""
    if os.name != "posix":
        pytest.skip("file size limits are a Unix thing")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
