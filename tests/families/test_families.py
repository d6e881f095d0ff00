"""Families that differ in how they are built, in the newest ComfyUI found; `make families` tries all of them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from comfy_versions import folder_of
from families import walk

pytestmark = [pytest.mark.comfy, pytest.mark.slow, pytest.mark.xdist_group("families")]
# Captions of the prompt's length; a VAE with frames; tokens of a sample in rows of their own; another noise schedule.
FAMILIES = ("z_image", "qwen_image", "pixart_sigma", "sdxl_edm_playground")


@functools.cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(walk.rows_of(folder_of("newest"), ["families", *FAMILIES], timeout_s=600))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_applies_comes_off_and_exports(family: str) -> None:
    row = next(row for row in _rows() if row.get("family") == family)
    assert walk.passed(row), row


def test_every_family_of_comfyui_is_tried_or_left_out_for_a_reason() -> None:
    assert _rows()[0]["unknown"] == []
