"""The ComfyUI versions that the node tests run against: the first one found, and the last where there are several."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfy_host import find_comfyuis, skip_reason

VERSIONS = ("newest", "oldest")


def folder_of(version: str) -> Path:
    """The folder of a version; the test is skipped with the reason when it is not here."""
    found = find_comfyuis()
    if not found:
        pytest.skip(skip_reason())
    if version == "oldest" and len(found) == 1:
        pytest.skip(f"only {found[0]} was found; name an older ComfyUI too in COMFYUI_PATH to run this test with it")
    return found[0] if version == "newest" else found[-1]


def each_version() -> list[object]:
    """Parameters, one group a version, so that parallel workers start each host once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"comfyui-{name}")) for name in VERSIONS]
