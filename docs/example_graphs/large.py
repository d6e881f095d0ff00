"""The examples for large models: the same path on FLUX.2 klein, Z-Image and FLUX.1-dev, with the files they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .graph import File, Graph, Output
from .pocket_parts import BLUE, BROWN, GREEN, VIOLET, pictures

SIDE_PX = 1024
KLEIN = "https://huggingface.co/Comfy-Org/flux2-klein/resolve/main/split_files"
Z_IMAGE = "https://huggingface.co/Comfy-Org/z_image/resolve/main/split_files"
Z_IMAGE_TURBO = "https://huggingface.co/Comfy-Org/z_image_turbo/resolve/main/split_files"
FLUX_TEXT = "https://huggingface.co/comfyanonymous/flux_text_encoders/resolve/main"
FILES = {
    "klein": File("diffusion_models", "flux-2-klein-base-4b.safetensors", KLEIN + "/diffusion_models"),
    "klein text": File("text_encoders", "qwen_3_4b.safetensors", KLEIN + "/text_encoders"),
    "klein vae": File(
        "vae", "flux2-vae.safetensors", "https://huggingface.co/Comfy-Org/flux2-dev/resolve/main/split_files/vae"
    ),
    "z-image": File("diffusion_models", "z_image_bf16.safetensors", Z_IMAGE + "/diffusion_models"),
    "z-image text": File("text_encoders", "qwen_3_4b.safetensors", Z_IMAGE_TURBO + "/text_encoders"),
    "z-image vae": File("vae", "ae.safetensors", Z_IMAGE_TURBO + "/vae"),
    "flux": File(
        "diffusion_models", "flux1-dev.safetensors", "https://huggingface.co/Comfy-Org/flux1-dev/resolve/main"
    ),
    "clip l": File("text_encoders", "clip_l.safetensors", FLUX_TEXT),
    "t5": File("text_encoders", "t5xxl_fp16.safetensors", FLUX_TEXT),
    "flux vae": File(
        "vae",
        "ae.safetensors",
        "https://huggingface.co/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae",
    ),
}


@dataclass(frozen=True)
class Loaded:
    """What the loaders of a model give."""

    model: Output
    clip: Output
    vae: Output


def adapt_klein() -> Graph:
    """02a: FLUX.2 klein learns from photos without a prior."""
    return _adapt(
        "02a_adapt_flux2_klein", "FLUX.2 klein", lambda graph: _load(graph, "klein", "flux2"), _klein_sampler,
        "FLUX.2 klein base 4B has an Apache-2.0 licence and learns well. For faster pictures, apply the identity to "
        "the distilled `flux-2-klein-4b.safetensors`: 4 steps and a cfg of 1.",
    )  # fmt: skip


def adapt_z_image() -> Graph:
    """02b: Z-Image learns from photos without a prior."""
    return _adapt(
        "02b_adapt_z_image", "Z-Image", lambda graph: _load(graph, "z-image", "lumina2"), _z_image_sampler,
        "Train on Z-Image rather than on Z-Image Turbo: training takes the distillation out of a turbo model. The "
        "identity can be applied to Turbo.",
    )  # fmt: skip


def adapt_flux() -> Graph:
    """02c: FLUX.1-dev learns from photos without a prior."""
    return _adapt(
        "02c_adapt_flux1_dev", "FLUX.1-dev", _load_flux, _flux_sampler,
        "Read its licence before commercial use. fp8 versions of the model and of t5xxl need half of the memory: "
        "choose yours in the loaders.",
    )  # fmt: skip


def _adapt(
    name: str,
    title: str,
    load: Callable[[Graph], Loaded],
    sample: Callable[[Graph, Loaded, Output], Output],
    advice: str,
) -> Graph:
    graph = Graph(name)
    with graph.group(f"1  {title}", BLUE):
        loaded = load(graph)
        graph.note(
            f"### {title}\nA file that is missing is listed by ComfyUI with its address and its folder. Another "
            f"version of it can be chosen in the loader.\n\n{advice}\n\n### No model yet?\nExample 01 shows the "
            "same with a small model that ships with the pack.",
            tall=330,
        )
    with graph.group("2  Your photos, and the permission to use them", VIOLET):
        references, prior = _photos(graph)
    with graph.group("3  Learn", GREEN):
        identity = graph.add(
            "MetaLoRA_AdaptIdentity", model=loaded.model, clip=loaded.clip, vae=loaded.vae, prior=prior,
            references=references,
        )  # fmt: skip
        graph.add("MetaLoRA_SaveIdentity", identity=identity["identity"], filename="my_person")
        graph.add("LossGraphNode", loss=identity["loss_map"])
        graph.note(
            "### Another day\nUnmute **Load Identity** and connect it to Apply Identity in place of Adapt Identity. No "
            "training is needed. (Adapt Identity also finds what it learned from the same photos.)"
        )
        graph.add("MetaLoRA_LoadIdentity", muted=True)
    with graph.group("4  Generate", BROWN):
        applied = graph.add("MetaLoRA_ApplyIdentity", model=loaded.model, identity=identity["identity"])
        latent = sample(graph, loaded, applied["model"])
        pictures(graph, latent, loaded.vae, f"meta-lora/{name.partition('_')[0]}")
    return graph


def _photos(graph: Graph) -> tuple[Output, Output]:
    """Prepared photos, and the prior that one may have."""
    photo = graph.add("LoadImage", title="Load Image: choose your photo")
    consent = graph.add("MetaLoRA_RecordConsent", images=photo["IMAGE"])
    graph.column()
    prior = graph.add("MetaLoRA_LoadPrior", title="Load Meta-LoRA Prior: made for this model", muted=True)
    references = graph.add(
        "MetaLoRA_PrepareReferences", images=photo["IMAGE"], prior=prior["prior"], consent=consent["consent"],
        caption="photo of a person, smiling, in front of a white wall",
    )  # fmt: skip
    graph.note(
        "### One photo is enough\nUse a sharp photo in even light. For several, drop them on **Prepare Reference "
        "Photos** and remove **Load Image**. Say in the caption what is *not* part of the person: pose, light, "
        "place.\n\n"
        "### A prior\nWith one, fewer steps are needed: put one made for this model into `models/metalora` and unmute "
        "**Load Meta-LoRA Prior**. Examples 04 and 08 show how to make one.",
        tall=290,
    )
    return references["references"], prior["prior"]


def _load(graph: Graph, name: str, clip_type: str) -> Loaded:
    """A model with one text encoder."""
    model = graph.add("UNETLoader", unet_name=FILES[name])
    clip = graph.add("CLIPLoader", clip_name=FILES[f"{name} text"], type=clip_type)
    vae = graph.add("VAELoader", vae_name=FILES[f"{name} vae"])
    return Loaded(model["MODEL"], clip["CLIP"], vae["VAE"])


def _load_flux(graph: Graph) -> Loaded:
    model = graph.add("UNETLoader", unet_name=FILES["flux"])
    clip = graph.add("DualCLIPLoader", clip_name1=FILES["clip l"], clip_name2=FILES["t5"], type="flux")
    vae = graph.add("VAELoader", vae_name=FILES["flux vae"])
    return Loaded(model["MODEL"], clip["CLIP"], vae["VAE"])


def _prompt(graph: Graph, loaded: Loaded) -> Output:
    text = "photo of a ohwx person reading a newspaper in a sunny café, 50 mm lens"
    return graph.add("CLIPTextEncode", title="Prompt", clip=loaded.clip, text=text)["CONDITIONING"]


def _klein_sampler(graph: Graph, loaded: Loaded, applied: Output) -> Output:
    prompt = _prompt(graph, loaded)
    negative = graph.add("CLIPTextEncode", title="Negative prompt", clip=loaded.clip, text="")["CONDITIONING"]
    graph.column()
    guider = graph.add("CFGGuider", model=applied, positive=prompt, negative=negative, cfg=5.0)["GUIDER"]
    latent = graph.add("EmptyFlux2LatentImage", width=SIDE_PX, height=SIDE_PX)["LATENT"]
    sigmas = graph.add("Flux2Scheduler", steps=20, width=SIDE_PX, height=SIDE_PX)["SIGMAS"]
    sampler = graph.add("KSamplerSelect", sampler_name="euler")["SAMPLER"]
    noise = graph.add("RandomNoise", noise_seed=1)["NOISE"]
    return graph.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )["output"]


def _z_image_sampler(graph: Graph, loaded: Loaded, applied: Output) -> Output:
    prompt = _prompt(graph, loaded)
    negative = graph.add("CLIPTextEncode", title="Negative prompt", clip=loaded.clip, text="")["CONDITIONING"]
    shifted = graph.add("ModelSamplingAuraFlow", model=applied, shift=3.0)["MODEL"]
    graph.column()
    return _ksampler(graph, shifted, prompt, negative, steps=25, cfg=4.0)


def _flux_sampler(graph: Graph, loaded: Loaded, applied: Output) -> Output:
    prompt = _prompt(graph, loaded)
    guided = graph.add("FluxGuidance", conditioning=prompt, guidance=3.5)["CONDITIONING"]
    empty = graph.add("ConditioningZeroOut", conditioning=prompt)["CONDITIONING"]
    graph.column()
    return _ksampler(graph, applied, guided, empty, steps=25, cfg=1.0)


def _ksampler(graph: Graph, model: Output, positive: Output, negative: Output, *, steps: int, cfg: float) -> Output:
    latent = graph.add("EmptySD3LatentImage", width=SIDE_PX, height=SIDE_PX, batch_size=1)["LATENT"]
    return graph.add(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=1, steps=steps,
        cfg=cfg, sampler_name="euler", scheduler="simple",
    )["LATENT"]  # fmt: skip
