"""Denoisers in one file with ComfyUI's (the original) key names, of any size, without asking a server for a config.

diffusers' own single-file loader fetches the configuration of a published model and cuts Flux at 3072 channels. Here
the configuration is read off the shapes, and the rows are placed by the map that the same converter gave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnreadableFile
from ..files.bounded import read_keys
from .denoisers import FAMILIES
from .diffusers_door import diffusers_class
from .target_map import KeyMap, key_map

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
_FLUX_AXES = (16, 56, 56)  # head width 128, the same in every Flux


def load_denoiser(path: Path | str) -> nn.Module:
    """Load a Flux, SD3, SD1.5 or SDXL denoiser from one safetensors file.

    Keys are the original ones, with or without ``model.diffusion_model.``, or diffusers' own for a Flux transformer.

    Args:
        path: The file. Other tensors in it (VAE, text encoders) are ignored.

    Returns:
        The model in the file's dtype and evaluation mode.

    Raises:
        UnreadableFile: If the architecture is not recognised or a tensor is missing or has another shape.
    """
    path = Path(path)
    tensors = _map_tensors(path)
    for prefix in PREFIXES:
        for mark, build in _BUILDERS.items():
            if prefix + mark in tensors:
                state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                return _place(path.name, build, state)
    raise UnreadableFile(
        f"{path.name} is no denoiser that is known here: Flux, SD3, SD1.5 or SDXL was expected, by one of the keys "
        f"{', '.join(_BUILDERS)}. Choose another file."
    )


def load_denoiser_folder(path: Path) -> nn.Module:
    """Load a denoiser from its own diffusers folder (config.json and safetensors weights).

    Raises:
        UnreadableFile: If there is none of the known classes in safetensors form.
    """
    from safetensors import SafetensorError

    try:
        kind = str(json.loads((path / "config.json").read_text(encoding="utf-8")).get("_class_name"))
        if kind not in FAMILIES:
            raise ValueError(f"found a {kind}, one of {', '.join(FAMILIES)} is needed")
        return diffusers_class(kind).from_pretrained(str(path), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UnreadableFile(
            f"{path} could not be loaded as a diffusers model ({str(error)[:400]}). Copy or download the folder again, "
            "with its weights as safetensors."
        ) from error


def _map_tensors(path: Path) -> dict[str, Tensor]:
    # A base model can be larger than memory allows twice, so after the header's proof its file is mapped, not read.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_keys(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UnreadableFile(f"{path.name} is damaged ({error}). Copy or download it again.") from error


def _place(name: str, build: Callable[[Mapping[str, Tensor]], nn.Module], state: Mapping[str, Tensor]) -> nn.Module:
    try:
        # Without memory of its own: every parameter and buffer comes from the file.
        with torch.device("meta"):
            model = build(state)
        own = set(model.state_dict())
        named_by_diffusers = own <= set(state)
        converted = (
            {key: state[key] for key in own} if named_by_diffusers else _convert(name, key_map(model), state, own)
        )
        model.load_state_dict(converted, strict=True, assign=True)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise UnreadableFile(
            f"{name} is incomplete or of unusual shape: {str(error)[:400]}. Choose another file."
        ) from error
    return model.eval()


def _convert(name: str, places: KeyMap, state: Mapping[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    missing = sorted({run.source for key in own for run in places.get(key, ()) if run.source not in state})
    if missing:
        raise UnreadableFile(f"{name} lacks {len(missing)} tensors, first {missing[0]!r}. Copy or download it again.")
    converted: dict[str, Tensor] = {}
    for key in own & set(places):
        pieces: list[Tensor] = []
        for run in places[key]:
            start, stop = run.rows(state[run.source].shape[0])
            pieces.append(state[run.source][start:stop])
        converted[key] = torch.cat(pieces)
    return converted


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)})


def _flux(state: Mapping[str, Tensor]) -> nn.Module:
    hidden, channels = state["img_in.weight"].shape
    return diffusers_class("FluxTransformer2DModel")(
        patch_size=1,
        in_channels=channels,
        num_layers=_count(state, "double_blocks."),
        num_single_layers=_count(state, "single_blocks."),
        attention_head_dim=sum(_FLUX_AXES),
        num_attention_heads=hidden // sum(_FLUX_AXES),
        joint_attention_dim=state["txt_in.weight"].shape[1],
        pooled_projection_dim=state["vector_in.in_layer.weight"].shape[1],
        guidance_embeds="guidance_in.in_layer.weight" in state,
        axes_dims_rope=_FLUX_AXES,
    )


def _flux_of_diffusers(state: Mapping[str, Tensor]) -> nn.Module:
    hidden, channels = state["x_embedder.weight"].shape
    embedder = "time_text_embed.{}.linear_1.weight"
    return diffusers_class("FluxTransformer2DModel")(
        patch_size=1,
        in_channels=channels,
        num_layers=_count(state, "transformer_blocks."),
        num_single_layers=_count(state, "single_transformer_blocks."),
        attention_head_dim=sum(_FLUX_AXES),
        num_attention_heads=hidden // sum(_FLUX_AXES),
        joint_attention_dim=state["context_embedder.weight"].shape[1],
        pooled_projection_dim=state[embedder.format("text_embedder")].shape[1],
        guidance_embeds=embedder.format("guidance_embedder") in state,
        axes_dims_rope=_FLUX_AXES,
    )


def _sd3(state: Mapping[str, Tensor]) -> nn.Module:
    hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
    side = int(state["pos_embed"].shape[1] ** 0.5)
    depth = _count(state, "joint_blocks.")
    return diffusers_class("SD3Transformer2DModel")(
        sample_size=128,
        patch_size=patch,
        in_channels=channels,
        out_channels=state["final_layer.linear.weight"].shape[0] // patch**2,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=hidden // 64,
        joint_attention_dim=state["context_embedder.weight"].shape[1],
        caption_projection_dim=state["context_embedder.weight"].shape[0],
        pooled_projection_dim=state["y_embedder.mlp.0.weight"].shape[1],
        pos_embed_max_size=side,
        dual_attention_layers=tuple(i for i in range(depth) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in state),
        qk_norm="rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in state else None,
    )


def _unet(state: Mapping[str, Tensor]) -> nn.Module:
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


_BUILDERS: dict[str, Callable[[Mapping[str, Tensor]], nn.Module]] = {
    "double_blocks.0.img_attn.qkv.weight": _flux,
    "single_transformer_blocks.0.attn.to_q.weight": _flux_of_diffusers,
    "joint_blocks.0.x_block.attn.qkv.weight": _sd3,
    "input_blocks.1.0.in_layers.2.weight": _unet,
}
