"""The UNets of SD1.5 and SDXL: how they are called, their files, their text encoders and their original key names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import optional
from ..errors import IncompatibleBaseModel
from ..model.families import UNET, Base
from ..model.host import Conditioning
from .architecture import Architecture, Naming, require
from .diffusers_door import diffusers_class

__all__ = ["ARCHITECTURE"]

_RESNET = ("in_layers.0", "in_layers.2", "out_layers.0", "out_layers.3", "emb_layers.1", "skip_connection")


def _is_sdxl(model: Any) -> bool:
    return model.config.addition_embed_type == "text_time"


def _base(model: nn.Module) -> Base:
    sdxl, sd15 = UNET.bases
    return sdxl if _is_sdxl(model) else sd15


def denoise(model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """SD1.5, and SDXL with pooled text and picture sizes; without ``time_ids`` the picture counts as uncropped."""
    require(conditioning, "context")
    added: dict[str, Tensor] | None = None
    if _is_sdxl(model):
        require(conditioning, "pooled")
        time_ids = conditioning.get("time_ids")
        if time_ids is None:
            height, width = noisy.shape[-2] * 8, noisy.shape[-1] * 8
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device).expand(len(noisy), 6)
        added = {"text_embeds": conditioning["pooled"].to(noisy.dtype), "time_ids": time_ids.to(noisy.dtype)}
    context = conditioning["context"].to(noisy.dtype)
    return model(noisy, t, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)[0]


def encode(pipeline: Any, prompts: list[str]) -> Conditioning:
    """``context`` (B, T, C) and, for SDXL, ``pooled`` (B, C)."""
    device = pipeline.text_encoder.device
    if _is_sdxl(pipeline.unet):
        context, _, pooled, _ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return {"context": context, "pooled": pooled}
    return {"context": pipeline.encode_prompt(prompts, device, 1, do_classifier_free_guidance=False)[0]}


def _build(state: Mapping[str, Tensor]) -> nn.Module:
    width = state["input_blocks.0.0.weight"].shape[0]
    shared: dict[str, Any] = {"in_channels": state["input_blocks.0.0.weight"].shape[1], "sample_size": 64}
    if "label_emb.0.0.weight" in state:
        return diffusers_class("UNet2DConditionModel")(
            block_out_channels=(width, 2 * width, 4 * width),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=state["label_emb.0.0.weight"].shape[1],
            use_linear_projection=True,
            **shared,
        )
    context = state["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    newer = context == 1024  # SD2 has linear projections and heads of a fixed width, SD1.5 eight heads everywhere
    return diffusers_class("UNet2DConditionModel")(
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        cross_attention_dim=context,
        attention_head_dim=(5, 10, 20, 20) if newer else 8,
        use_linear_projection=newer,
        **shared,
    )


def unet_keys(model: nn.Module) -> list[str]:
    """Original keys that a UNet of this configuration may have; more than it has, never fewer.

    The skeleton (``input_blocks.<i>.<j>``, ``middle_block.<j>``, ``output_blocks.<i>.<j>``) follows from the number of
    levels and layers; the names inside an attention block are the same in both worlds and are read from the model.
    Keys that the model lacks come out of the converter under names that the model lacks too, and are dropped there.

    Raises:
        IncompatibleBaseModel: If levels have different numbers of layers, which the original form cannot express.
    """
    names: Any = optional("diffusers.loaders.single_file_utils", "A UNet", "DIFFUSERS_TO_LDM_MAPPING")
    config: Any = getattr(model, "config", None)
    layers = config.layers_per_block
    if not isinstance(layers, int):
        raise IncompatibleBaseModel(
            f"The UNet has {layers} layers per block; expected the same number on all levels, as in SD1.5 and SDXL."
        )
    stems: set[str] = {str(name).rpartition(".")[0] for name in _values(names["unet"])}
    attention = _attention_stems(model)
    per_level = layers + 1
    for i in range(len(config.down_block_types) * per_level):
        stems |= {f"input_blocks.{i}.0.{stem}" for stem in (*_RESNET, "op")}
        stems |= {f"input_blocks.{i}.1.{stem}" for stem in attention}
        stems |= {f"output_blocks.{i}.0.{stem}" for stem in _RESNET}
        if "CrossAttn" in config.up_block_types[i // per_level]:
            stems |= {f"output_blocks.{i}.1.{stem}" for stem in attention} | {f"output_blocks.{i}.2.conv"}
        else:
            stems.add(f"output_blocks.{i}.1.conv")
    stems |= {f"middle_block.{j}.{stem}" for j in (0, 2) for stem in _RESNET}
    stems |= {f"middle_block.1.{stem}" for stem in attention}
    return [f"{stem}.{kind}" for stem in sorted(stems) for kind in ("weight", "bias")]


def _values(mapping: Any) -> list[str]:
    return [name for group in mapping.values() for name in group.values()]


def _attention_stems(model: nn.Module) -> set[str]:
    # "down_blocks.0.attentions.1.proj_in" → "proj_in"
    paths = (path.partition(".attentions.")[2].partition(".")[2] for path, _ in model.named_modules())
    return {path for path in paths if path}


def _seeds(names: Iterable[str]) -> list[str]:
    # The converter counts blocks, so each must have a key, also one in which nothing is adapted.
    highest = max(
        (int(found[1]) for name in names if (found := re.match(r"(?:in|out)put_blocks\.(\d+)", name))), default=0
    )
    blocks = [f"{side}put_blocks.{i}" for side in ("in", "out") for i in range(highest + 1)]
    return [f"{block}.none" for block in (*blocks, *(f"middle_block.{j}" for j in range(3)))]


def _config(names: Iterable[str]) -> dict[str, Any]:
    # Every level but the last ends in a downsampler, which stands alone in its input block; pruned models have fewer
    # layers before it than the two of the published ones.
    found = (re.match(r"input_blocks\.(\d+)\.\d+\.(?!op\b)", name) for name in names)
    filled = {int(match[1]) for match in found if match} - {0}
    for layers in (2, 1, 3, 4):
        if all(block % (layers + 1) for block in filled):
            return {"layers_per_block": layers, "addition_embed_type": None}
    raise IncompatibleBaseModel(
        f"The UNet has layers in input blocks {sorted(filled)}, which fit no number of layers per level from 1 to 4. "
        "Choose the layout comfyui."
    )


ARCHITECTURE = Architecture(
    denoise,
    encode,
    builders={"input_blocks.1.0.in_layers.2.weight": _build},
    naming=Naming(unet_keys, _seeds, _config),
    base=_base,
)
