"""Workflows in ComfyUI's API form, small enough for a test. A link is [node, number of its output]."""

from __future__ import annotations

from typing import Any

Graph = dict[str, Any]
PROMPT = "photo of a ohwx person, smiling, looking left, head level, light from the right, blue background"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def pocket(domain: str = "avatars", subject: int = 0, photos: int = 1) -> Graph:
    """The pocket model and the photos of one of its sample subjects."""
    return {
        "pocket": node("MetaLoRA_LoadPocketModel", domain=domain, subject=subject, photo_count=photos, held_out_count=2)
    }


def learned(name: str = "", source: str = "pocket", steps: int = 6, seed: int = 0, **settings: Any) -> Graph:
    """Reference photos and adaptation; ``name`` keeps several of them apart in one graph."""
    return {
        f"references{name}": node(
            "MetaLoRA_PrepareReferences",
            images=[source, 4],
            class_word=[source, 6],
            trigger=f"ohwx{name}",
            caption="",
            prior=[source, 3],
            unusable_photos="stop",
        ),
        f"identity{name}": node(
            "MetaLoRA_AdaptIdentity",
            model=["pocket", 0],
            clip=["pocket", 1],
            vae=["pocket", 2],
            prior=[source, 3],
            references=[f"references{name}", 0],
            **({"steps": steps, "seed": seed, "resolution": 0, "learning_rate": 1.0, "batch_size": 0} | settings),
            optimizer="adamw",
            checkpointing="auto",
            guidance=1.0,
            preview_every=3,
        ),
    }


def applied(model: Any, identity: Any, strength: float = 1.0, method: str = "auto") -> dict[str, Any]:
    return node(
        "MetaLoRA_ApplyIdentity",
        model=model,
        identity=identity,
        strength=strength,
        start_percent=0.0,
        end_percent=1.0,
        method=method,
    )


def pictures(model: Any, prompt: str = PROMPT, count: int = 1, positive: Any = None, negative: Any = None) -> Graph:
    """Sample, decode and save."""
    return {
        "positive": node("CLIPTextEncode", clip=["pocket", 1], text=prompt),
        "negative": node("CLIPTextEncode", clip=["pocket", 1], text=""),
        "latent": node("EmptySD3LatentImage", width=128, height=128, batch_size=count),
        "sampled": node(
            "KSampler",
            model=model,
            seed=1,
            steps=4,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            positive=positive or ["positive", 0],
            negative=negative or ["negative", 0],
            latent_image=["latent", 0],
            denoise=1.0,
        ),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["pocket", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="test"),
    }


def adapt_and_generate() -> Graph:
    """01: learn from one photo and draw."""
    return {
        **pocket(),
        **learned(),
        "model": applied(["pocket", 0], ["identity", 0]),
        **pictures(["model", 0]),
        "losses": node("LossGraphNode", loss=["identity", 2], filename_prefix="loss"),
    }


def two_identities() -> Graph:
    """03: two people in one picture, each in its mask."""
    graph = {
        **pocket(),
        "other": node("MetaLoRA_LoadPocketModel", domain="avatars", subject=1, photo_count=1, held_out_count=1),
        **learned("a"),
        **learned("b", source="other"),
    }
    for name, x in (("a", 0), ("b", 64)):
        graph |= {
            f"hook{name}": node(
                "MetaLoRA_IdentityHook",
                identity=[f"identity{name}", 0],
                strength=1.0,
                start_percent=0.0,
                end_percent=1.0,
            ),
            f"empty{name}": node("SolidMask", value=0.0, width=128, height=128),
            f"half{name}": node("SolidMask", value=1.0, width=64, height=128),
            f"mask{name}": node(
                "MaskComposite",
                destination=[f"empty{name}", 0],
                source=[f"half{name}", 0],
                x=x,
                y=0,
                operation="add",
            ),
            f"prompt{name}": node("CLIPTextEncode", clip=["pocket", 1], text=f"photo of a ohwx{name} person"),
            f"region{name}": node(
                "ConditioningSetProperties",
                cond_NEW=[f"prompt{name}", 0],
                strength=1.0,
                set_cond_area="default",
                mask=[f"mask{name}", 0],
                hooks=[f"hook{name}", 0],
            ),
        }
    graph["both"] = node("ConditioningCombine", conditioning_1=["regiona", 0], conditioning_2=["regionb", 0])
    return graph | pictures(["pocket", 0], positive=["both", 0])


def meta_train() -> Graph:
    """04: train a prior on drawn subjects."""
    return {
        **pocket(),
        "prior": node(
            "MetaLoRA_MetaTrainPrior",
            model=["pocket", 0],
            clip=["pocket", 1],
            vae=["pocket", 2],
            subjects="pocket avatars",
            class_word="person",
            filename="trained_here",
            steps=4,
            subject_limit=4,
            r_meta=8,
            r_mid=2,
            subjects_per_batch=2,
            resolution=128,
            warm_start="mean",
            checkpointing="auto",
            seed=0,
        ),
    }


def evaluate() -> Graph:
    """05: learn, draw, and compare with held-out photos."""
    graph = adapt_and_generate()
    graph["scores"] = node(
        "MetaLoRA_EvaluateIdentity",
        generated=["decoded", 0],
        held_out=["pocket", 5],
        embedder="pocket avatars",
        reference=["pocket", 4],
        columns=4,
    )
    graph["shown"] = node("PreviewImage", images=["scores", 2])
    return graph


def export() -> Graph:
    """06: save and export; the exported file is loaded by core's Load LoRA in a second run."""
    return {
        **pocket(),
        **learned(),
        "kept": node("MetaLoRA_SaveIdentity", identity=["identity", 0], filename="people/somebody"),
        "lora": node(
            "MetaLoRA_ExportLoRA", identity=["identity", 0], filename="somebody", layout="comfyui", precision="float32"
        ),
    }


def load_exported() -> Graph:
    """06, second half: the exported LoRA in core's loader."""
    graph = {**pocket(), "model": node("LoraLoaderModelOnly", model=["pocket", 0], strength_model=1.0)}
    graph["model"]["inputs"]["lora_name"] = "somebody.safetensors"
    return graph | pictures(["model", 0])


def load_saved() -> Graph:
    """A saved identity applied by name, in another session."""
    return {
        **pocket(),
        "identity": node("MetaLoRA_LoadIdentity", identity_name="people/somebody.safetensors"),
        "model": applied(["pocket", 0], ["identity", 0]),
        **pictures(["model", 0]),
    }


def catalogue() -> Graph:
    """07: a product in several scenes."""
    return {
        **pocket("products"),
        **learned(),
        "model": applied(["pocket", 0], ["identity", 0]),
        **pictures(["model", 0], prompt="photo of a ohwx mug, white background", count=3),
    }
