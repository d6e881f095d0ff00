"""The examples in which something is learned: a subject with the pocket model, with FLUX.1-dev, and a prior."""

from __future__ import annotations

from .graph import Graph, Node
from .pocket_parts import (
    BLUE,
    BROWN,
    GREEN,
    OWN_PRIOR_STEPS,
    PERSON,
    SCENE,
    VIOLET,
    learn,
    pictures,
    prompts,
    sampler,
)

FLUX_FILES = """
### FLUX.1-dev
Choose your files in the loaders:
- model: `flux1-dev.safetensors` or an fp8 version
- text encoders: `t5xxl_fp8_e4m3fn.safetensors` and `clip_l.safetensors`
- VAE: `ae.safetensors`

They come from [black-forest-labs/FLUX.1-dev](https://huggingface.co/black-forest-labs/FLUX.1-dev) and
[comfyanonymous/flux_text_encoders](https://huggingface.co/comfyanonymous/flux_text_encoders).

### The prior
None exists for FLUX.1-dev yet, so this example learns without one. With one, fewer steps are needed: put it into
`models/metalora` and unmute **Load Meta-LoRA Prior**. To train one, open example 04, replace the pocket model with
FLUX.1-dev and choose your folder of subjects.
"""


def adapt_and_generate() -> Graph:
    """01: photos in, pictures out, with nothing downloaded."""
    graph = Graph("01_adapt_and_generate")
    with graph.group("1  Photos of one subject", BLUE):
        graph.note(
            "### Press Run\nEverything here ships with the pack and runs on any computer. The sample photos show a "
            "person the pocket model has never seen.\n\nFor your own model and photos, see example 02.",
            tall=190,
        )
        learned = learn(graph)
        graph.add("MetaLoRA_SaveIdentity", identity=learned.identity["identity"], filename="sample_person")
        graph.add("LossGraphNode", loss=learned.identity["loss_map"])
    with graph.group("2  Pictures of the subject", GREEN):
        applied = graph.add(
            "MetaLoRA_ApplyIdentity", model=learned.pocket["model"], identity=learned.identity["identity"]
        )
        positive, negative = prompts(graph, learned.pocket["clip"], SCENE)
        graph.column()
        sampled = sampler(graph, applied["model"], positive, negative)
        graph.column()
        pictures(graph, sampled, learned.pocket["vae"], "meta-lora/01_with_identity", title="With the identity")
    with graph.group("3  The same prompt without", BROWN):
        latent = sampled.inputs["latent_image"]
        plain = sampler(graph, learned.pocket["model"], positive, negative, latent=latent)
        pictures(graph, plain, learned.pocket["vae"], "meta-lora/01_without", title="Without the identity")
    return graph


def adapt_flux() -> Graph:
    """02: the same for FLUX.1-dev; the user chooses the files."""
    graph = Graph("02_adapt_flux1_dev")
    with graph.group("1  FLUX.1-dev", BLUE):
        model = graph.add("UNETLoader", title="Load Diffusion Model: choose flux1-dev", weight_dtype="default")
        clip = graph.add("DualCLIPLoader", title="Load CLIP: choose t5xxl and clip_l", type="flux")
        vae = graph.add("VAELoader", title="Load VAE: choose ae")
        prior = graph.add("MetaLoRA_LoadPrior", title="Load Meta-LoRA Prior: made for FLUX.1-dev", muted=True)
        graph.note(FLUX_FILES, tall=330)
    with graph.group("2  Your photos, and the permission to use them", VIOLET):
        photo = graph.add("LoadImage", title="Load Image: choose your photo")
        consent = graph.add(
            "MetaLoRA_RecordConsent",
            images=photo["IMAGE"],
            subject="Name of the person",
            granted_by="Name of the person",
        )
        graph.column()
        references = graph.add(
            "MetaLoRA_PrepareReferences", images=photo["IMAGE"], prior=prior["prior"], consent=consent["consent"],
            caption="photo of a person, smiling, in front of a white wall",
        )  # fmt: skip
        graph.note(
            "### One photo is enough\nUse a sharp photo in even light. Join several photos with **Batch Images** or "
            "connect a dataset node. Say in the caption what is *not* part of the person: pose, light, place."
        )
    with graph.group("3  Learn", GREEN):
        identity = graph.add(
            "MetaLoRA_AdaptIdentity", model=model["MODEL"], clip=clip["CLIP"], vae=vae["VAE"], prior=prior["prior"],
            references=references["references"],
        )  # fmt: skip
        graph.add("MetaLoRA_SaveIdentity", identity=identity["identity"], filename="my_person")
        graph.add("LossGraphNode", loss=identity["loss_map"])
        graph.note(
            "### Another day\nUnmute **Load Identity** and connect it to Apply Identity in place of Adapt Identity. No "
            "training is needed. (Adapt Identity also finds what it learned from the same photos.)"
        )
        graph.add("MetaLoRA_LoadIdentity", muted=True)
    with graph.group("4  Generate", BROWN):
        _flux_pictures(graph, model, clip, vae, identity)
    return graph


def _flux_pictures(graph: Graph, model: Node, clip: Node, vae: Node, identity: Node) -> None:
    applied = graph.add("MetaLoRA_ApplyIdentity", model=model["MODEL"], identity=identity["identity"])
    text = graph.add(
        "CLIPTextEncode", title="Prompt", clip=clip["CLIP"],
        text="photo of a ohwx person reading a newspaper in a sunny café, 50 mm lens",
    )  # fmt: skip
    guided = graph.add("FluxGuidance", conditioning=text["CONDITIONING"], guidance=3.5)["CONDITIONING"]
    empty = graph.add("ConditioningZeroOut", conditioning=text["CONDITIONING"])["CONDITIONING"]
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024, batch_size=1)["LATENT"]
    graph.column()
    sampled = graph.add(
        "KSampler", model=applied["model"], positive=guided, negative=empty, latent_image=latent, seed=1, steps=25,
        cfg=1.0, sampler_name="euler", scheduler="simple",
    )  # fmt: skip
    pictures(graph, sampled, vae["VAE"], "meta-lora/02_flux")


def meta_train() -> Graph:
    """04: many subjects of one kind become a prior, and the prior is tried at once."""
    graph = Graph("04_meta_train_a_prior")
    with graph.group("1  Learn what people have in common", BLUE):
        pocket = graph.add("MetaLoRA_LoadPocketModel", domain="avatars", subject=PERSON, photo_count=4)
        graph.note(
            "### Your own prior\nIn ComfyUI's `input` folder, make a folder with one folder of photos per subject. "
            "Press R and choose it under *subjects*. Captions can be `.txt` files beside the photos.\n\nThe few steps "
            "here only show how it works; a usable prior takes a hundred subjects or more and thousands of steps.",
            tall=230,
        )
        graph.column()
        prior = graph.add(
            "MetaLoRA_MetaTrainPrior", model=pocket["model"], clip=pocket["clip"], vae=pocket["vae"],
            subjects="pocket avatars", class_word="person", filename="sample_prior", steps=60, subject_limit=12,
            r_meta=32, r_mid=8, resolution=128,
        )  # fmt: skip
        graph.add("LossGraphNode", loss=prior["loss_map"])
    with graph.group("2  Learn somebody new with it", VIOLET):
        learned = learn(graph, pocket=pocket, prior=prior["prior"], steps=OWN_PRIOR_STEPS)
    with graph.group("3  Pictures", GREEN):
        applied = graph.add("MetaLoRA_ApplyIdentity", model=pocket["model"], identity=learned.identity["identity"])
        positive, negative = prompts(graph, pocket["clip"], SCENE)
        graph.column()
        sampled = sampler(graph, applied["model"], positive, negative)
        graph.column()
        pictures(graph, sampled, pocket["vae"], "meta-lora/04_own_prior", title="With a prior of one's own")
    return graph
