"""Time and memory of an adaptation step beside core's Train LoRA and plain LoRA by diffusers and peft.

    python benchmarks/adapt_step.py --json speed.json
    python benchmarks/adapt_step.py --models pocket --rounds 5

Every contestant has a process of its own; they run one after the other in turns, on the same random model, targets,
photo and caption. A ratio is the median over the rounds of the two figures of one round. Core's rows need a ComfyUI
with its own .venv (COMFYUI_PATH, or beside this folder); the 12 B rows need a GPU. What is missing is said.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import apply as putting_in
from comfy_host import find_comfyui, python_of
from speed_prepare import prepared

from metalora_core.evaluation.report.tables import table

IN_COMFYUI = ("ours_comfy", "core_same", "core_all", "core_same_bf16")
NAMES = {
    "floor": "frozen base, forward and backward to its first targets",
    "ours": "Meta-LoRA, diffusers model",
    "ours_recomputing": "Meta-LoRA, diffusers model, recomputing blocks",
    "ours_compiled": "Meta-LoRA, diffusers model, compiled",
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
    "step_recomputing_vs_diffusers_peft": ("ours_recomputing", "peft", "step_ms"),
    "memory_recomputing_vs_diffusers_peft": ("ours_recomputing", "peft", "extra_bytes"),
    "step_compiled_vs_diffusers_peft": ("ours_compiled", "peft", "step_ms"),
    "step_compiled_vs_floor": ("ours_compiled", "floor", "step_ms"),
}
TURNS = {"pocket": (7, 15), "300m": (2, 3)}
"""Rounds and steps a turn, by default."""


class Contestant:
    """A worker that waits for its turns."""

    def __init__(self, name: str, comfyui: Path | None, log: IO[str]) -> None:
        self.name, self._log = name, log
        command = [sys.executable, str(HERE / "speed_worker.py"), name]
        if name in IN_COMFYUI and comfyui is not None:
            command = [str(python_of(comfyui)), *command[1:], str(comfyui)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def turn(self, folder: Path, steps: int) -> dict[str, Any] | None:
        """Figures of some steps, of memory and gradient for 0 steps; None once it has failed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._process.poll() is not None:
            return None
        self._process.stdin.write(f"{folder} {steps}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
        self._process.wait()
        self._log.seek(0)
        print(f"{self.name} failed:\n{self._log.read()[-2000:]}", file=sys.stderr)
        return None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def contestants_for(names: list[str], comfyui: Path | None) -> Generator[list[Contestant]]:
    """Their processes; those of core are left out where there is no ComfyUI."""
    with ExitStack() as stack:
        contestants: list[Contestant] = []
        for name in names:
            if comfyui is not None or name not in IN_COMFYUI:
                log = stack.enter_context(tempfile.TemporaryFile("w+"))
                contestants.append(Contestant(name, comfyui, log))
                stack.callback(contestants[-1].end)
        yield contestants


def measure_model(
    model: str, folder: Path, rounds: int, steps: int, contestants: list[Contestant]
) -> list[dict[str, Any]]:
    """One dictionary a round: contestant to figures. Memory and gradient are alike in all rounds: measured once."""
    weights = {c.name: c.turn(folder, 0) for c in contestants}
    results: list[dict[str, Any]] = []
    for number in range(rounds):
        results.append({})
        for contestant in contestants:
            figures, weight = contestant.turn(folder, steps), weights[contestant.name]
            if figures is not None and weight is not None:
                results[-1][contestant.name] = weight | figures
                megabytes = weight["extra_bytes"] / 2**20
                told = f"{figures['step_ms']:.1f} ms, {megabytes:.1f} MB"
                print(f"{model} {number + 1}/{rounds} {contestant.name}: {told}", flush=True)
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
    rounds: Annotated[int, typer.Option(help="Turns of every contestant; 0 for 7 on pocket, 2 on 300m.")] = 0,
    bf16: Annotated[bool, typer.Option(help="Core's bf16 training too; minutes on a CPU.")] = False,
    compiled: Annotated[bool, typer.Option(help="Ours compiled too; a minute or more a turn.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    comfyui, chosen = find_comfyui(), models.split(",")
    left_out = {"core_same_bf16": bf16, "ours_compiled": compiled}
    names = [name for name in NAMES if left_out.get(name, True)]
    results: dict[str, list[dict[str, Any]]] = {}
    with prepared(chosen) as folders:
        with contestants_for(names, comfyui) as contestants:
            for model in chosen:
                usual, steps = TURNS[model]
                results[model] = measure_model(model, folders[model], rounds or usual, steps, contestants)
        show(results, names)
        applied = putting_in.measure(folders)
    putting_in.show(applied)
    large = subprocess.run([sys.executable, str(HERE / "large_models.py")], capture_output=True, text=True, check=False)
    print(f"\n{large.stdout}{large.stderr[-2000:] if large.returncode else ''}")
    summary = summarise(results)
    summary["apply_vs_core_load_lora"] = next(iter(applied.values()), {}).get("apply_vs_core_load_lora")
    for name, value in summary.items():
        print(f"{name}: {'not measured' if value is None else value}")
    if json_file is not None:
        json_file.write_text(json.dumps({"summary": summary, "models": results, "apply": applied}, indent=1) + "\n")


def show(results: dict[str, list[dict[str, Any]]], names: list[str]) -> None:
    for model, rounds_of_model in results.items():
        print(f"\n{model}\n{table(rows_of(rounds_of_model, names))}")
        for ratio in RATIOS:
            value = median_ratio(rounds_of_model, ratio)
            print(f"{ratio}: {'not measured' if value is None else f'{value:.3f}'}")


if __name__ == "__main__":
    typer.run(main)
