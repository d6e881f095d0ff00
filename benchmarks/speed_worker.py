"""One contestant of benchmarks/adapt_step.py in a process of its own, which stays alive between its turns.

python speed_worker.py CONTESTANT [COMFYUI_FOLDER]

Every line of standard input is a case's folder and a number of steps; each is answered with one line of JSON. No steps
means: measure memory and gradient instead of time.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARGUMENTS = sys.argv[1:]
if len(ARGUMENTS) > 1:  # inside a ComfyUI: its folder first, ours last, since both have a "nodes"
    sys.argv = ["main.py", "--cpu"]
    sys.path.insert(0, ARGUMENTS[1])
    import comfy.options

    comfy.options.enable_args_parsing()
sys.path.append(str(HERE.parent))

import speed_case as case
import speed_measure as measure
import torch
from safetensors.torch import load_file

from metalora_core.adaptation import adapt

Run = Callable[[int, measure.Clock], object]


def ours(folder: Path, **settings: bool) -> tuple[Run, Any]:
    """The pack's own loop.

    Args:
        folder: The case's.
        settings: Attributes of the host, such as ``checkpointing``.
    """
    host = case.load_case_host(folder)
    for name, value in settings.items():
        setattr(host, name, value)
    _, prior = case.load_case(folder)

    def run(steps: int, clock: measure.Clock) -> None:
        adapt(host, prior, case.PHOTOS, measure.options(steps), on_progress=clock.on_progress)

    return run, host


def floor(folder: Path) -> tuple[Run, None]:
    """The frozen base forward, and backward to the input of its first targets."""
    host = case.load_case_host(folder)
    sample, _ = case.load_case(folder)
    conditioning, block = host.encode_prompts(["photo"]), host.model.transformer_blocks[0]

    def start_here(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0].detach().requires_grad_(), *output[1:])

    for norm in (block.norm1, block.norm1_context):
        norm.register_forward_hook(start_here)

    def run(steps: int, clock: measure.Clock) -> None:
        for step in range(steps):
            noisy = torch.lerp(sample["latent"], sample["noise"], 0.6)
            error = host.predict(noisy, sample["t"], conditioning) - (sample["noise"] - sample["latent"])
            error.square().mean().backward()
            if (step + 1) % measure.look_every(steps) == 0:
                clock(step + 1)

    return run, None


def peft(folder: Path) -> tuple[Run, None]:
    from metalora_core.evaluation.methods.peft_lora import PlainLoRAOptions, train_plain_lora

    host = case.load_case_host(folder)
    plain = PlainLoRAOptions(rank=case.PLAIN_RANK)
    targets = case.targets_of(host)

    def run(steps: int, clock: measure.Clock) -> None:
        train_plain_lora(host, case.PHOTOS, targets, measure.options(steps), plain, on_progress=clock.on_progress)

    return run, None


def ours_comfy(folder: Path) -> tuple[Run, Any]:
    pack = _pack()
    bridge = importlib.import_module(f"{pack}.nodes.bridge.host.comfy_host")
    conds = importlib.import_module(f"{pack}.nodes.bridge.host.conditioning")
    sample, prior = case.load_case(folder)

    class Host(bridge.ComfyHost):
        def encode_images(self, images: Any) -> Any:
            return sample["latent"].clone()

        def encode_prompts(self, prompts: list[str]) -> Any:
            entry = [sample["context"], {"pooled_output": sample["pooled"]}]
            for prompt in prompts:
                row = conds.model_conds(self._patcher.model, entry, sample["latent"], self.device, 1.0)
                self.captions.keep(prompt, row)
            return self.captions.numbered(prompts)

    host = Host(_comfy_model(folder), resolution=128)

    def run(steps: int, clock: measure.Clock) -> None:
        adapt(host, prior, case.PHOTOS, measure.options(steps), on_progress=clock.on_progress)

    return run, host


_TRAIN_LORA: dict[str, Any] = {
    "batch_size": 1,
    "grad_accumulation_steps": 1,
    "learning_rate": 5e-4,
    "rank": case.PLAIN_RANK,
    "optimizer": "AdamW",
    "loss_function": "MSE",
    "seed": 0,
    "lora_dtype": "fp32",
    "quantized_backward": False,
    "algorithm": "LoRA",
    "gradient_checkpointing": True,
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}


def _core(folder: Path, *, same_targets: bool, dtype: str = "fp32") -> tuple[Run, None]:
    """Core's Train LoRA with its own defaults; on the same targets, or on all layers as it does by itself."""
    import comfy_extras.nodes_train as core

    model = _comfy_model(folder)
    sample, prior = case.load_case(folder)
    if same_targets:
        core._setup_lora_adapters = _adapters_on({f"diffusion_model.{name}" for name in prior.layers})
    positive = [[sample["context"], {"pooled_output": sample["pooled"]}]]

    def run(steps: int, clock: measure.Clock) -> None:
        done = 0

        class Bar:
            def __init__(self, total: int) -> None: ...

            def update(self, count: int) -> None:
                nonlocal done
                done += count
                clock(done)

        core.ProgressBar = Bar
        latents = [{"samples": sample["latent"]}]
        lists = {name: [value] for name, value in _TRAIN_LORA.items()}
        lists |= {"steps": [steps], "training_dtype": [dtype]}
        with torch.inference_mode():
            core.TrainLoraNode.execute(model=[model], latents=latents, positive=[positive], **lists)

    return run, None


def core_same(folder: Path) -> tuple[Run, None]:
    return _core(folder, same_targets=True)


def core_all(folder: Path) -> tuple[Run, None]:
    return _core(folder, same_targets=False)


def core_same_bf16(folder: Path) -> tuple[Run, None]:
    return _core(folder, same_targets=True, dtype="bf16")


def _adapters_on(names: set[str]) -> Callable[..., Any]:
    import comfy_extras.nodes_train as core

    def setup(patcher: Any, existing: Any, algorithm: str, dtype: Any, rank: int) -> Any:
        state, adapters = {}, []
        for name, module in patcher.model.named_modules():
            if name in names:
                adapter, parameters = core._create_weight_adapter(module, name, existing, algorithm, dtype, rank)
                state.update(parameters)
                patcher.add_weight_wrapper(f"{name}.weight", adapter)
                adapters.append(adapter)
        assert len(adapters) == len(names)
        return state, adapters

    return setup


def _comfy_model(folder: Path) -> Any:
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(folder / "model.safetensors"))


def _pack() -> str:
    name = "metalora_pack"
    root = HERE.parent
    spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return name


CONTESTANTS = {
    "floor": floor, "ours": ours, "ours_recomputing": partial(ours, checkpointing=True),
    "ours_compiled": partial(ours, compiled=True), "peft": peft, "ours_comfy": ours_comfy, "core_same": core_same,
    "core_all": core_all, "core_same_bf16": core_same_bf16,
}  # fmt: skip


def timed(run: Run, steps: int) -> dict[str, Any]:
    clock = measure.Clock()
    run(steps, clock)
    return {"step_ms": statistics.median(clock.step_ms)}


def weighed(run: Run, host: Any, folder: Path) -> dict[str, Any]:
    """Extra memory of two steps; where the chain is trained, the gradient beside the float64 one."""
    result: dict[str, Any] = {"extra_bytes": measure.peak_extra_bytes(lambda: run(2, measure.Clock()))}
    if host is not None:
        sample, prior = case.load_case(folder)
        with torch.inference_mode(False):
            ours = measure.gradient_of(host, prior, sample)
        result["cosine"] = measure.cosine(ours, load_file(folder / "reference.safetensors"))
    return result


def main(name: str) -> None:
    torch.set_num_threads(1)
    loaded: Path | None = None
    run: Any = None
    host: Any = None
    for line in sys.stdin:
        folder_name, steps = line.rsplit(maxsplit=1)
        folder = Path(folder_name)
        if folder != loaded:
            run = host = None  # a model before the next one, never two
            run, host = CONTESTANTS[name](folder)
            run(2, measure.Clock())
            loaded = folder
        result = timed(run, int(steps)) if int(steps) else weighed(run, host, folder)
        print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(ARGUMENTS[0])
