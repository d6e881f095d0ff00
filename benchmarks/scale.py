"""How many subjects a run can take: ``make scale SCALE_ARGS="--json FILE"``.

Each row is a ratio, with the machine it was measured on:

- ``many_speedup``: time of single runs of ``adapt``, one command after the other, over that of one ``adapt-many`` over
  as many subjects of the small model, each from one photo with the preset. ``many_speedup_in_process`` compares the
  trainings alone, without the start of each program and its model.
- ``memory_ratio_100k`` and ``step_ratio_100k``: peak memory and step time of stage 1 with 100,000 synthetic subjects
  over those with 100, the bank in mapped files, the same batch.
- ``checkpoint_pause_steps`` and ``resume_memory_ratio``: with 10,000 subjects, how many steps a checkpoint takes, and
  the peak memory of a run that resumes from it over that of one that writes none.
- ``two_ranks_speedup``: subjects a second of two ranks of stage 1 over those of one; each has a core to itself if there
  are two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor

STEPS, PAUSE_AT, CHANNELS = 24, 16, 16


@dataclass(frozen=True)
class Sizes:
    """How much is run; the usual values are the full form."""

    subjects: int = 100
    singles: int = 4
    steps: int = 0
    few: int = 100
    lots: int = 100_000
    saved: int = 10_000


def main() -> None:
    """Measure the rows that are asked for, and print and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], help="only these groups of rows")
    for name, text in (
        ("subjects", "subjects of adapt-many"),
        ("singles", "of them, learned one by one to compare"),
        ("steps", "training steps of each; 0 for the preset"),
        ("few", "synthetic subjects of the small run of stage 1"),
        ("lots", "of the large one"),
        ("saved", "of the one that writes a checkpoint"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes(), name), help=text)
    parser.add_argument("--worker", nargs=3, metavar=("SUBJECTS", "FOLDER", "CHECKPOINT"), help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    if worker := given.pop("worker"):
        measured = stage_1(int(worker[0]), Path(worker[1]), worker[2])
        if os.environ.get("RANK", "0") == "0":  # of those that torchrun starts, the first
            print(json.dumps(measured))
        return
    path, chosen, sizes = given.pop("json"), given.pop("rows"), Sizes(**given)
    found: dict[str, object] = {"machine": machine()}
    for row in chosen:
        found |= ROWS[row](sizes)
        print(json.dumps(found, indent=1), flush=True)
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        # Above 0 before a run: other programs took time from it.
        "busy": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "torch": torch.__version__,
    }


def many(sizes: Sizes) -> Mapping[str, object]:
    """One run over a folder against single runs."""
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "subjects", Path(place) / "out"
        names = render_subjects(folder, sizes.subjects)
        usual = ["--class-word", "person", "--steps", str(sizes.steps), "--json"]
        singles = list[tuple[float, float]]()
        for name in names[: sizes.singles]:
            singles.append(timed("adapt", str(folder / name), "--output", str(out / f"{name}.safetensors"), *usual))
        whole, training = timed("adapt-many", str(folder), "--output", str(Path(place) / "many"), *usual)
        count, apart = len(names), difference(Path(place) / "many", out, names[: sizes.singles])
    single, single_training = (sum(times) / len(singles) for times in zip(*singles, strict=True))
    return {
        "many_speedup": single * count / whole,
        "many_speedup_in_process": single_training * count / training,
        "many": {
            "subjects": count,
            "seconds": whole,
            "seconds_training": training,
            "single_seconds": single,
            "single_seconds_training": single_training,
            "largest_difference": apart,
        },
    }


def render_subjects(folder: Path, count: int) -> list[str]:
    """Draw a photo of each avatar into a folder of its own; returns their names."""
    from metalora_core.photos.pictures import save_picture, to_pil
    from metalora_core.pocket.world.factors import draw_subject
    from metalora_core.pocket.world.render import render
    from metalora_core.pocket.world.scenes import draw_scenes

    names = [f"avatar_{number:03d}" for number in range(count)]
    for number, name in enumerate(names):
        photo = render([draw_subject("avatars", "validation", number)], draw_scenes("avatars", 1, 41_000 + number))
        save_picture(to_pil(photo[0]), folder / name / "photo.png")
    return names


def timed(*words: str) -> tuple[float, float]:
    """Seconds of a command, and those that it says its trainings took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "metalora_core", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return time.monotonic() - began, float(json.loads(done.stdout)["seconds"])


def difference(together: Path, alone: Path, names: list[str]) -> float:
    """Largest difference of a subject's ΔW, learned side by side and alone, as a share of its size."""
    from metalora_core.files.identity import load_identity

    found = list[float]()
    for name in names:
        one, other = (load_identity(folder / f"{name}.safetensors").layers for folder in (together, alone))
        deltas = [(one[layer].up @ one[layer].mid, other[layer].up @ other[layer].mid) for layer in one]
        apart, size = (
            sum(float(part.square().sum()) for part in parts)
            for parts in (((a - b) for a, b in deltas), (b for _, b in deltas))
        )
        found.append((apart / size) ** 0.5)
    return max(found)


class SyntheticSubjects:
    """Subjects of random latents, drawn when they are asked for, so that the data takes no memory."""

    domain = "noise"

    def __init__(self, count: int) -> None:
        """So many subjects of two photos."""
        self._count = count

    def __len__(self) -> int:
        """Subjects."""
        return self._count

    def latents_of(self, subject: int) -> Tensor:
        """Two latents of 4 x 4 positions."""
        return torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(subject))

    def captions_of(self, subject: int) -> list[str]:
        """The same for all."""
        return ["photo of a person"] * 2


def stage_1(subjects: int, folder: Path, checkpoint: str) -> dict[str, float]:
    """Steps of stage 1 on the attention of one block of the small model: their time, and the peak memory."""
    from metalora_core.meta_training import meta_train
    from metalora_core.pocket import load_pocket_host
    from metalora_core.training.meta_options import MetaTrainingOptions
    from metalora_core.training.ranks import joined

    torch.set_num_threads(1)
    joined("cpu")
    host, moments = load_pocket_host(), list[float]()
    options = MetaTrainingOptions(
        steps=STEPS, subjects_per_batch=8, r_meta=4, r_mid=1, read_every=1, checkpoint_every=PAUSE_AT,
        include=("*blocks.0.*attn*",), bank_folder=folder,
    )  # fmt: skip
    path = Path(checkpoint) if checkpoint else None
    meta_train(
        host, SyntheticSubjects(subjects), options, on_progress=lambda one: moments.append(one.seconds), checkpoint=path
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    taken = [after - before for before, after in pairwise(moments)]
    # The report of the step in which the checkpoint was written comes after it.
    usual = median(taken[3:] or [0.0])
    pause = taken[PAUSE_AT - 2] - usual if len(taken) >= PAUSE_AT - 1 else 0.0
    return {"peak_bytes": peak, "step_seconds": usual, "pause_seconds": pause}


def worker(subjects: int, place: str, checkpoint: str = "", ranks: int = 1) -> dict[str, float]:
    """As `stage_1`, in processes of their own, with the bank in a folder of this place; what the first rank says."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    words = [sys.executable, *torchrun, __file__, "--worker", str(subjects), f"{place}/bank", checkpoint]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def bank(sizes: Sizes) -> Mapping[str, object]:
    """Peak memory and step time by the number of subjects."""
    with tempfile.TemporaryDirectory() as place:
        few, lots = worker(sizes.few, f"{place}/few"), worker(sizes.lots, f"{place}/lots")
    return {
        "memory_ratio_100k": lots["peak_bytes"] / few["peak_bytes"],
        "step_ratio_100k": lots["step_seconds"] / few["step_seconds"],
        "bank": {str(sizes.few): few, str(sizes.lots): lots},
    }


def checkpoint(sizes: Sizes) -> Mapping[str, object]:
    """What a checkpoint of many subjects costs, and a run that resumes from it."""
    with tempfile.TemporaryDirectory() as place:
        path = str(Path(place) / "checkpoint.safetensors")
        plain, saving = worker(sizes.saved, place), worker(sizes.saved, place, path)
        size, resuming = Path(path).stat().st_size, worker(sizes.saved, place, path)
    return {
        "checkpoint_pause_steps": saving["pause_seconds"] / plain["step_seconds"],
        "resume_memory_ratio": resuming["peak_bytes"] / plain["peak_bytes"],
        "checkpoint": {"bytes": size, "plain": plain, "saving": saving, "resuming": resuming},
    }


def two_ranks(sizes: Sizes) -> Mapping[str, object]:
    """Subjects a second of two ranks over those of one."""
    with tempfile.TemporaryDirectory() as place:
        one, two = worker(sizes.few, f"{place}/one"), worker(sizes.few, f"{place}/two", ranks=2)
    return {"two_ranks_speedup": 2 * one["step_seconds"] / two["step_seconds"], "two_ranks": {"1": one, "2": two}}


ROWS: Mapping[str, Callable[[Sizes], Mapping[str, object]]] = {
    "many": many,
    "bank": bank,
    "checkpoint": checkpoint,
    "two_ranks": two_ranks,
}

if __name__ == "__main__":
    main()
