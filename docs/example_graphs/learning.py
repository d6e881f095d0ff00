"""The examples in which something is learned with the pocket model: a subject, and a prior."""

from __future__ import annotations

from .graph import Graph, Node, Output
from .pocket_parts import (
    BLUE,
    BROWN,
    GREEN,
    OWN_PRIOR_STEPS,
    PERSON,
    PIXELS,
    SCENE,
    VIOLET,
    learn,
    pictures,
    prompts,
    sampler,
)


def adapt_and_generate() -> Graph:
    """01: photos in, pictures out, with nothing downloaded."""
    graph = Graph("01_adapt_and_generate")
    with graph.group("1  Photos of one subject", BLUE):
        graph.note(
            "### Press Run\nEverything here ships with the pack and runs on any computer. The sample photos show a "
            "person the pocket model has never seen.\n\nFor your own model and photos, see the examples 02.",
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
        vae = learned.pocket["vae"]
        pictures(graph, sampled["LATENT"], vae, "meta-lora/01_with_identity", title="With the identity")
    with graph.group("3  The same prompt without", BROWN):
        latent = sampled.inputs["latent_image"]
        plain = sampler(graph, learned.pocket["model"], positive, negative, latent=latent)
        pictures(graph, plain["LATENT"], vae, "meta-lora/01_without", title="Without the identity")
    return graph


def _try_prior(graph: Graph, pocket: Node, prior: Output, prefix: str, title: str) -> None:
    """Learn somebody that a new prior has not seen, and draw that person."""
    with graph.group("2  Learn somebody new with it", VIOLET):
        learned = learn(graph, pocket=pocket, prior=prior, steps=OWN_PRIOR_STEPS)
    with graph.group("3  Pictures", GREEN):
        applied = graph.add("MetaLoRA_ApplyIdentity", model=pocket["model"], identity=learned.identity["identity"])
        positive, negative = prompts(graph, pocket["clip"], SCENE)
        graph.column()
        sampled = sampler(graph, applied["model"], positive, negative)
        graph.column()
        pictures(graph, sampled["LATENT"], pocket["vae"], prefix, title=title)


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
    _try_prior(graph, pocket, prior["prior"], "meta-lora/04_own_prior", "With a prior of one's own")
    return graph


def quick_prior() -> Graph:
    """08: a prior from twenty subjects, measured on subjects that it has not seen, and used at once."""
    graph = Graph("08_quick_prior")
    with graph.group("1  A prior from twenty subjects", BLUE):
        pocket = graph.add("MetaLoRA_LoadPocketModel", domain="avatars", subject=PERSON, photo_count=4)
        graph.note(
            "### From what you have\nHere, twenty rendered subjects of the pocket model. For your own: in ComfyUI's "
            "`input` folder, make a folder with one folder of photos per subject, press R and choose it under "
            "*subjects*. Or choose a folder of LoRA files under *loras*.\n\n150 steps show how it works and take a few "
            "minutes; 2000 are the default. Set *resolution* to what your model likes.",
            tall=250,
        )
        graph.column()
        quick = graph.add(
            "MetaLoRA_QuickPrior", model=pocket["model"], clip=pocket["clip"], vae=pocket["vae"],
            subjects="pocket avatars", class_word="person", filename="quick_prior", steps=150, left_out=2,
            resolution=PIXELS,
        )  # fmt: skip
        graph.add("PreviewImage", title="What the prior is worth", images=quick["picture"])
    _try_prior(graph, pocket, quick["prior"], "meta-lora/08_quick_prior", "With the quick prior")
    return graph


def adapt_many() -> Graph:
    """09: every subject of a folder is learned in one run, and each of them is drawn."""
    graph = Graph("09_adapt_many")
    with graph.group("1  Every subject of a folder", BLUE):
        pocket = graph.add("MetaLoRA_LoadPocketModel", domain="avatars", subject=PERSON, photo_count=1)
        graph.note(
            "### A folder in, a list out\nHere, four sample subjects of the pocket model. For your own: in ComfyUI's "
            "`input` folder, make a folder with one folder of photos per subject, press R and choose it under "
            "*subjects*.\n\nEverything behind *identities* runs once for each subject. What was learned before is not "
            "learned again.",
            tall=230,
        )
        graph.column()
        many = graph.add(
            "MetaLoRA_AdaptMany", model=pocket["model"], clip=pocket["clip"], vae=pocket["vae"], prior=pocket["prior"],
            subjects="pocket avatars", class_word="person", trigger="ohwx",
        )  # fmt: skip
    with graph.group("2  A picture of each", GREEN):
        applied = graph.add("MetaLoRA_ApplyIdentity", model=pocket["model"], identity=many["identities"])
        positive, negative = prompts(graph, pocket["clip"], SCENE)
        graph.column()
        sampled = sampler(graph, applied["model"], positive, negative, count=1)
        graph.column()
        pictures(graph, sampled["LATENT"], pocket["vae"], "meta-lora/09_many", title="Each subject")
    return graph
