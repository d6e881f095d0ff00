"""How the tests find a real ComfyUI."""

from __future__ import annotations

import os
from pathlib import Path

import comfy_host
import pytest


def make_comfyui(folder: Path, *, interpreter: bool = True) -> Path:
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (folder / name).touch()
    if interpreter:
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "python").touch()
    return folder


def test_a_named_path_is_the_only_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nothing"))
    assert comfy_host.find_comfyui() is None
    assert str(tmp_path / "nothing") in comfy_host.skip_reason()


def test_several_versions_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [make_comfyui(tmp_path / "old"), make_comfyui(tmp_path / "new")]
    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join(map(str, both)))
    assert comfy_host.find_comfyuis() == [folder.resolve() for folder in both]


def test_one_without_an_interpreter_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui(tmp_path / "bare", interpreter=False)))
    assert comfy_host.find_comfyuis() == []


def test_our_nodes_do_not_hide_those_of_comfyui() -> None:
    import sys

    # A test may append more later; what matters is that every place a ComfyUI is imported from comes first.
    places = [Path(entry or os.getcwd()).resolve() for entry in sys.path]
    installed = max(i for i, place in enumerate(places) if place.name == "site-packages")
    assert places.index(comfy_host.ROOT) > installed
