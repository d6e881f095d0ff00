"""The real ComfyUI reads our names, latents and exports as the diffusers host means them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comfy_host import run_in_comfyui
from core.test_export import learned
from core.test_hosts import latents_for, timesteps_for, to_original_names
from core.tiny_models import MODELS, conditioning_for, tiny_autoencoder
from torch import Tensor

from metalora_core.files.atomic import atomic_save_safetensors
from metalora_core.files.bounded import read_safetensors
from metalora_core.files.export import export_lora
from metalora_core.files.identity import chain_factors
from metalora_core.hosts.latents import load_latent_space
from metalora_core.hosts.target_map import find_targets
from metalora_core.inject import Injection
from metalora_core.model.families import FLUX

pytestmark = pytest.mark.comfy

BASE = FLUX.bases[0]
LAYOUTS = ("comfyui", "kohya", "diffusers")
# One process for all cases: starting a ComfyUI takes far longer than what is asked of it.
SCRIPT = """
import json, torch, comfy.sd, comfy.utils, comfy.latent_formats, comfy.model_management as management
import comfy.model_detection, comfy.model_patcher
from safetensors.torch import load_file, save_file

def save(tensors, path):
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, path)

def predict(patcher, case):
    management.load_models_gpu([patcher], force_full_load=True)
    with torch.no_grad():
        return patcher.model.diffusion_model(case["noisy"], case["t"], context=case["context"], y=case["pooled"])

def load(folder):
    path = folder + "/model.safetensors"
    config = json.load(open(folder + "/config.json"))
    detected = comfy.model_detection.detect_unet_config(load_file(path), "")
    if detected.get("hidden_size") == config.get("hidden_size"):
        return comfy.sd.load_diffusion_model(path, {"dtype": torch.float32})
    # Older releases take every Flux for 3072 wide, whatever the file says.
    recipe = comfy.model_detection.model_config_from_unet_config(detected | config)
    recipe.set_inference_dtype(torch.float32, None)
    model = recipe.get_model(load_file(path), "")
    model.load_model_weights(load_file(path), "")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))

def models(folder):
    model = load(folder)
    case = load_file(folder + "/case.safetensors")
    results = {"base": predict(model, case)}
    for layout in ("comfyui", "kohya", "diffusers"):
        lora = comfy.utils.load_torch_file(folder + f"/{layout}.safetensors", safe_load=True)
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        results[layout + ".patches"] = torch.tensor(len(patched.patches))
        results[layout] = predict(patched, case)
    save(results, folder + "/results.safetensors")

def latents(folder):
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(folder + "/taesd.safetensors"))
    space = comfy.latent_formats.Flux()
    found = space.process_in(vae.encode(load_file(folder + "/images.safetensors")["images"].movedim(1, -1)))
    save({"latents": found, "decoded": vae.decode(space.process_out(found))}, folder + "/results.safetensors")

root, configs = ARGUMENTS
models(root + "/flux")
models(root + "/sd3")
latents(root + "/taesd")
names = {name: comfy.utils.unet_to_diffusers(config) for name, config in json.loads(configs).items()}
open(root + "/names.json", "w").write(json.dumps(names))
"""
CONFIGS: dict[str, dict[str, int]] = {
    "flux": {"hidden_size": 128, "num_heads": 1, "context_in_dim": 16, "vec_in_dim": 8},
    "sd3": {},
}
# num_res_blocks, channel_mult and transformer depths of the tiny UNets, as ComfyUI writes a configuration.
UNETS = {
    name: {
        "num_res_blocks": [2, 2],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 1, deep, deep],
        "transformer_depth_output": [1, 1, 1, deep, deep, deep],
        "transformer_depth_middle": max(1, deep),
    }
    for name, deep in (("sd15", 0), ("sdxl", 2))
}


def prepare_model(folder: Path, name: str) -> dict[str, Tensor]:
    """Write a tiny model, its exports and one question; return this host's answers."""
    host, prior, identity = learned(name)
    noisy, t, conditioning = latents_for(host), timesteps_for(host), conditioning_for(name)
    for layout in LAYOUTS:
        export_lora(folder / f"{layout}.safetensors", identity, prior, layout, host.targets())
    atomic_save_safetensors(folder / "model.safetensors", to_original_names(host.model))
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    unit = 1000 if name == "sd3" else 1
    atomic_save_safetensors(folder / "case.safetensors", {"noisy": noisy, "t": t * unit, **conditioning})
    with torch.no_grad():
        base = host.predict(noisy, t, conditioning)
        with Injection(host.model, host.targets(), chain_factors(identity, prior)):
            chained = host.predict(noisy, t, conditioning)
    return {"base": base, "chained": chained, "layers": torch.tensor(len(identity.layers))}


def prepare_latents(folder: Path) -> dict[str, Tensor]:
    """Write a tiny TAESD and a picture; return this host's latents and their decoding."""
    scale, shift = (BASE.scale, BASE.shift)
    state = {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(shift)}
    for key, value in tiny_autoencoder(width=64).state_dict().items():
        side, _, index, rest = key.split(".", 3)
        # Smaller weights keep this untrained decoder inside 0..1, where neither host clamps.
        state[f"taesd_{side}.{int(index) + (side == 'decoder')}.{rest}"] = value * 0.7
    atomic_save_safetensors(folder / "taesd.safetensors", state)
    images = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    atomic_save_safetensors(folder / "images.safetensors", {"images": images})
    space = load_latent_space(folder / "taesd.safetensors", BASE)
    with torch.no_grad():
        latents = space.encode(images)
        return {"latents": latents, "decoded": space.decode(latents)}


@pytest.fixture(scope="module")
def answers(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Tensor]]]:
    """The folder with ComfyUI's answers, and ours."""
    root = tmp_path_factory.mktemp("parity")
    ours = {name: prepare_model(root / name, name) for name in ("flux", "sd3")}
    ours["taesd"] = prepare_latents(root / "taesd")
    done = run_in_comfyui(comfyui, SCRIPT, [str(root), json.dumps(UNETS)])
    assert done.returncode == 0, done.stderr[-3000:]
    return root, ours


Answers = tuple[Path, dict[str, dict[str, Tensor]]]


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_model_predicts_the_same_in_comfyui(answers: Answers, name: str) -> None:
    root, ours = answers
    theirs = read_safetensors(root / name / "results.safetensors").tensors
    torch.testing.assert_close(theirs["base"], ours[name]["base"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_an_export_in_comfyui_equals_the_chain_here(answers: Answers, name: str, layout: str) -> None:
    root, ours = answers
    theirs = read_safetensors(root / name / "results.safetensors").tensors
    assert theirs[f"{layout}.patches"] == ours[name]["layers"]
    torch.testing.assert_close(theirs[layout], ours[name]["chained"], rtol=1e-5, atol=1e-5)
    assert (ours[name]["chained"] - ours[name]["base"]).abs().max() > 1e-3


def test_a_taesd_file_gives_the_same_latents_in_comfyui(answers: Answers) -> None:
    root, ours = answers
    theirs = read_safetensors(root / "taesd" / "results.safetensors").tensors
    torch.testing.assert_close(theirs["latents"], ours["taesd"]["latents"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs["decoded"].movedim(-1, 1), ours["taesd"]["decoded"], rtol=1e-5, atol=1e-5)
    assert min(value.std() for value in ours["taesd"].values()) > 1e-3


@pytest.mark.parametrize("name", list(UNETS))
def test_unet_names_are_those_of_comfyui(answers: Answers, name: str) -> None:
    theirs: dict[str, str] = json.loads((answers[0] / "names.json").read_text())[name]
    ours = {target.parts[0].module: target.name for target in find_targets(MODELS[name]())}
    shared = {path: theirs[f"{path}.weight"].removesuffix(".weight") for path in ours if f"{path}.weight" in theirs}
    assert len(shared) >= len(ours) - 3
    assert shared == {path: ours[path] for path in shared}
