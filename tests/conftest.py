"""Where the tests find the packages, and the fixtures that every folder shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Set before torch is imported anywhere: on a busy machine two OpenMP threads make tiny models far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# The root goes to the end: its folder `nodes/` would otherwise hide ComfyUI's own `nodes.py`.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT]
sys.path += [str(ROOT), str(TESTS)]

import pytest  # noqa: E402
from comfy_host import find_comfyui, skip_reason  # noqa: E402


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of a real ComfyUI; the test is skipped with the reason when there is none."""
    found = find_comfyui()
    if found is None:
        pytest.skip(skip_reason())
    return found
