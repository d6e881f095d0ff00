"""The trainings still give the recorded numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden.make_golden import golden


def test_numbers_did_not_move():
    recorded = json.loads((Path(__file__).parent / "golden.json").read_text())
    found = golden()
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
