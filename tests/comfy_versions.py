"""The ComfyUI versions that the node tests run against: the newest one found, and an old one where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from comfy_host import find_comfyui, is_comfyui, python_of, skip_reason

VERSIONS = ("newest", "oldest")


def folder_of(version: str) -> Path:
    """The folder of a version; the test is skipped with the reason when it is not here."""
    if version == "newest":
        found = find_comfyui()
        if found is None:
            pytest.skip(skip_reason())
        return found
    named = os.environ.get("COMFYUI_PATH_OLD")
    old = Path(named).expanduser() if named else Path.home() / "comfy" / "ComfyUI-0.3.64"
    if not is_comfyui(old) or python_of(old) is None:
        pytest.skip(f"no old ComfyUI with its own .venv found in {old}; set COMFYUI_PATH_OLD to one to run this test")
    return old.resolve()


def each_version() -> list[object]:
    """Parameters, one group a version, so that parallel workers start each host once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"comfyui-{name}")) for name in VERSIONS]
