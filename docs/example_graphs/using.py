"""The examples in which learned subjects are put to use: together, under test, elsewhere, and as a catalogue."""

from __future__ import annotations

from .graph import Graph, Node, Output
from .pocket_parts import (
    BLUE,
    BROWN,
    GREEN,
    MUG,
    PERSON,
    PIXELS,
    SCENE,
    SECOND_PERSON,
    VIOLET,
    empty_latent,
    learn,
    pictures,
    prompts,
    sampler,
)

CATALOGUE = [
    "seen from the front, at eye level, light from front, white background",
    "turned left, at eye level, light from left, grey background",
    "turned right, at eye level, light from right, blue background",
    "seen from the front, from above, light from above, yellow background",
    "turned left, from above, light from front, pink background",
    "turned right, from above, light from left, green background",
    "seen from the front, at eye level, light from right, orange background",
    "turned left, at eye level, light from above, purple background",
    "turned right, at eye level, light from front, red background",
    "seen from the front, from above, light from left, black background",
]
ROW = 5


def two_identities() -> Graph:
    """03: two learned people in one picture, each in a mask of its own."""
    graph = Graph("03_two_identities")
    with graph.group("1  The first person", BLUE):
        first = learn(graph, trigger="ohwx")
    with graph.group("2  The second person", VIOLET):
        second = learn(graph, subject=SECOND_PERSON, trigger="sksx", model=first.pocket)
    with graph.group("3  Who stands where", BROWN):
        sides = [(first.identity, "ohwx", 0, "looking right"), (second.identity, "sksx", PIXELS, "looking left")]
        pairs = [_in_its_half(graph, first.pocket["clip"], *side) for side in sides]
    with graph.group("4  One picture", GREEN):
        both = graph.add(
            "PairConditioningCombine", positive_A=pairs[0]["positive"], negative_A=pairs[0]["negative"],
            positive_B=pairs[1]["positive"], negative_B=pairs[1]["negative"],
        )  # fmt: skip
        sampled = sampler(graph, first.pocket["model"], both["positive"], both["negative"], width=2 * PIXELS, count=2)
        graph.column()
        pictures(
            graph, sampled["LATENT"], first.pocket["vae"], "meta-lora/03_two_identities", title="Both in one picture"
        )
        graph.note(
            "### Each in its mask\n**Identity as Hook** applies an identity to one prompt only; the mask says where "
            "that prompt applies. With other models you can use masks of any shape. Set *set_cond_area* to default if "
            "subjects overlap.",
            tall=190,
        )
    return graph


def _in_its_half(graph: Graph, clip: Output, identity: Node, trigger: str, left: int, look: str) -> Node:
    hook = graph.add("MetaLoRA_IdentityHook", identity=identity["identity"])
    positive, negative = prompts(
        graph, clip, f"photo of a {trigger} person, smiling, {look}, head level, light from front, blue background"
    )
    empty = graph.add("SolidMask", value=0.0, width=2 * PIXELS, height=PIXELS)["MASK"]
    half = graph.add("SolidMask", value=1.0, width=PIXELS, height=PIXELS)["MASK"]
    mask = graph.add("MaskComposite", destination=empty, source=half, x=left, y=0, operation="add")["MASK"]
    pair = graph.add(
        "PairConditioningSetProperties", positive_NEW=positive, negative_NEW=negative, mask=mask, hooks=hook["hooks"],
        set_cond_area="mask bounds",
    )  # fmt: skip
    graph.column()
    return pair


def evaluate() -> Graph:
    """05: is it the same person? Against photos that were not learned from, with and without the identity."""
    graph = Graph("05_evaluate_an_identity")
    with graph.group("1  Learn", BLUE):
        learned = learn(graph)
    pocket = learned.pocket
    with graph.group("2  Pictures with and without the identity", GREEN):
        applied = graph.add("MetaLoRA_ApplyIdentity", model=pocket["model"], identity=learned.identity["identity"])
        positive, negative = prompts(graph, pocket["clip"], SCENE)
        latent = empty_latent(graph, count=8)
        graph.column()
        images: list[Output] = []
        for model in (applied["model"], pocket["model"]):
            sampled = sampler(graph, model, positive, negative, latent=latent)
            images.append(graph.add("VAEDecode", samples=sampled["LATENT"], vae=pocket["vae"])["IMAGE"])
    with graph.group("3  Compare with held-out photos", BROWN):
        for image, title in zip(images, ("With the identity", "Without"), strict=True):
            scored = graph.add(
                "MetaLoRA_EvaluateIdentity", title=f"Evaluate: {title}", generated=image, held_out=pocket["held_out"],
                embedder="pocket avatars", reference=pocket["photos"],
            )  # fmt: skip
            graph.add("PreviewAny", title=f"Scores: {title}", source=scored["report"], tall=200)
            name = "with" if title.startswith("With the") else "without"
            graph.add("SaveImage", images=scored["grid"], filename_prefix=f"meta-lora/05_{name}", title=title)
            graph.column()
        graph.note(
            "### Why other photos?\nA picture that copies the pose of a reference photo looks very much like that "
            "photo. So pictures are scored against *other* photos of the same subject; *copying* is 0 for a picture "
            "no closer to a trained photo than those are, and 1 for the trained photo again.\n\nThe sample person is "
            "the best of thirteen that were tried on an earlier model, so most people score lower.\n\nFor pictures "
            "from other models, choose **clip vision** and connect Load CLIP Vision.",
            tall=310,
        )
    return graph


def export() -> Graph:
    """06: an identity leaves as an ordinary LoRA, and gives the same picture there."""
    graph = Graph("06_export_as_lora")
    with graph.group("1  Learn, with the right to share", BLUE):
        pocket = graph.add("MetaLoRA_LoadPocketModel", domain="avatars", subject=PERSON, photo_count=4)
        consent = graph.add(
            "MetaLoRA_RecordConsent", images=pocket["photos"], subject=f"Sample person {PERSON}", kind="character",
            granted_by="Meta-LoRA for ComfyUI", basis="own work", permitted_uses="training, generation, sharing",
        )  # fmt: skip
        learned = learn(graph, pocket=pocket, consent=consent)
    identity = learned.identity
    with graph.group("2  Ordinary LoRA files", VIOLET):
        for layout in ("comfyui", "kohya", "diffusers"):
            graph.add(
                "MetaLoRA_ExportLoRA", title=f"Export for {layout}", identity=identity["identity"],
                filename=f"sample_person_{layout}", layout=layout,
            )  # fmt: skip
        graph.note(
            "### After Run\nThe files are in `models/loras`. Press R and choose one in **Load LoRA** or any other LoRA "
            "loader. It needs neither a prior nor this pack.",
            tall=150,
        )
    with graph.group("3  The same picture through ComfyUI's own LoRA node", GREEN):
        positive, negative = prompts(graph, pocket["clip"], SCENE)
        latent = empty_latent(graph, count=2)
        graph.column()
        ours = graph.add("MetaLoRA_ApplyIdentity", model=pocket["model"], identity=identity["identity"])
        core = graph.add("LoraModelLoader", model=pocket["model"], lora=identity["lora_model"])
        ours_sampled = sampler(graph, ours["model"], positive, negative, latent=latent)
        core_sampled = sampler(graph, core["model"], positive, negative, latent=latent)
        graph.column()
        image = pictures(
            graph, ours_sampled["LATENT"], pocket["vae"], "meta-lora/06_apply_identity", title="Apply Identity"
        )
        pictures(graph, core_sampled["LATENT"], pocket["vae"], "meta-lora/06_core_lora", title="Load LoRA Model")
    with graph.group("4  The same picture, signed", BROWN):
        graph.add(
            "MetaLoRA_SaveImageWithCredentials", images=image, model=ours["model"], muted=True,
            filename_prefix="meta-lora/06_signed",
        )  # fmt: skip
        graph.note(
            "### Who made this?\nThis node is off, because it needs a package: `pip install c2pa-python` with "
            "ComfyUI's Python. Then select it and press Ctrl+M. The file says that a model made the picture, with "
            "which identity and under which permission, and a change of it is noticed.",
            tall=200,
        )
    return graph


def catalogue() -> Graph:
    """07: one product in ten scenes on one sheet."""
    graph = Graph("07_catalogue_sheet")
    with graph.group("1  Learn the product", BLUE):
        learned = learn(graph, domain="products", subject=MUG)
        graph.note(
            "### A catalogue from a few photos\nEach line on the right is a scene, in the few words that the small "
            "model knows: *turned left*, *seen from the front*, *turned right*; *at eye level*, *from above*; *light "
            "from left*; *red background*. All share one seed, so only the words differ. For another product, change "
            "*subject* and write its word (bottle, vase, bowl, jar) in place of mug.",
            tall=230,
        )
    pocket = learned.pocket
    with graph.group("2  Ten scenes", GREEN):
        applied = graph.add("MetaLoRA_ApplyIdentity", model=pocket["model"], identity=learned.identity["identity"])
        negative = graph.add("CLIPTextEncode", title="Negative prompt", clip=pocket["clip"], text="", tall=100)
        latent = empty_latent(graph, count=1)
        scenes: list[Output] = []
        for number, words in enumerate(CATALOGUE):
            if number % ROW == 0:
                graph.column()
            scenes.append(_scene(graph, pocket, applied["model"], negative["CONDITIONING"], latent, number, words))
    with graph.group("3  The sheet", BROWN):
        rows = [_stitched(graph, scenes[start : start + ROW], "right") for start in range(0, len(scenes), ROW)]
        sheet = _stitched(graph, rows, "down")
        graph.add(
            "SaveImage", images=sheet, filename_prefix="meta-lora/07_catalogue", title="Catalogue sheet", wide=560
        )
    return graph


def _scene(
    graph: Graph, pocket: Node, model: Output, negative: Output, latent: Output, number: int, words: str
) -> Output:  # fmt: skip
    text = graph.add(
        "CLIPTextEncode",
        title=f"Scene {number + 1}",
        clip=pocket["clip"],
        text=f"photo of a ohwx mug, {words}",
        tall=110,
    )
    sampled = sampler(graph, model, text["CONDITIONING"], negative, latent=latent, collapsed=True)
    return graph.add("VAEDecode", samples=sampled["LATENT"], vae=pocket["vae"], collapsed=True)["IMAGE"]


def _stitched(graph: Graph, images: list[Output], direction: str) -> Output:
    joined = images[0]
    for image in images[1:]:
        joined = graph.add(
            "ImageStitch", image1=joined, image2=image, direction=direction, spacing_width=4, collapsed=True
        )["IMAGE"]
    return joined
