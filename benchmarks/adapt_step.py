"""Time and memory of an adaptation step beside core's Train LoRA and plain LoRA by diffusers and peft.

    python benchmarks/adapt_step.py --json speed.json
    python benchmarks/adapt_step.py --models pocket --rounds 5

Every contestant runs in a process of its own, one after the other in turns, on the same random model, targets, photo
and caption. A ratio is the median over the rounds of the two figures of one round. Core's rows need a ComfyUI with its
own .venv (COMFYUI_PATH, or beside this folder); the 12 B rows need a GPU. What is missing is said.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import apply as putting_in
from comfy_host import find_comfyui, python_of

from metalora_core.terminal import table

IN_COMFYUI = ("ours_comfy", "core_same", "core_all", "core_same_bf16")
NAMES = {
    "floor": "frozen base, forward and backward to its first targets",
    "ours": "Meta-LoRA, diffusers model",
    "peft": "plain LoRA, diffusers + peft",
    "ours_comfy": "Meta-LoRA, in ComfyUI",
    "core_same": "core Train LoRA, same targets",
    "core_all": "core Train LoRA, all layers",
    "core_same_bf16": "core Train LoRA, same targets, bf16",
}
RATIOS = {
    "step_vs_core_same_targets": ("ours_comfy", "core_same", "step_ms"),
    "step_vs_core_all_layers": ("ours_comfy", "core_all", "step_ms"),
    "step_vs_diffusers_peft": ("ours", "peft", "step_ms"),
    "step_vs_floor": ("ours", "floor", "step_ms"),
    "memory_vs_core": ("ours_comfy", "core_same", "extra_bytes"),
    "memory_vs_diffusers_peft": ("ours", "peft", "extra_bytes"),
}
STEPS = {"pocket": 40, "300m": 5}


def run_worker(name: str, folder: Path, steps: int, comfyui: Path | None) -> dict[str, Any] | None:
    """Figures of one contestant, or None where its host is missing or it failed."""
    interpreter: Path | str | None = sys.executable
    arguments = [name, str(folder), str(steps)]
    if name in IN_COMFYUI:
        if comfyui is None:
            return None
        interpreter, arguments = python_of(comfyui), [*arguments, str(comfyui)]
    done = subprocess.run(
        [str(interpreter), str(HERE / "speed_worker.py"), *arguments], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    result = json.loads(lines[-1].removeprefix("RESULT "))
    readings = result["step_ms"]
    result["step_ms"] = statistics.median(readings[1:] or readings)  # the first ones warm up
    return result


def measure_model(model: str, rounds: int, contestants: list[str], comfyui: Path | None) -> list[dict[str, Any]]:
    """One dictionary a round: contestant to figures."""
    with tempfile.TemporaryDirectory() as folder:
        made = [sys.executable, str(HERE / "speed_prepare.py"), model, folder]
        subprocess.run(made, check=True)
        results: list[dict[str, Any]] = []
        for number in range(rounds):
            results.append({})
            for name in contestants:
                figures = run_worker(name, Path(folder), STEPS[model], comfyui)
                if figures is not None:
                    results[-1][name] = figures
                    megabytes = figures["extra_bytes"] / 2**20
                    print(f"{model} {number + 1}/{rounds} {name}: {figures['step_ms']:.1f} ms, {megabytes:.1f} MB")
        return results


def median_ratio(results: list[dict[str, Any]], ratio: str) -> float | None:
    ours, other, figure = RATIOS[ratio]
    pairs = [r[ours][figure] / r[other][figure] for r in results if ours in r and other in r]
    return statistics.median(pairs) if pairs else None


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figures of the first model; the gradient's cosine is the worst over all models and hosts."""
    first = next(iter(results.values()))
    summary: dict[str, Any] = {ratio: median_ratio(first, ratio) for ratio in RATIOS}
    cosines = [f["cosine"] for rounds in results.values() for r in rounds for f in r.values() if "cosine" in f]
    return summary | {"gradient_cosine_min": min(cosines, default=None)}


def rows_of(results: list[dict[str, Any]], contestants: list[str]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "ms a step", "extra MB", "gradient cosine")]
    for name in contestants:
        found = [r[name] for r in results if name in r]
        if not found:
            rows.append((NAMES[name], "not measured", "not measured", ""))
            continue
        time_ms = statistics.median(f["step_ms"] for f in found)
        memory = statistics.median(f["extra_bytes"] for f in found) / 2**20
        cosine = f"{min(f['cosine'] for f in found):.7f}" if "cosine" in found[0] else ""
        rows.append((NAMES[name], f"{time_ms:.1f}", f"{memory:.1f}", cosine))
    return rows


def main(
    models: Annotated[str, typer.Option(help="pocket, 300m, or both with a comma.")] = "pocket,300m",
    rounds: Annotated[int, typer.Option(help="Times that every contestant runs.")] = 3,
    bf16: Annotated[bool, typer.Option(help="Core's bf16 training too; minutes on a CPU.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    comfyui = find_comfyui()
    contestants = [name for name in NAMES if bf16 or name != "core_same_bf16"]
    results = {model: measure_model(model, rounds, contestants, comfyui) for model in models.split(",")}
    for model, rounds_of_model in results.items():
        print(f"\n{model}\n{table(rows_of(rounds_of_model, contestants))}")
        for ratio in RATIOS:
            value = median_ratio(rounds_of_model, ratio)
            print(f"{ratio}: {'not measured' if value is None else f'{value:.3f}'}")
    large = subprocess.run([sys.executable, str(HERE / "flux_12b.py")], capture_output=True, text=True, check=False)
    print(f"\n{large.stdout}{large.stderr[-2000:] if large.returncode else ''}")
    applied = putting_in.measure(list(results))
    putting_in.show(applied)
    summary = summarise(results)
    summary["apply_vs_core_load_lora"] = next(iter(applied.values()), {}).get("apply_vs_core_load_lora")
    for name, value in summary.items():
        print(f"{name}: {'not measured' if value is None else value}")
    if json_file is not None:
        json_file.write_text(json.dumps({"summary": summary, "models": results, "apply": applied}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
