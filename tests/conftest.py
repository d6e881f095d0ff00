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
from comfy_host import find_comfyuis, skip_reason  # noqa: E402


@pytest.fixture(scope="session", params=find_comfyuis() or [None], ids=lambda path: path.name if path else "none")
def comfyui(request: pytest.FixtureRequest) -> Path:
    """The folder of a real ComfyUI, each that is found in turn; skipped with the reason when there is none."""
    if request.param is None:
        pytest.skip(skip_reason())
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a ComfyUI carries the marker ``comfy``."""
    for item in items:
        if "comfyui" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.comfy)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder for the signing key of commands outside of a ComfyUI."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"
