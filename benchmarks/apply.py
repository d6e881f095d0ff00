"""Time to put an identity into a ComfyUI MODEL and take it out, beside core's Load LoRA; and what sampling costs then.

    python benchmarks/apply.py --json apply.json

Both sides start from tensors in memory and put the same delta in: ours from the identity's factors, core from the
LoRA that they fold into. They take turns in one process. Needs a ComfyUI with its own .venv.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path += [str(HERE.parent), str(HERE.parent / "tests")]
TURNS = {"pocket": 20, "300m": 5}


def processor_ms(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def in_comfyui(folder: Path, turns: int) -> dict[str, float]:
    import importlib

    import comfy.sd
    import speed_case as case
    import speed_worker as worker
    import torch

    torch.set_num_threads(1)
    pack = worker._pack()
    apply = importlib.import_module(f"{pack}.nodes.bridge.patching")
    chain = importlib.import_module(f"{pack}.metalora_core.chain").ChainFactors
    lora_tensors = importlib.import_module(f"{pack}.nodes.bridge.lora_tensors").lora_tensors
    model = worker._comfy_model(folder)
    sample, prior = case.load_case(folder)
    factors = {n: chain(x.meta_down, x.mid_init, x.up_init, prior.metadata.scale) for n, x in prior.layers.items()}
    lora = lora_tensors(factors)

    def ours(strength: float = 1.0) -> Any:
        return apply.apply_identity(model, factors, strength, apply.Window(), "patch", "this identity")[0]

    def core(strength: float = 1.0) -> Any:
        return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]

    def in_and_out(put: Callable[..., Any], strength: float = 1.0) -> None:
        patched = put(strength)
        patched.patch_model(device_to=torch.device("cpu"))
        patched.unpatch_model()

    conds = importlib.import_module(f"{pack}.nodes.bridge.host.conditioning")
    entry = [sample["context"], {"pooled_output": sample["pooled"]}]

    def predict(patched: Any) -> None:
        base = patched.model
        row = conds.model_conds(base, entry, sample["latent"], torch.device("cpu"), 1.0)
        base.apply_model(sample["noise"], torch.tensor([0.6]), **{name: cond.cond for name, cond in row.items()})

    with torch.inference_mode():
        return _turns(turns, ours, core, in_and_out, lambda patched=None: predict(patched or model))


def _turns(
    turns: int,
    ours: Callable[..., Any],
    core: Callable[..., Any],
    in_and_out: Callable[..., None],
    predict: Callable[..., None],
) -> dict[str, float]:
    """Both ways in turns; medians, and medians of the ratios of pairs."""
    import torch

    times: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        patched = ours()
        figures = {
            "ours_ms": processor_ms(lambda: in_and_out(ours)),
            "core_ms": processor_ms(lambda: in_and_out(core)),
            "strength_change_ms": processor_ms(lambda: ours(0.7)),
            "step_without_ms": processor_ms(predict),
        }
        patched.patch_model(device_to=torch.device("cpu"))
        figures["step_with_ms"] = processor_ms(lambda made=patched: predict(made))
        patched.unpatch_model()
        for name, value in figures.items() if turn else ():  # the first turn warms up
            times.setdefault(name, []).append(value)
    ratios = {
        "apply_vs_core_load_lora": _ratio(times["ours_ms"], times["core_ms"]),
        "sampling_with_vs_without": _ratio(times["step_with_ms"], times["step_without_ms"]),
    }
    return {name: statistics.median(values) for name, values in times.items()} | ratios


def _ratio(ours: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


def measure(folders: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Figures per model from the folders of their cases; empty where there is no ComfyUI."""
    from comfy_host import find_comfyui, python_of

    comfyui = find_comfyui()
    results: dict[str, dict[str, float]] = {}
    for model, folder in folders.items() if comfyui else ():
        command = [str(python_of(comfyui)), str(Path(__file__)), "worker", str(folder), str(TURNS[model]), str(comfyui)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            print(f"apply on {model} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        results[model] = json.loads(lines[-1].removeprefix("RESULT "))
    return results


def show(results: dict[str, dict[str, float]]) -> None:
    from metalora_core.evaluation.report.tables import table

    if not results:
        print("apply: not measured, no ComfyUI with its own .venv was found; set COMFYUI_PATH to one")
        return
    names = list(next(iter(results.values())))
    rows = [("putting an identity in and out", *results)]
    rows += [(name, *(f"{figures[name]:.3f}" for figures in results.values())) for name in names]
    print(table(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        folder, turns, comfyui = sys.argv[2:5]
        sys.argv = ["speed_worker.py", "none", comfyui]  # read when speed_worker prepares ComfyUI
        import speed_worker  # noqa: F401

        print("RESULT " + json.dumps(in_comfyui(Path(folder), int(turns))), flush=True)
    else:
        from speed_prepare import prepared

        with prepared(["pocket", "300m"], reference=False) as folders:
            found = measure(folders)
        show(found)
        if "--json" in sys.argv:
            Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps(found, indent=1) + "\n")
