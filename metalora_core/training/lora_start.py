"""A prior made of ordinary LoRA files, without training.

The updates of all files, one below the other, have right singular vectors: the input directions that subjects of this
kind use. They become meta_down. The left ones of the updates side by side become up, and the mean update, seen between
both, becomes mid. Nothing as large as a weight is ever computed: a file's ΔW = up · down has the same singular vectors
as R · down, where R is the triangle of up's QR decomposition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import JsonValue
from torch import Tensor

from ..chain import ChainFactors
from ..errors import InvalidOptions
from ..files.lora_files import LoRAFile
from ..files.prior import Prior, PriorLayer
from ..model.base_weights import SAMPLE, weights_sample
from ..model.host import Host
from ..model.targets import Target
from .meta_options import MetaTrainingOptions
from .prior_record import prior_record
from .seeds import step_generator

__all__ = ["chains_of_lora", "prior_of_loras"]

_SMALLEST = 1e-12  # squared singular values below this share of the largest are rounding
_Pair = tuple[Tensor, Tensor]  # up (out, rank) with the scale in it, and down (rank, in · kh · kw), both float64


def prior_of_loras(
    host: Host, files: Sequence[LoRAFile], targets: Sequence[Target], options: MetaTrainingOptions, domain: str
) -> Prior:
    """Make a prior from LoRA files; the same files always give the same one.

    Every file weighs the same, whatever strength it was trained for: its factors are scaled to the median file's size.
    Only layers that some file changes are in the prior. Directions that the files leave open are filled at random.

    Args:
        host: The base model; only its record is read.
        files: LoRAs of one kind of subject, made for this model.
        targets: Layers that may be adapted.
        options: Ranks, scale, seed, and what goes into the record.
        domain: What the subjects are.

    Raises:
        InvalidOptions: If the files change nothing.
    """
    pairs = [_pairs_of(file, targets) for file in files]
    weights = _weights(pairs)
    generator, layers = step_generator(options.seed, "prior of LoRAs"), dict[str, PriorLayer]()
    for target in sorted(targets, key=lambda one: one.name):
        name = target.name
        own = [(w * pair[name][0], pair[name][1]) for w, pair in zip(weights, pairs, strict=True) if name in pair]
        if own:
            layers[target.name] = _layer(target, own, len(files), options, generator)
    used = [target for target in targets if target.name in layers]
    made_of: list[JsonValue] = [{"name": file.name, "sha256": file.sha256} for file in files]
    training: dict[str, JsonValue] = {"loras": made_of, SAMPLE: [*weights_sample(host.model, used, layers)]}
    return Prior(layers, prior_record(options, host.family, used, domain, training))


def _pairs_of(file: LoRAFile, targets: Sequence[Target]) -> dict[str, _Pair]:
    """A file's factors per layer, those of a fused layer's parts put into their rows and joined."""
    outputs, found = {target.name: target.shape[0] for target in targets}, dict[str, list[_Pair]]()
    for part in file.parts:
        layer, start, stop = part.rows
        up = torch.zeros(outputs[layer], part.up.shape[1], dtype=torch.float64)
        up[start:stop] = part.up.double() * part.scale
        found.setdefault(layer, []).append((up, part.down.double().flatten(1)))
    return {
        layer: (torch.cat([up for up, _ in pairs], dim=1), torch.cat([down for _, down in pairs]))
        for layer, pairs in found.items()
    }


def _weights(files: Sequence[Mapping[str, _Pair]]) -> list[float]:
    """What each file's updates are multiplied with, so that all are as large as the median file's."""
    squared = [sum(_squared(*pair) for pair in file.values()) for file in files]
    sizes = [size**0.5 for size in squared]
    median = sorted(sizes)[len(sizes) // 2]
    if not median > 0:
        raise InvalidOptions("These LoRA files change nothing: their updates are zero. Give trained ones.")
    return [median / size if size > 0 else 0.0 for size in sizes]


def _squared(up: Tensor, down: Tensor) -> float:
    return float(((up.T @ up) * (down @ down.T)).sum())


def _layer(
    target: Target, pairs: Sequence[_Pair], files: int, options: MetaTrainingOptions, generator: torch.Generator
) -> PriorLayer:
    inputs, outputs = pairs[0][1].shape[1], target.shape[0]
    down = _directions(pairs, min(options.r_meta, inputs), generator)
    up = _directions([(right.T, left.T) for left, right in pairs], min(options.r_mid, outputs), generator).T
    mean = sum(((up.T @ left) @ (right @ down.T) for left, right in pairs), torch.zeros(())) / files
    shape = (-1, *target.shape[1:])
    return PriorLayer(down.float().view(shape), (mean / options.scale).float(), up.float().contiguous())


def _directions(pairs: Sequence[_Pair], count: int, generator: torch.Generator) -> Tensor:
    """The first ``count`` right singular vectors of all left · right, one below the other, as rows (count, columns)."""
    stacked = torch.cat([torch.linalg.qr(left, mode="r")[1] @ right for left, right in pairs])
    wide = stacked.shape[0] < stacked.shape[1]
    squares, vectors = torch.linalg.eigh(stacked @ stacked.T if wide else stacked.T @ stacked)
    squares, vectors = squares.flip(0)[:count], vectors.flip(1)[:, :count]
    kept = squares > _SMALLEST * squares[0].clamp_min(torch.finfo(torch.float64).tiny)
    rows = (vectors.T @ stacked if wide else vectors.T)[kept]
    random = torch.randn(count - len(rows), stacked.shape[1], generator=generator, dtype=torch.float64)
    # QR makes exact unit rows, keeps the order, and turns the random rest away from the directions that were found.
    basis = torch.linalg.qr(torch.cat([rows, random]).T)[0].T
    # A singular vector's sign is a matter of chance: the largest entry is positive.
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return basis * largest.sign()


def chains_of_lora(host: Host, file: LoRAFile, targets: Sequence[Target]) -> dict[str, ChainFactors]:
    """A LoRA file as chains, to be put into the model as it is.

    Args:
        host: Gives device and dtype.
        file: The LoRA.
        targets: Layers that it was read for.
    """
    shapes, chains = {target.name: target.shape for target in targets}, dict[str, ChainFactors]()
    for name, (up, down) in _pairs_of(file, targets).items():
        middle = torch.eye(len(down))
        down, middle, up = (one.to(host.device, host.dtype) for one in (down, middle, up))
        chains[name] = ChainFactors(down.view(-1, *shapes[name][1:]), middle, up)
    return chains
