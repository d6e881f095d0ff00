"""Killed or out of room at any moment, nothing is lost: briefly here, at length with ``make fault``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied, and small disks mounted")
ROOT = Path(__file__).resolve().parents[2]
Writer = Callable[[Path, Path], None]


def test_whatever_is_broken_off_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    operations = ("adapt", "save", "export", "log", "consent")
    chosen = [word for name in operations for word in ("--operation", name)]
    asked = ("--moments", "1", "--workers", "1", *chosen, "--json", str(tmp_path / "f.json"))
    done = subprocess.run(
        [sys.executable, "tests/fault/run.py", *asked], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = json.loads((tmp_path / "f.json").read_text())
    assert done.returncode == 0 and found["findings"] == []
    assert (found["kills"], found["terminations"], found["disk_full"]) == (5, 1, 5)
    assert {found[kind] for kind in ("lost", "half_written", "not_bit_identical", "left_over_files")} == {0}


def _writes_in_place(folder: Path, inputs: Path) -> None:
    with (folder / "a").open("wb", buffering=0) as file:
        for _ in range(10):
            file.write(b"new")
            time.sleep(0.005)


def _removes_first(folder: Path, inputs: Path) -> None:
    (folder / "a").unlink()
    time.sleep(0.05)
    (folder / ".metalora-1").write_bytes(b"new")
    (folder / ".metalora-1").rename(folder / "a")


@pytest.mark.parametrize(("careless", "kind"), [(_writes_in_place, "half_written"), (_removes_first, "lost")])
def test_a_careless_writer_is_found_out(
    careless: Writer, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fault import breaker
    from fault.full_disk import SmallDisk
    from fault.operations import Operation

    monkeypatch.setitem(breaker.OPERATIONS, "careless", Operation(careless, ("a",)))
    inputs, disk, found = tmp_path / "inputs", SmallDisk(tmp_path / "disk", ""), breaker.Findings()
    inputs.mkdir()
    disk.folder.mkdir()
    (inputs / "a").write_bytes(b"older")
    unbroken = breaker.Unbroken.of("careless", inputs)
    breaking = breaker.Breaker("careless", unbroken, breaker.KILLS, disk, inputs, found)
    for seed in range(12):
        breaking.break_off(Random(seed))
    assert found.counts[kind] and found.counts["kills"] == 12
