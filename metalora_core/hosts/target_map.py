"""ComfyUI's layer names for a diffusers model, found by watching diffusers' own checkpoint converter at work.

ComfyUI keeps the names of the original checkpoints. diffusers has a converter from these to its own names, which also
cuts fused layers (``qkv``) into pieces. Tensors whose rows are numbered go through that converter, and where the
numbers come out is the map; no table of names is written down here, so none can be wrong or out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import IncompatibleBaseModel
from ..model.targets import Part, Target
from .unet import unet_keys

# The Flux converter cuts the single blocks' fused layer at FLUX.1's own width, 3 · 3072 + 4 · 3072 rows. Every numbered
# tensor gets so many rows; positions are fractions of it, which hold at any width.
PROBE_ROWS = 7 * 3072


@dataclass(frozen=True)
class Run:
    """Consecutive rows of a checkpoint tensor that land in consecutive rows of one diffusers tensor.

    Args:
        source: Key in the original checkpoint, without a prefix.
        start: First row, of `PROBE_ROWS`.
        stop: One past the last row.
    """

    source: str
    start: int
    stop: int

    def rows(self, total: int) -> tuple[int, int]:
        """First row and one past the last in a tensor with ``total`` rows.

        Raises:
            IncompatibleBaseModel: If the cut does not fall between two rows.
        """
        if self.start * total % PROBE_ROWS or self.stop * total % PROBE_ROWS:
            raise IncompatibleBaseModel(
                f"{self.source} has {total} rows, which diffusers' layout cannot divide. "
                "Only models with the proportions of the published ones can be used."
            )
        return self.start * total // PROBE_ROWS, self.stop * total // PROBE_ROWS


KeyMap = dict[str, tuple[Run, ...]]
"""diffusers key to the runs that make it, in order."""


class _NumberingCheckpoint(dict[str, Tensor]):
    """A checkpoint that holds whatever is asked of it: tensors whose rows carry unique numbers."""

    def __init__(self, seeds: list[str]) -> None:
        super().__init__()
        self.sources: list[str] = []
        for key in seeds:
            self[key] = torch.empty(0)

    def number(self, key: str) -> Tensor:
        self.sources.append(key)
        first = (len(self.sources) - 1) * PROBE_ROWS
        return torch.arange(first, first + PROBE_ROWS)

    def pop(self, key: str, *default: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = super().pop(key, None)
        return found if found is not None and found.numel() else self.number(key)

    def __missing__(self, key: str) -> Tensor:
        return torch.empty(PROBE_ROWS)


def _trace(convert: Callable[..., dict[str, Tensor]], checkpoint: _NumberingCheckpoint, **kwargs: Any) -> KeyMap:
    converted = convert(checkpoint, **kwargs)
    return {key: tuple(_runs(numbers, checkpoint.sources)) for key, numbers in converted.items() if numbers.numel()}


def _runs(numbers: Tensor, sources: list[str]) -> Iterator[Run]:
    breaks = (numbers[1:] != numbers[:-1] + 1) | (numbers[1:] % PROBE_ROWS == 0)
    edges = [0, *(torch.nonzero(breaks).flatten() + 1).tolist(), numbers.numel()]
    for begin, end in pairwise(edges):
        first = int(numbers[begin])
        start = first % PROBE_ROWS
        yield Run(sources[first // PROBE_ROWS], start, start + end - begin)


def flux_key_map(double_blocks: int, single_blocks: int, *, guidance: bool) -> KeyMap:
    """Key map of `FluxTransformer2DModel`."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers as convert

    seeds = [f"double_blocks.{double_blocks - 1}.", f"single_blocks.{single_blocks - 1}."]
    return _trace(convert, _NumberingCheckpoint([*seeds, "guidance_in."] if guidance else seeds))


def sd3_key_map(blocks: int, dual_attention: tuple[int, ...] = (), *, qk_norm: bool) -> KeyMap:
    """Key map of `SD3Transformer2DModel`."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers as convert

    seeds = [f"joint_blocks.{blocks - 1}.", *(f"joint_blocks.{i}.x_block.attn2." for i in dual_attention)]
    return _trace(convert, _NumberingCheckpoint([*seeds, "joint_blocks.0.ln_q"] if qk_norm else seeds))


def unet_key_map(model: nn.Module) -> KeyMap:
    """Key map of `UNet2DConditionModel`, whose converter renames and cuts nothing."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint as convert

    checkpoint = _NumberingCheckpoint([])
    for key in unet_keys(model):
        checkpoint[f"model.diffusion_model.{key}"] = checkpoint.number(key)
    return _trace(convert, checkpoint, config=dict(getattr(model, "config")))  # noqa: B009


def key_map(model: nn.Module) -> KeyMap:
    """Where every tensor of a diffusers model comes from in a checkpoint with ComfyUI's names.

    Args:
        model: A FluxTransformer2DModel, SD3Transformer2DModel or UNet2DConditionModel.

    Raises:
        IncompatibleBaseModel: If it is of another class.
    """
    config: Any = getattr(model, "config", None)
    kind = type(model).__name__
    if kind == "FluxTransformer2DModel":
        return flux_key_map(config.num_layers, config.num_single_layers, guidance=config.guidance_embeds)
    if kind == "SD3Transformer2DModel":
        dual: tuple[int, ...] = tuple(getattr(config, "dual_attention_layers", None) or ())
        return sd3_key_map(config.num_layers, dual, qk_norm=getattr(config, "qk_norm", None) is not None)
    if kind == "UNet2DConditionModel":
        return unet_key_map(model)
    raise IncompatibleBaseModel(
        f"The model is a {kind}; FluxTransformer2DModel, SD3Transformer2DModel and UNet2DConditionModel can be adapted."
    )


def find_targets(model: nn.Module) -> tuple[Target, ...]:
    """Every Linear and Conv2d of a diffusers model under ComfyUI's names.

    A target whose rows come out of the converter in another order than they went in is left out: its delta could not
    be added to whole modules. These are the last modulation layers of Flux and SD3, where shift and scale are swapped.

    Args:
        model: See `key_map`.

    Returns:
        Targets in the order of the model's modules.

    Raises:
        IncompatibleBaseModel: If the model is of another class or has unusual proportions.
    """
    runs_of = key_map(model)
    pieces: dict[str, list[tuple[Run, str, nn.Module]]] = {}
    reordered: set[str] = set()
    for path, module in model.named_modules():
        runs = runs_of.get(f"{path}.weight")
        if runs is None or not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        for run in runs:
            pieces.setdefault(run.source, []).append((run, path, module))
        if len(runs) > 1:
            reordered.update(run.source for run in runs)
    return tuple(_target(source, found) for source, found in pieces.items() if source not in reordered)


def _target(source: str, found: list[tuple[Run, str, nn.Module]]) -> Target:
    weights: list[tuple[Run, str, torch.Size]] = [
        (run, path, module.weight.shape) for run, path, module in found if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    total = sum(shape[0] for _, _, shape in weights)
    parts = [Part(path, *run.rows(total)) for run, path, _ in weights]
    for part, (_, path, shape) in zip(parts, weights, strict=True):
        if part.stop - part.start != shape[0]:
            raise IncompatibleBaseModel(
                f"{path} has {shape[0]} rows, {part.stop - part.start} were expected from {source}. "
                "Only models with the proportions of the published ones can be used."
            )
    shape = (total, *weights[0][2][1:])
    return Target(source.removesuffix(".weight"), shape, tuple(sorted(parts, key=lambda part: part.start)))
