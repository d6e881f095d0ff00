"""Pieces that several examples share, so that they learn the same subject once: a result is kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .graph import Graph, Node, Output

PIXELS = 128
SAMPLER_STEPS, CFG = 20, 2.0
PRESET_STEPS, OWN_PRIOR_STEPS = 0, 200
PERSON, SECOND_PERSON, MUG = 6, 1, 4
"""Sample subjects of Load Pocket Model; 4 of the products is a mug."""

BLUE, GREEN, BROWN, VIOLET = "#3f789e", "#4a8a4f", "#8a6d3b", "#7a5a9e"
SCENE = "photo of a ohwx person, smiling, looking left, head level, light from front, blue background"


@dataclass(frozen=True)
class Learned:
    """What a part that learns leaves for the parts that use it."""

    pocket: Node
    references: Node
    identity: Node


def learn(
    graph: Graph, *, domain: str = "avatars", subject: int = PERSON, photos: int = 4, trigger: str = "ohwx",
    consent: Node | None = None, prior: Output | None = None, steps: int = PRESET_STEPS, pocket: Node | None = None,
    model: Node | None = None,
) -> Learned:  # fmt: skip
    """Pocket model, photos and adaptation in two columns."""
    pocket = pocket or graph.add("MetaLoRA_LoadPocketModel", domain=domain, subject=subject, photo_count=photos)
    graph.add("PreviewImage", title="The photos", images=pocket["photos"])
    base = model or pocket
    wires: dict[str, Any] = {"consent": consent["consent"]} if consent else {}
    prior = prior or base["prior"]
    references = graph.add(
        "MetaLoRA_PrepareReferences", images=pocket["photos"], class_word=pocket["class_word"], trigger=trigger,
        prior=prior, **wires,
    )  # fmt: skip
    graph.column()
    identity = graph.add(
        "MetaLoRA_AdaptIdentity", model=base["model"], clip=base["clip"], vae=base["vae"], prior=prior,
        references=references["references"], steps=steps, seed=1,
    )  # fmt: skip
    return Learned(pocket, references, identity)


def sampler(
    graph: Graph, model: Output, positive: Output, negative: Output, *, width: int = PIXELS, count: int = 4,
    seed: int = 5, latent: Output | None = None, collapsed: bool = False,
) -> Node:  # fmt: skip
    """A KSampler as the pocket model likes it."""
    latent = latent or empty_latent(graph, width=width, count=count)
    return graph.add(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=seed,
        steps=SAMPLER_STEPS, cfg=CFG, sampler_name="euler", scheduler="simple", collapsed=collapsed,
    )  # fmt: skip


def empty_latent(graph: Graph, *, width: int = PIXELS, count: int = 4) -> Output:
    """Latents of the pocket model's size."""
    return graph.add("EmptySD3LatentImage", width=width, height=PIXELS, batch_size=count)["LATENT"]


def prompts(graph: Graph, clip: Output, text: str) -> tuple[Output, Output]:
    """A prompt and an empty negative prompt."""
    positive = graph.add("CLIPTextEncode", title="Prompt", clip=clip, text=text)
    negative = graph.add("CLIPTextEncode", title="Negative prompt", clip=clip, text="")
    return positive["CONDITIONING"], negative["CONDITIONING"]


def pictures(graph: Graph, latent: Output, vae: Output, prefix: str, *, title: str = "") -> Output:
    """Decode and save."""
    decoded = graph.add("VAEDecode", samples=latent, vae=vae)["IMAGE"]
    graph.add("SaveImage", images=decoded, filename_prefix=prefix, title=title)
    return decoded
