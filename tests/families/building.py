"""Tiny models of every family by ComfyUI's own classes, and stand-ins for the encoders that belong to them.

Imported inside a ComfyUI process only.
"""

from __future__ import annotations

import functools
import pkgutil
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import tomllib
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
WORDS_OF_A_TEMPLATE = 4  # tokens that an encoder adds around a caption's words
PADDED_TO = 16


@dataclass(frozen=True)
class Family:
    """One row of families.toml with what it takes from another."""

    name: str
    kind: str
    config: Mapping[str, Any]
    text: Mapping[str, Any]
    keys: Mapping[str, Any]
    vae: str
    px: int
    needs: str = ""  # module:name that an older ComfyUI with the same class lacks


@functools.cache
def families() -> dict[str, Family]:
    """Every row by its name."""
    rows = tomllib.loads((HERE / "families.toml").read_text(encoding="utf-8"))
    return {name: _family(rows, name) for name in rows}


def _family(rows: Mapping[str, Any], name: str) -> Family:
    row = rows[name]
    base = _family(rows, row["like"]) if "like" in row else Family("", "", {}, {}, {}, "still", 0)
    config = {**base.config, **{key: _value(value) for key, value in row.get("config", {}).items()}}
    text = {key: value for key, value in {**base.text, **row.get("text", {})}.items() if value != "none"}
    settings = (row.get("class", base.kind), config, text, row.get("keys", base.keys))
    return Family(name, *settings, row.get("vae", base.vae), row.get("px", base.px), row.get("needs", ""))


def _value(value: Any) -> Any:
    """TOML has neither None nor dtypes."""
    if value == "none":
        return None
    return getattr(torch, value[6:]) if isinstance(value, str) and value.startswith("torch.") else value


def tried(family: Family) -> bool:
    """Whether this ComfyUI has the family's class and what it needs beside it."""
    try:
        if family.needs:
            pkgutil.resolve_name(family.needs)
    except AttributeError:
        return False
    return hasattr(comfy.supported_models, family.kind)


def unknown() -> list[str]:
    """Families of this ComfyUI that stand in neither table."""
    left_out = tomllib.loads((HERE / "not_tried.toml").read_text(encoding="utf-8"))
    known = {family.kind for family in families().values()} | {name for part in left_out.values() for name in part}
    return [kind.__name__ for kind in comfy.supported_models.models if kind.__name__ not in known]


def build(family: Family, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A random MODEL, made in inference mode as ComfyUI's loaders do; the same seed gives the same weights."""
    with torch.inference_mode():
        network_settings(family)
        model = _network(family, dtype)
        _fill(model.diffusion_model, torch.Generator().manual_seed(seed))
        return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def _network(family: Family, dtype: torch.dtype) -> Any:
    """The model with core's own initial values; settings that an older ComfyUI does not know are left out."""
    config = config_of(family)
    config.set_inference_dtype(dtype, None)
    try:
        return config.get_model({key: _tensor(value) for key, value in family.keys.items()}, "")
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in family.config:
            raise
        known = {name: value for name, value in family.config.items() if name != unknown[1]}
        return _network(replace(family, config=known), dtype)


def config_of(family: Family) -> Any:
    """The family's settings; those that its class adds must not undo the shrinking."""
    config = getattr(comfy.supported_models, family.kind)(dict(family.config))
    config.unet_config.update(family.config)
    return config


def network_settings(family: Family) -> None:
    """Sizes that a class takes from its defaults and not from its settings."""
    if family.config.get("image_model") == "anima":
        from comfy.ldm.anima.model import LLMAdapter

        defaults: Any = LLMAdapter.__init__.__defaults__
        LLMAdapter.__init__.__defaults__ = (32, 32, 32, 2, 2, *defaults[5:])


def _tensor(value: Any) -> Tensor:
    if isinstance(value, dict):
        ((fill, shape),) = value.items()
        return getattr(torch, fill)(shape)
    return torch.tensor(value)


def _fill(network: nn.Module, generator: torch.Generator) -> None:
    """Core leaves memory as it was; weights are drawn so that every layer changes the output."""
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point() and (not buffer.isfinite().all() or "pos" in name):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    for name, parameter in network.named_parameters():
        scale = 0.7 / max(1, parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        if parameter.dim() == 1 and ("norm" in name or "scale" in name) and not name.endswith("bias"):
            parameter.add_(1.0)


class _Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3), requires_grad=False)


def _patcher() -> Any:
    return comfy.model_patcher.ModelPatcher(_Part(), load_device=CPU, offload_device=CPU)


class Clip:
    """Gives what a family's text encoder gives: the same numbers for the same caption, a token for each word."""

    def __init__(self, family: Family) -> None:
        self._text, self.patcher = family.text, _patcher()

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[list[Any]]:
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        words = WORDS_OF_A_TEMPLATE + len(text.split())
        found = {name: _encoded(entry, words, generator) for name, entry in self._text.items()}
        return [[found.pop("cross_attn"), {"pooled_output": None, **found}]]  # core always names it


def _encoded(entry: Mapping[str, Any], words: int, generator: torch.Generator) -> Any:
    shape = [words if size == "words" else size for size in entry["shape"]]
    fill = entry.get("fill", "random")
    if fill == "random":
        drawn = torch.randn(shape, generator=generator)
        return [drawn] if entry.get("list") else drawn
    if fill == "padded":  # a mask of a fixed length that says how many tokens count
        made = (torch.arange(PADDED_TO) < words).expand(shape)
    else:
        made = torch.ones(shape) if fill == "ones" else torch.arange(1, words + 1).view(shape)
    return made.long() if entry.get("whole") else made.float()


class Vae:
    """Means of squares of pixels, in the shapes that a family's VAE gives and takes."""

    def __init__(self, family: Family, base: Any) -> None:
        self._video, self._form, self.patcher = family.vae == "video", base.latent_format, _patcher()
        self._side = downscale_of(base)

    def encode(self, pixels: Tensor) -> Tensor:
        height, width = (size // self._side for size in pixels.shape[1:3])
        small = nn.functional.adaptive_avg_pool2d(pixels.movedim(-1, 1), (height, width)) * 2 - 1
        channels = self._form.latent_channels
        latents = small.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
        return latents.movedim(0, 1)[None] if self._video else latents  # a batch is the frames of one clip

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents[:, :3].movedim(2, 1).flatten(0, 1) if latents.dim() == 5 else latents[:, :3]
        large = nn.functional.interpolate(frames.float(), scale_factor=self._side).clamp(-1, 1)
        pixels = ((large + 1) / 2).movedim(1, -1)
        return pixels[None] if latents.dim() == 5 else pixels


def side_of(family: Family, model: Any) -> int:
    """Side of the pictures that a family is tried with."""
    return family.px or 8 * downscale_of(model.model)


def downscale_of(base: Any) -> int:
    """Picture pixels a latent pixel, where this ComfyUI says."""
    return getattr(base.latent_format, "spacial_downscale_ratio", 8)
