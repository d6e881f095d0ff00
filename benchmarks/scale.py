"""How many subjects a run can take: ``make scale SCALE_ARGS="--json FILE"``.

Each row is a ratio, with the machine it was measured on:

- ``many_speedup``: time of single runs of ``adapt``, one command after the other, over that of one ``adapt-many`` over
  as many subjects of the small model, each from one photo with the preset. ``many_speedup_in_process`` compares the
  trainings alone, without the start of each program and its model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Sizes:
    """How much is run; the usual values are the full form."""

    subjects: int = 100
    singles: int = 4
    steps: int = 0


def main() -> None:
    """Measure the rows that are asked for, and print and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], help="only these groups of rows")
    for name, text in (
        ("subjects", "subjects of adapt-many"),
        ("singles", "of them, learned one by one to compare"),
        ("steps", "training steps of each; 0 for the preset"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes(), name), help=text)
    given = vars(parser.parse_args())
    path, chosen, sizes = given.pop("json"), given.pop("rows"), Sizes(**given)
    found: dict[str, object] = {"machine": machine()}
    for row in chosen:
        found |= ROWS[row](sizes)
        print(json.dumps(found, indent=1), flush=True)
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return {
        "processor": name,
        "cores": os.cpu_count(),
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


ROWS: Mapping[str, Callable[[Sizes], Mapping[str, object]]] = {"many": many}

if __name__ == "__main__":
    main()
