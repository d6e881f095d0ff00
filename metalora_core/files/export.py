"""An identity folded with its prior into an ordinary LoRA file, for loaders that know nothing of Meta-LoRA.

``ΔW = scale · up · mid · meta_down`` folds to ``alpha / rank · lora_up · lora_down`` exactly. The middle factor never
has a name of its own: ComfyUI would read a key called ``lora_mid`` as a convolution core.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import IncompatibleBaseModel, InvalidOptions
from ..model.families import Base, family_named
from ..model.targets import Target
from .atomic import atomic_save_safetensors, safetensors_bytes, sha256_of
from .identity import Identity, chain_factors
from .metadata import thumbnail_header
from .prior import Prior

Layout = Literal["comfyui", "kohya", "diffusers"]


@dataclass(frozen=True)
class LoRALayer:
    """One folded target: ΔW = scale · up @ down.

    Args:
        name: Target name.
        down: (rank, in) or (rank, in, kh, kw).
        up: (out, rank).
        scale: The prior's scale times the requested strength.
    """

    name: str
    down: Tensor
    up: Tensor
    scale: float


def layer_shapes(identity: Identity, prior: Prior) -> dict[str, tuple[int, ...]]:
    """Weight shape of every layer that an identity adapts, (out, in) or (out, in, kh, kw)."""
    return {
        name: (layer.up.shape[0], *prior.layers[name].meta_down.shape[1:]) for name, layer in identity.layers.items()
    }


CONSENT_KEY = "metalora_consent"
"""Metadata key of an export: id of the consent record that it was made under."""


def fold_identity(identity: Identity, prior: Prior, strength: float = 1.0) -> list[LoRALayer]:
    """Fold every target of an identity to the smaller of its two ranks, in the factors' own precision.

    Raises:
        IncompatibleBaseModel: If the prior is a different one.
        RankMismatch: If a mid does not fit its meta_down.
    """
    layers: list[LoRALayer] = []
    for name, chain in chain_factors(identity, prior, strength).items():
        chain.meta_down, chain.mid, chain.up = chain.meta_down.float(), chain.mid.float(), chain.up.float()
        down, up = chain.fold()
        layers.append(LoRALayer(name, down, up, chain.scale * chain.strength))
    return layers


def export_lora(
    path: Path | str,
    identity: Identity,
    prior: Prior,
    layout: Layout = "comfyui",
    targets: Sequence[Target] | None = None,
    *,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
    author: str = "",
    thumbnail: bytes = b"",
) -> str:
    """Write an identity as an ordinary LoRA.

    Args:
        path: The .safetensors file to write.
        identity: The subject.
        prior: The prior it was learned with.
        layout: "comfyui" (any architecture), "kohya" (``lora_unet_…``), or "diffusers" (PEFT keys for
            ``load_lora_weights``).
        targets: The base's targets with their diffusers modules, see `named_targets`; needed for "diffusers". With
            them, "kohya" names layers as diffusers does where kohya's tools expect it (SD1.5); without, as the original
            checkpoint does, which they expect of all other models.
        strength: Built into the file.
        dtype: float32 keeps the chain exactly; float16 and bfloat16 halve the file.
        author: For the file's metadata.
        thumbnail: A small JPEG, for the file's metadata.

    Returns:
        SHA-256 of the file.

    Raises:
        InvalidOptions: If the layout is unknown or needs targets that were not given, or a number does not fit the
            dtype.
        IncompatibleBaseModel: If prior, identity and targets do not belong together.
        UnwritableFile: If the folder is missing, unwritable or full.
    """
    layers = fold_identity(identity, prior, strength)
    if layout not in _LAYOUTS:
        raise InvalidOptions(f"unknown layout {layout!r}; choose one of {', '.join(_LAYOUTS)}.")
    by_name = None if targets is None else {target.name: target for target in targets}
    missing = [layer.name for layer in layers if by_name is not None and layer.name not in by_name]
    if missing:
        raise IncompatibleBaseModel(
            f"{len(missing)} of {len(layers)} layers of the identity are not in the given model, first {missing[0]!r}. "
            "Give the base model that the identity was learned on."
        )
    tensors = {key: value.to(dtype).contiguous() for key, value in _LAYOUTS[layout](layers, prior, by_name).items()}
    _require_finite(tensors, dtype)
    spec = _model_spec(identity, prior, layers, tensors)
    if author:
        spec["modelspec.author"] = author
    return atomic_save_safetensors(path, tensors, spec | thumbnail_header(thumbnail))


def _require_finite(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    bad = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        name = str(dtype).removeprefix("torch.")
        raise InvalidOptions(
            f"{len(bad)} of {len(tensors)} tensors have numbers too large for {name}, first {bad[0]!r}, so the file "
            "would be unreadable. Export in float32 or at a lower strength; if float32 fails too, adapt again at a "
            "lower learning rate."
        )


def _of_one_rank(layers: Sequence[LoRALayer]) -> list[LoRALayer]:
    # diffusers matches the ranks and alphas of single modules by parts of their names, which are not unique in Flux and
    # rewritten in a UNet. Padding with zeros to one common rank changes nothing and leaves nothing to match.
    rank = max(layer.down.shape[0] for layer in layers)
    padded: list[LoRALayer] = []
    for layer in layers:
        spare = rank - layer.down.shape[0]
        down = torch.cat([layer.down, layer.down.new_zeros(spare, *layer.down.shape[1:])])
        up = torch.cat([layer.up, layer.up.new_zeros(layer.up.shape[0], spare)], dim=1)
        padded.append(replace(layer, down=down, up=up))
    return padded


def _up_weight(layer: LoRALayer, up: Tensor) -> Tensor:
    return up[:, :, None, None] if layer.down.ndim == 4 else up


def _with_alpha(layer: LoRALayer, key: str) -> dict[str, Tensor]:
    return {
        f"{key}.lora_up.weight": _up_weight(layer, layer.up),
        f"{key}.lora_down.weight": layer.down,
        f"{key}.alpha": torch.tensor(layer.scale * layer.down.shape[0]),
    }


def _comfyui(layers: Sequence[LoRALayer], prior: Prior, targets: Mapping[str, Target] | None) -> dict[str, Tensor]:
    return {k: v for layer in layers for k, v in _with_alpha(layer, f"diffusion_model.{layer.name}").items()}


def _kohya(layers: Sequence[LoRALayer], prior: Prior, targets: Mapping[str, Target] | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer in _of_one_rank(layers):
        name = layer.name
        if targets is not None and is_named_by_diffusers(prior):
            name = targets[name].parts[0].module
        tensors |= _with_alpha(layer, f"lora_unet_{name.replace('.', '_')}")
    return tensors


def _diffusers(layers: Sequence[LoRALayer], prior: Prior, targets: Mapping[str, Target] | None) -> dict[str, Tensor]:
    if targets is None:
        raise InvalidOptions("the diffusers layout needs the base model's targets; load the base model and pass them.")
    family = family_named(prior.metadata.family)
    prefix = family.component if family else "transformer"
    tensors: dict[str, Tensor] = {}
    for layer in _of_one_rank(layers):
        # Without an alpha in the file the scale is 1, so ours goes into up.
        up = layer.up * layer.scale
        for part in targets[layer.name].parts:
            tensors[f"{prefix}.{part.module}.lora_A.weight"] = layer.down
            tensors[f"{prefix}.{part.module}.lora_B.weight"] = _up_weight(layer, up[part.start : part.stop])
    return tensors


_LAYOUTS: dict[str, Callable[[Sequence[LoRALayer], Prior, Mapping[str, Target] | None], dict[str, Tensor]]] = {
    "comfyui": _comfyui,
    "kohya": _kohya,
    "diffusers": _diffusers,
}


def is_named_by_diffusers(prior: Prior) -> bool:
    """Whether kohya's tools name the layers of a prior's base as diffusers does."""
    base = _base_of(prior)
    return base is not None and base.kohya_by_diffusers


def _base_of(prior: Prior) -> Base | None:
    family, widths = family_named(prior.metadata.family), {layer.meta_down.shape[1] for layer in prior.layers.values()}
    base = family and family.base_of_widths(widths)
    return base if base and (not base.width or base.width in widths) else None


def _model_spec(
    identity: Identity, prior: Prior, layers: Sequence[LoRALayer], tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    # https://github.com/Stability-AI/ModelSpec, version 1.0.1. No date: equal content gives equal bytes.
    made, content = identity.metadata, safetensors_bytes(tensors, {})
    rank, base, px = max(layer.down.shape[0] for layer in layers), _base_of(prior), prior.metadata.picture_px
    words = f"{made.trigger} {made.class_word}".strip()
    how = "without a prior" if prior.personal else f"with the prior {made.prior_name} (SHA-256 {made.prior_sha256})"
    title = made.name or words or "Meta-LoRA identity"
    entries = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": base.modelspec if base else f"{prior.metadata.family}/lora",
        "modelspec.implementation": "diffusers" if _is_diffusers(tensors) else "https://github.com/kohya-ss/sd-scripts",
        "modelspec.title": title,
        "modelspec.description": (
            f"Meta-LoRA identity learned in {made.steps} steps from {len(made.photo_hashes)} photos {how}."
        ),
        "modelspec.trigger_phrase": words,
        "modelspec.resolution": f"{px}x{px}" if px else "",
        "modelspec.tags": ", ".join(filter(None, ["meta-lora", made.class_word, prior.metadata.domain])),
        "modelspec.license": prior.metadata.license,
        "modelspec.hash_sha256": "0x" + sha256_of([content[8 + int.from_bytes(content[:8], "little") :]]),
        "ss_output_name": title,
        "ss_sd_model_name": prior.metadata.base_name,
        "ss_base_model_version": base.name if base else prior.metadata.family,
        "ss_resolution": f"({px}, {px})" if px else "",
        "ss_tag_frequency": json.dumps({words: {words: len(made.photo_hashes)}}) if words else "",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{layers[0].scale * rank:g}",
    }
    entries[CONSENT_KEY] = made.consent_id or ""
    return {key: value for key, value in entries.items() if value}


def _is_diffusers(tensors: Mapping[str, Tensor]) -> bool:
    return any(".lora_A." in key for key in tensors)
