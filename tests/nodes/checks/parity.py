"""One identity through Apply Identity, core's two LoRA loaders, hooks, and the diffusers host: the same latents."""

from __future__ import annotations

from typing import Any

import torch

from checks.support import SAMPLER_STEPS, adapt, close, conditioning, folders, pack, pocket, sampled

PROMPT = "photo of a ohwx person, smiling, looking left, head level, light from the right, blue background"


def check_all_ways_give_the_same_latents() -> dict[str, float]:
    from comfy_extras.nodes_train import LoraModelLoader

    import nodes

    folders()
    model = pocket()[0]
    learned, lora, *_ = adapt(steps=12)
    prompt = conditioning(PROMPT)
    with torch.inference_mode():
        truth = sampled(pack("nodes.apply").ApplyIdentity.execute(model, learned, 1.0).args[0], prompt)
        path = pack("nodes.files").ExportLoRA.execute(learned, "parity", "comfyui").args[0]
        kohya = pack("nodes.files").ExportLoRA.execute(learned, "parity_kohya", "kohya").args[0]
        _refresh("loras")
        loader = nodes.LoraLoaderModelOnly()
        ways = {
            "export in Load LoRA": loader.load_lora_model_only(model, "parity.safetensors", 1.0)[0],
            "kohya export in Load LoRA": loader.load_lora_model_only(model, "parity_kohya.safetensors", 1.0)[0],
            "LORA_MODEL in Load LoRA Model": _core_loader(LoraModelLoader, model, lora),
            "bypass": pack("nodes.apply").ApplyIdentity.execute(model, learned, 1.0, method="bypass").args[0],
        }
    figures = {name: close(sampled(way, prompt), truth) for name, way in ways.items()}
    figures["hook on the conditioning"] = close(sampled(model, _hooked(prompt, learned)), truth)
    figures["diffusers host"] = close(_through_diffusers(learned), truth)
    # As the sampler has them; the node gives them out stretched for the VAE.
    stretch = close(model.model.process_latent_in(truth), model.model.process_latent_in(-truth)) / close(truth, -truth)
    largest = float(model.model.process_latent_in(truth).abs().max())
    figures = {name: difference * stretch / largest for name, difference in figures.items()}
    moved = close(sampled(model, prompt), truth) * stretch
    assert moved > 1e-2, "the identity changes too little for this to say anything"
    assert max(figures.values()) < 1e-5, figures
    return figures | {"identity against base": moved, "files": float(len(path) > 0 and len(kohya) > 0)}


def check_an_export_carries_strength_author_and_thumbnail() -> None:
    """At strength 0.5 a loader at 1 gives what Apply Identity gives at 0.5."""
    from safetensors import safe_open

    import nodes

    model, learned = pocket()[0], adapt(steps=12)[0]
    described = {"strength": 0.5, "author": " A. Painter ", "thumbnail": pocket()[4][:1]}
    with torch.inference_mode():
        outcome = pack("nodes.files").ExportLoRA.execute(learned, "described", "comfyui", **described)
        _refresh("loras")
        loaded = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "described.safetensors", 1.0)[0]
        half = pack("nodes.apply").ApplyIdentity.execute(model, learned, 0.5).args[0]
        assert close(sampled(loaded, conditioning(PROMPT)), sampled(half, conditioning(PROMPT))) < 1e-4
    with safe_open(outcome.args[0], "pt") as file:
        record = file.metadata()
    assert record["modelspec.author"] == "A. Painter"
    assert record["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert "8- or 4-bit base" in str(outcome.ui.as_dict()), outcome.ui.as_dict()


def _core_loader(node: Any, model: Any, lora: Any) -> Any:
    # A class method since 0.3.76 or so; before, an instance with another method name.
    run = getattr(node, "execute", None) or node().load_lora_model
    answer = run(model, lora, 1.0)
    return answer[0]


def _refresh(folder: str) -> None:
    import folder_paths

    folder_paths.filename_list_cache.pop(folder, None)


def _hooked(prompt: Any, learned: Any, mask: Any = None, strength: float = 1.0) -> Any:
    from comfy.hooks import set_conds_props

    hooks = pack("nodes.apply").IdentityHook.execute(learned, strength).args[0]
    return set_conds_props([prompt], strength=1.0, set_cond_area="default", mask=mask, hooks=hooks)[0]


def _through_diffusers(learned: Any) -> torch.Tensor:
    """The same noise and steps through the library's own sampler on diffusers' model."""
    host = pack("metalora_core.pocket.load").load_pocket_host()
    injection = pack("metalora_core.inject").Injection
    with torch.no_grad(), injection(host.model, host.targets(), learned.factors()):
        # core's KSampler draws its noise from torch's global generator, seeded; it samples what the VAE would decode.
        latents = pack("metalora_core.model.sampling").sample(
            host,
            host.encode_prompts([PROMPT]),
            shape=(1, 16, 16, 16),
            steps=SAMPLER_STEPS,
            generator=torch.Generator().manual_seed(1),
        )
    return pocket()[0].model.process_latent_out(latents)


def check_masks_of_ones_and_zeros() -> dict[str, float]:
    """A mask of ones is no mask; a mask of zeros is no identity."""
    learned, *_ = adapt(steps=12)
    model, prompt = pocket()[0], conditioning(PROMPT)
    ones, zeros = torch.ones(1, 128, 128), torch.zeros(1, 128, 128)
    with torch.inference_mode():
        whole = sampled(model, _hooked(prompt, learned))
        masked = sampled(model, _hooked(prompt, learned, mask=ones))
        absent = sampled(model, [*prompt, *_hooked(conditioning(PROMPT), learned, mask=zeros)])
        nothing = sampled(model, _hooked(prompt, learned, strength=0.0))
    base = sampled(model, prompt)
    figures = {"ones": close(masked, whole), "zeros": close(absent, base), "strength 0": close(nothing, base)}
    assert figures["ones"] < 1e-5 and figures["zeros"] < 1e-4 and figures["strength 0"] < 1e-6, figures
    assert close(whole, base) > 1e-2
    return figures
