"""The benchmark's worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, time
from metalora_core.evaluation.runner import _workers

def nothing():
    return None

def number_of_process(_):
    time.sleep(0.5)
    return os.getpid()

if __name__ == "__main__":
    with _workers(2, nothing) as pool:
        print(*set(pool.map(number_of_process, range(4))), flush=True)
        time.sleep(120)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill(pid, 0) asks nothing on Windows")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    workers = [int(number) for number in parent.stdout.readline().split()]
    assert workers
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(map(_alive, workers)):
        time.sleep(0.1)
    assert not any(map(_alive, workers))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
