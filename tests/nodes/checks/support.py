"""What the checks share inside a ComfyUI process: the pack, folders of their own, one small model a family."""

from __future__ import annotations

import functools
import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch

from checks.small_models import load_pack

SAMPLER_STEPS = 2
ROOT = Path(__file__).resolve().parents[3]
_pack = load_pack(ROOT)


def pack(name: str) -> Any:
    """A module of the pack, e.g. pack("nodes.bridge.patching")."""
    return importlib.import_module(f"metalora_pack.{name}")


@functools.cache
def folders() -> Path:
    """Point ComfyUI's models, input, output and temp folders at an empty place."""
    import folder_paths

    base = Path(tempfile.mkdtemp(prefix="metalora_checks_"))
    folder_paths.models_dir = str(base / "models")
    for name in ("input", "output", "temp", "user"):
        (base / name).mkdir()
        getattr(folder_paths, f"set_{name}_directory")(str(base / name))
    folder_paths.folder_names_and_paths["loras"] = ([str(base / "models" / "loras")], {".safetensors"})
    pack("nodes.bridge.folders").register_folders()
    return base


@functools.cache
def pocket() -> tuple[Any, Any, Any, Any, Any, Any, str]:
    """MODEL, CLIP, VAE, prior, photos, held-out photos and class word, as Load Pocket Model gives them."""
    with torch.inference_mode():
        return pack("nodes.pocket").LoadPocketModel.execute("avatars", 0, 2, 2).args


def prepare(photos: Any, **settings: Any) -> Any:
    """Prepare Reference Photos with the pocket's words; returns its outputs."""
    return prepare_list([photos], **{name: [value] for name, value in settings.items()})


def prepare_list(images: list[Any], /, **lists: list[Any]) -> Any:
    """The same with every input as the list that ComfyUI makes of it."""
    inputs = {"class_word": ["person"], "trigger": ["ohwx"], "caption": [""], "unusable_photos": ["stop"]} | lists
    with torch.inference_mode():
        return pack("nodes.references").PrepareReferences.execute(images=images, **inputs).args


def adapt(**settings: Any) -> Any:
    """Adapt Identity on the pocket model; returns its outputs."""
    return adapt_node(**settings).args


def adapt_node(**settings: Any) -> Any:
    """The same, with what the node sends to the page."""
    folders()
    model, clip, vae, prior, photos, *_ = pocket()
    references = settings.pop("references", None) or prepare(photos)[0]
    inputs = {"prior": prior, "references": references, "steps": 6, "seed": 0} | settings
    with torch.inference_mode():
        parts = {"model": model, "clip": clip, "vae": vae} | inputs
        return pack("nodes.adapt").AdaptIdentity.execute(**parts)


def random_factors(targets: Any, seed: int = 3, r_meta: int = 4, r_mid: int = 3, size: float = 0.05) -> dict[str, Any]:
    """A random chain for every target."""
    chain = pack("metalora_core.chain").ChainFactors
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        target.name: chain(
            draw(r_meta, *target.shape[1:]) / target.shape[1] ** 0.5,
            draw(r_mid, r_meta) * 0.5,
            draw(target.shape[0], r_mid) * size,
            0.7,
        )
        for target in targets
    }


def conditioning(text: str) -> Any:
    """CLIPTextEncode with the pocket's text encoder."""
    with torch.inference_mode():
        clip = pocket()[1]
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sampled(model: Any, positive: Any) -> torch.Tensor:
    """Latents from core's KSampler: euler, simple, no guidance."""
    import nodes

    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, 16, 16, 16)}
        empty = conditioning("")
        settings = {"seed": 1, "steps": SAMPLER_STEPS, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
        inputs = {"positive": positive, "negative": empty, "latent_image": latent}
        (result,) = nodes.KSampler().sample(model, **settings, **inputs)
    return result["samples"]


def captions_of(host: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Conditioning tensors, one row a sample, as captions that a host knows."""
    from comfy.conds import CONDRegular

    names = [f"row {row}" for row in range(len(next(iter(tensors.values()))))]
    for row, name in enumerate(names):
        host.captions.keep(name, {key: CONDRegular(value[row : row + 1]) for key, value in tensors.items()})
    return host.captions.numbered(names)


def close(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference."""
    return float((a - b).abs().max())


def message_of(call: Any) -> str:
    """The text of the error that a call raises; fails if it raises none."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - any error at all is what is asked for
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")
