"""Core's Train LoRA for the identity benchmark: learns subjects in a real ComfyUI and draws them there.

python core_train_lora.py --find              prints the ComfyUI that would be used, or says why there is none
python core_train_lora.py JOB.safetensors RESULT.safetensors

The job holds ``photos`` (subjects, photos, 3, H, W) and ``noise`` (subjects, prompts, C, h, w), and in its metadata
``job``: JSON with captions, prompts, seeds, steps, learning_rate, sampling_steps, guidance. The result holds
``pictures`` (steps, subjects, prompts, 3, H, W) and ``seconds`` (steps, subjects). `metalora_core.evaluation` writes
the one and reads the other.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_IN_COMFYUI = "import runpy\nrunpy.run_path(ARGUMENTS[0], {'ARGUMENTS': ARGUMENTS[1:]}, 'in_comfyui')\n"
_NEEDED = "def _setup_lora_adapters("
_SETTINGS: dict[str, Any] = {
    "batch_size": 1, "grad_accumulation_steps": 1, "rank": 8, "optimizer": "AdamW", "loss_function": "MSE",
    "training_dtype": "fp32", "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
    "gradient_checkpointing": True, "checkpoint_depth": 1, "offloading": False, "existing_lora": "[None]",
    "bucket_mode": False, "bypass_mode": False,
}  # fmt: skip
"""The node's defaults, in float32: on a CPU its bf16 is only slower."""


def usable_comfyui() -> tuple[Path | None, str]:
    """A ComfyUI whose Train LoRA can be watched while it trains, or the reason why there is none."""
    from comfy_host import find_comfyuis, skip_reason

    found = find_comfyuis()
    for folder in found:
        source = folder / "comfy_extras" / "nodes_train.py"
        if source.is_file() and _NEEDED in source.read_text(encoding="utf-8"):
            return folder, ""
    names = ", ".join(map(str, found))
    return None, f"the Train LoRA of {names} cannot be watched; 0.33 can" if found else skip_reason()


def main(arguments: list[str]) -> int:
    """Outside of ComfyUI: find one and run this file in it."""
    sys.path.append(str(ROOT / "tests"))
    from comfy_host import run_in_comfyui

    folder, reason = usable_comfyui()
    if folder is None or arguments == ["--find"]:
        print(folder or reason)
        return 0 if folder else 3
    paths = [str(Path(argument).resolve()) for argument in arguments]
    done = run_in_comfyui(folder, _IN_COMFYUI, [str(Path(__file__).resolve()), *paths], timeout_s=3600)
    if done.returncode:
        print(f"Train LoRA failed in {folder}:\n{done.stderr[-2000:]}", file=sys.stderr)
    return done.returncode


def learn_and_draw(job_path: str, result_path: str) -> None:
    """Inside of ComfyUI: every subject at every step."""
    import comfy.sd
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    with safe_open(job_path, "pt") as file:
        job = json.loads(file.metadata()["job"])
        photos, noise = file.get_tensor("photos"), file.get_tensor("noise")
    pack = _pack()
    pocket = importlib.import_module(f"{pack}.nodes.bridge.pocket_model")
    hosts = importlib.import_module(f"{pack}.nodes.bridge.host.comfy_host")
    with torch.inference_mode():
        _, clip, vae, _ = pocket.load_pocket(job["domain"])
        # The node copies its model by loading it again, so it has to come from a file.
        base = comfy.sd.load_diffusion_model(str(pocket.load.BASE_FILE)), clip, vae
    pictures, seconds = [], []
    for number in range(len(photos)):
        host = hosts.ComfyHost(*base, resolution=photos.shape[-1])
        learned = _train(base, host, photos[number], job["captions"][number], job["seeds"][number], job)
        drawn = [_draw(hosts, pack, base, state, job["prompts"][number], noise[number], job) for state, _ in learned]
        pictures.append(torch.stack(drawn))
        seconds.append(torch.tensor([taken for _, taken in learned]))
    save_file({"pictures": torch.stack(pictures, 1), "seconds": torch.stack(seconds, 1)}, result_path)


def _train(base: Any, host: Any, photos: Any, captions: list[str], seed: int, job: dict[str, Any]) -> list[Any]:
    """LoRA and seconds after each of the steps; one training holds them all, since its rate is constant."""
    import comfy_extras.nodes_train as core
    import torch

    model, clip, vae = base
    wanted, kept, made = set(job["steps"]), list[Any](), list[Any]()
    setup, began = core._setup_lora_adapters, 0.0

    def watched(*arguments: Any) -> Any:
        made.append(setup(*arguments))
        return made[-1]

    class Bar:
        """Stands where the node reports its progress."""

        def __init__(self, total: int) -> None:
            self.done = 0

        def update(self, count: int) -> None:
            self.done += count
            if self.done in wanted:
                state = {name: tensor.detach().clone() for name, tensor in made[0][0].items()}
                kept.append((state, time.monotonic() - began))

    bar, core._setup_lora_adapters, core.ProgressBar = core.ProgressBar, watched, Bar
    settings = {**_SETTINGS, "learning_rate": job["learning_rate"], "seed": seed, "steps": max(wanted)}
    try:
        with torch.inference_mode():
            latents = [{"samples": vae.encode(photo[None].movedim(1, -1))} for photo in photos]
            positive = [clip.encode_from_tokens_scheduled(clip.tokenize(caption)) for caption in captions]
            began = time.monotonic()
            torch.manual_seed(seed)  # the node draws photos and noise levels from the global generator
            core.TrainLoraNode.execute(
                model=[model], latents=latents, positive=positive, **{name: [v] for name, v in settings.items()}
            )
    finally:
        core._setup_lora_adapters, core.ProgressBar = setup, bar
    return kept


def _draw(hosts: Any, pack: str, base: Any, state: Any, prompts: list[str], noise: Any, job: dict[str, Any]) -> Any:
    import comfy.sd
    import torch

    sampling = importlib.import_module(f"{pack}.metalora_core.model.sampling")
    model, clip, vae = base
    with torch.inference_mode():
        patched, _ = comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)
    host = hosts.ComfyHost(patched, clip, vae, resolution=noise.shape[-1] * 8)
    with host.sampling():
        latents = sampling.sample(
            host,
            host.encode_prompts(prompts),
            None if job["guidance"] == 1 else host.encode_prompts([""] * len(prompts)),
            shape=noise.shape,
            noise=noise,
            steps=job["sampling_steps"],
            guidance=job["guidance"],
        )
    return host.decode_latents(latents)


def _pack() -> str:
    name = "metalora_pack"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
if __name__ == "in_comfyui":
    learn_and_draw(*ARGUMENTS)  # type: ignore[name-defined]  # noqa: F821
