"""Breaks the program off at random moments and looks for what that costs: ``make fault``.

Each of six operations runs in processes of its own that are killed, or whose disk fills up to the last byte; trainings
are also asked to end, as by a system that shuts down. Half of the moments are random in time, half are before a random
file-system call. Then the same is started again, as a user would, and has to end as if nothing had happened.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[1:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
from fault.full_disk import SmallDisk  # noqa: E402 - before torch and its threads

if TYPE_CHECKING:
    from fault.breaker import Findings, Unbroken

TRAININGS = ("adapt", "meta-train")
NAMES = (*TRAININGS, "save", "export", "log", "consent")
SHOWN = 20


def _share(
    place: Path, small: SmallDisk, asked: argparse.Namespace, worker: int, unbroken: dict[str, Unbroken]
) -> Findings:
    """What one worker finds at its part of the moments."""
    from fault.breaker import DISK_FULL, KILLS, TERMINATIONS, Breaker, Findings

    found, large = Findings(), SmallDisk(place / f"large{worker}", "")
    large.folder.mkdir()
    for name, run in unbroken.items():
        kinds = {KILLS: large, DISK_FULL: small} | ({TERMINATIONS: large} if name in TRAININGS else {})
        for kind, disk in kinds.items():
            breaker = Breaker(name, run, kind, disk, place / "inputs", found)
            for number in range(worker, asked.moments, asked.workers):
                breaker.break_off(Random(f"{asked.seed} {name} {kind} {number}"))
            if worker == 0:
                took = f"a run takes {run.seconds:.2f} s and {run.calls} calls"
                print(f"{name}, {kind}: {took}; {len(found.told)} findings", file=sys.stderr, flush=True)
    return found


def _in_parallel(place: Path, disks: list[SmallDisk], asked: argparse.Namespace) -> Findings:
    """All workers' findings; each is a copy of this process, which has imported everything."""
    from fault.breaker import Findings, Unbroken

    unbroken = {name: Unbroken.of(name, place / "inputs") for name in asked.operation or NAMES}
    workers: list[int] = []
    for number, disk in enumerate(disks):
        workers.append(os.fork())
        if workers[-1] == 0:
            try:
                text = json.dumps(vars(_share(place, disk, asked, number, unbroken)))
            except BaseException:  # noqa: BLE001 - the parent says it
                text = json.dumps({"counts": {"unexplained_errors": 1}, "told": [traceback.format_exc()]})
            (place / f"found{number}.json").write_text(text)
            os._exit(0)
    found = Findings()
    for number, process in enumerate(workers):
        os.waitpid(process, 0)
        part = json.loads((place / f"found{number}.json").read_text())
        found.counts = {kind: count + part["counts"].get(kind, 0) for kind, count in found.counts.items()}
        found.told += part["told"]
    return found


def _search(place: Path, asked: argparse.Namespace) -> dict[str, object]:
    began = time.monotonic()
    disks = [SmallDisk.at(place / f"small{worker}") for worker in range(asked.workers)]
    try:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # a thread of its own would not be in the copies of this process
        from fault.operations import make_inputs

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_inputs(place / "inputs")
        gc.freeze()  # what all copies share stays shared
        found = _in_parallel(place, disks, asked)
    finally:
        for disk in disks:
            disk.unmount()
    means = f"a limit on file sizes ({disks[0].refusal})" if disks[0].refusal else "a small disk"
    return {
        **found.counts,
        "full_by": means,
        "seconds": round(time.monotonic() - began),
        "findings": found.told[:SHOWN],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=200, help="of each kind for each operation")
    parser.add_argument("--operation", action="append", choices=NAMES, help="one of them; all if left out")
    parser.add_argument("--workers", type=int, default=2, help="how many moments are tried side by side")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same moments")
    parser.add_argument("--json", type=Path, help="file for the result")
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="metalora_fault_"))
    try:
        result = _search(place, asked)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    text = json.dumps(result, indent=2)
    print(text, flush=True)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(result["findings"]))


if __name__ == "__main__":
    main()
