"""The embedded pocket model through ComfyUI's own loaders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...metalora_core.pocket import load
from ...metalora_core.pocket.text import WordTextEncoder, tokenize
from ...metalora_core.pocket.world.factors import DOMAINS, draw_subject
from ...metalora_core.pocket.world.render import render
from ...metalora_core.pocket.world.scenes import draw_scenes
from ...metalora_core.references.domain import DomainVerdict, domain_distance, verdict_on_set
from .image_tensors import to_image


class WordTokenizer:
    """Whole words to numbers, in the interface of ComfyUI's tokenizers; weights like (word:1.2) are ignored."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        del embedding_directory, tokenizer_data

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, Any]:
        numbers = tokenize(text)
        pairs = [(n, 1.0, i) if return_word_ids else (n, 1.0) for i, n in enumerate(numbers)]
        return {"words": [pairs]}

    def untokenize(self, token_weight_pair: Any) -> Any:
        return token_weight_pair

    def state_dict(self) -> dict[str, Any]:
        return {}


class PocketTextModel(nn.Module):
    """The pocket text encoder in the interface of ComfyUI's text encoders."""

    disable_offload = True  # 80,000 numbers in ordinary layers: always loaded as a whole

    def __init__(self, device: Any = None, dtype: Any = None, model_options: Any = None) -> None:
        super().__init__()
        del model_options
        self.encoder = WordTextEncoder().to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """There are no layers to stop at."""

    def reset_clip_options(self) -> None:
        """There are no options to reset."""

    def encode_token_weights(self, tokens: dict[str, Any]) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor(
            [[pair[0] for pair in row] for row in tokens["words"]], device=self.encoder.places.device
        )
        return self.encoder(numbers)

    def load_sd(self, state: dict[str, Tensor]) -> Any:
        return self.encoder.load_state_dict(state, strict=False)


def load_pocket(domain: Any) -> tuple[Any, Any, Any, Any]:
    """MODEL, CLIP, VAE and prior of a domain."""
    import comfy.sd

    model = _model_of(_state(load.BASE_FILE))
    vae = comfy.sd.VAE(sd=_state(load.AUTOENCODER_FILE))
    words = _state(load.TEXT_FILE)
    target = SimpleNamespace(params={}, clip=PocketTextModel, tokenizer=WordTokenizer)
    clip = comfy.sd.CLIP(target, parameters=sum(tensor.numel() for tensor in words.values()))
    clip.load_sd(words)
    return model, clip, vae, load.load_pocket_prior(domain)


def _model_of(state: dict[str, Tensor]) -> Any:
    """MODEL of a Flux state dict of any width."""
    import comfy.sd
    from comfy import model_detection, model_management, model_patcher

    # The conversion swaps halves of a tensor in place, and the loader below converts again.
    own_names = model_detection.convert_diffusers_mmdit({key: tensor.clone() for key, tensor in state.items()}, "")
    config = model_detection.model_config_from_unet(own_names, "")
    width = own_names["img_in.weight"].shape[0]
    if config.unet_config["hidden_size"] == width:
        return comfy.sd.load_diffusion_model_state_dict(dict(state))
    # Older hosts treat every Flux as the large one, so they get the sizes explicitly.
    sizes = {"hidden_size": width, "num_heads": width // 128, "context_in_dim": own_names["txt_in.weight"].shape[1]}
    config.unet_config.update(sizes)
    device, offload = model_management.get_torch_device(), model_management.unet_offload_device()
    dtype = model_management.unet_dtype(supported_dtypes=list(config.supported_inference_dtypes))
    manual = model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, manual)
    model = config.get_model(own_names, "").to(offload)
    model.load_model_weights(own_names, "")
    return model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def _state(path: Path) -> dict[str, Tensor]:
    state, _ = load.load_part(path)
    return state


OWN_WORLD = (
    "The pocket model draws only its own small world of rendered people and products. Your photos are not of it and "
    "will come out as blotches. To learn them, use a large model as in the templates 02a to 02c."
)


def own_world_note(clip: Any, photos: Sequence[Tensor]) -> str:
    """What a user must know who shows the pocket model photos (3, H, W) that it cannot draw; else empty."""
    if not isinstance(getattr(clip, "cond_stage_model", None), PocketTextModel):
        return ""
    known = [features for domain in DOMAINS if (features := load.load_pocket_prior(domain).features)]
    verdicts = [verdict_on_set(domain_distance(photos, features)) for features in known]
    return OWN_WORLD if all(verdict is DomainVerdict.OUTSIDE for verdict in verdicts) else ""


SAMPLES_FIRST = 5_000_000
"""Sample subjects come from far inside the validation split, which no experiment uses."""


def pocket_photos(domain: Any, subject: int, count: int, held_out: int) -> tuple[Tensor, Tensor, str]:
    """Sample photos of one unseen subject as two IMAGEs, and its class word."""
    shown = draw_subject(domain, "validation", SAMPLES_FIRST + subject)
    scenes = draw_scenes(domain, count + held_out, seed=SAMPLES_FIRST + subject)
    photos = render([shown] * len(scenes), scenes)
    return to_image(photos[:count]), to_image(photos[count:]), shown.class_word
