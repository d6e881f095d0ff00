"""ComfyUI's layer names for a diffusers model, found by watching diffusers' own checkpoint converter at work.

ComfyUI keeps the names of the original checkpoints. diffusers has a converter from these to its own names, which also
cuts fused layers (``qkv``) into pieces. Tensors with numbered rows go through that converter, and where the numbers
come out is the map; no table of names is written down here, so none can be wrong or out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checks import optional
from ..errors import IncompatibleBaseModel, InvalidOptions
from ..files.export import is_named_by_diffusers, layer_shapes
from ..files.identity import Identity
from ..files.prior import Prior
from ..model.families import Family, family_of_shapes
from ..model.targets import Part, Target
from .architecture import Naming, architecture_of, family_of


@dataclass(frozen=True)
class Run:
    """Consecutive rows of a checkpoint tensor that land in consecutive rows of one diffusers tensor.

    Args:
        source: Key in the original checkpoint, without a prefix.
        start: First row.
        stop: One past the last row.
        of: Rows that the tensor was numbered with; start and stop are fractions of it, which hold at any width.
    """

    source: str
    start: int
    stop: int
    of: int

    def rows(self, total: int) -> tuple[int, int]:
        """First row and one past the last in a tensor with ``total`` rows.

        Raises:
            IncompatibleBaseModel: If the cut does not fall between two rows.
        """
        if self.start * total % self.of or self.stop * total % self.of:
            raise IncompatibleBaseModel(
                f"{self.source} has {total} rows, which diffusers' layout cannot divide. Only models with the "
                "proportions of the published ones are supported."
            )
        return self.start * total // self.of, self.stop * total // self.of


KeyMap = dict[str, tuple[Run, ...]]
"""diffusers key to the runs that make it, in order."""


class _NumberingCheckpoint(dict[str, Tensor]):
    """A checkpoint that has whatever key is asked for: tensors with unique numbers in their rows."""

    def __init__(self, rows: int, seeds: list[str]) -> None:
        super().__init__()
        self.rows = rows
        self.sources: list[str] = []
        for key in seeds:
            self[key] = torch.empty(0)

    def number(self, key: str) -> Tensor:
        self.sources.append(key)
        first = (len(self.sources) - 1) * self.rows
        return torch.arange(first, first + self.rows)

    def pop(self, key: str, *default: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = super().pop(key, None)
        return found if found is not None and found.numel() else self.number(key)

    def __missing__(self, key: str) -> Tensor:
        return torch.empty(self.rows)


def _trace(kind: str, checkpoint: _NumberingCheckpoint, config: Any) -> KeyMap:
    known = optional("diffusers.loaders.single_file_model", "The layout of diffusers", "SINGLE_FILE_LOADABLE_CLASSES")
    convert = cast("Callable[..., dict[str, Tensor | None]]", known[kind]["checkpoint_mapping_fn"])
    converted = convert(checkpoint=checkpoint, config=config)
    if converted is checkpoint:  # a family whose names diffusers keeps
        converted = {key: checkpoint.number(key) for key in checkpoint}
    return {
        key: tuple(_runs(numbers.flatten(), checkpoint))
        for key, numbers in converted.items()
        if numbers is not None and numbers.numel()
    }


def _runs(numbers: Tensor, checkpoint: _NumberingCheckpoint) -> Iterator[Run]:
    rows = checkpoint.rows
    breaks = (numbers[1:] != numbers[:-1] + 1) | (numbers[1:] % rows == 0)
    edges = [0, *(torch.nonzero(breaks).flatten() + 1).tolist(), numbers.numel()]
    for begin, end in pairwise(edges):
        first = int(numbers[begin])
        start = first % rows
        yield Run(checkpoint.sources[first // rows], start, start + end - begin, rows)


def key_map(model: nn.Module) -> KeyMap:
    """Where every tensor of a diffusers model comes from in a checkpoint with ComfyUI's names.

    Args:
        model: Of one of the families.

    Raises:
        IncompatibleBaseModel: If it is of another class.
    """
    family = family_of(model)
    naming = _naming(family)
    if naming is None:
        checkpoint = _NumberingCheckpoint(family.probe_rows, [_renamed(key, family) for key in model.state_dict()])
    else:
        checkpoint = _numbered(family.probe_rows, naming.keys(model))
    return _trace(family.denoiser, checkpoint, dict(cast(Any, model).config))


def _naming(family: Family) -> Naming | None:
    code = architecture_of(family)
    return code.naming if code else None


def _renamed(key: str, family: Family) -> str:
    for ours, original in family.renames:
        key = re.sub(ours, original, key)
    return key


def find_targets(model: nn.Module) -> tuple[Target, ...]:
    """Every Linear and Conv2d of a diffusers model under ComfyUI's names.

    A target is left out if the converter changes the order of its rows: its delta could not be added to whole modules.
    These are the last modulation layers of Flux and SD3, where shift and scale are swapped.

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


def named_targets(family: Family, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Target, ...]:
    """Targets of a model that is known by the names and shapes of some of its layers alone.

    Args:
        family: Of the model.
        shapes: Weight shape of each target.

    Returns:
        As `find_targets` gives them for the model, without those that it leaves out.
    """
    naming = _naming(family)
    keys = [f"{name}.weight" for name in shapes]
    if naming is None:
        places = _trace(family.denoiser, _NumberingCheckpoint(family.probe_rows, [*family.seeds, *keys]), {})
    else:
        checkpoint = _numbered(family.probe_rows, [*naming.seeds(shapes), *keys])
        places = _trace(family.denoiser, checkpoint, naming.config(shapes))
    pieces: dict[str, list[tuple[Run, str]]] = {}
    for key, runs in places.items():
        for run in runs if len(runs) == 1 else ():
            pieces.setdefault(run.source, []).append((run, key.removesuffix(".weight")))
    return tuple(
        Target(name, shape, tuple(sorted((Part(path, *run.rows(shape[0])) for run, path in found), key=_start)))
        for name, shape in shapes.items()
        if (found := pieces.get(f"{name}.weight"))
    )


def layout_targets(layout: str, identity: Identity, prior: Prior) -> tuple[Target, ...] | None:
    """The modules behind an identity's layers, where an export names modules and not layers; None elsewhere.

    Args:
        layout: Of the export.
        identity: To be exported.
        prior: The prior it was learned with.

    Raises:
        InvalidOptions: If diffusers' names for this architecture are not known.
        IncompatibleBaseModel: If the model has unusual proportions.
    """
    if layout != "diffusers" and not (layout == "kohya" and is_named_by_diffusers(prior)):
        return None
    shapes = layer_shapes(identity, prior)
    family = family_of_shapes(prior.metadata.family, shapes)
    if family is None:
        raise InvalidOptions(
            f"The names that diffusers gives the layers of a {prior.metadata.family} model are not known here. Choose "
            "the layout comfyui or kohya."
        )
    return named_targets(family, shapes)


def _start(part: Part) -> int:
    return part.start


def _numbered(rows: int, keys: Iterable[str]) -> _NumberingCheckpoint:
    checkpoint = _NumberingCheckpoint(rows, [])
    for key in keys:
        checkpoint[f"model.diffusion_model.{key}"] = checkpoint.number(key)
    return checkpoint


def _target(source: str, found: list[tuple[Run, str, nn.Module]]) -> Target:
    weights: list[tuple[Run, str, torch.Size]] = [
        (run, path, module.weight.shape) for run, path, module in found if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    total = sum(shape[0] for _, _, shape in weights)
    parts = [Part(path, *run.rows(total)) for run, path, _ in weights]
    for part, (_, path, shape) in zip(parts, weights, strict=True):
        if part.stop - part.start != shape[0]:
            raise IncompatibleBaseModel(
                f"{path} has {shape[0]} rows; expected {part.stop - part.start} from {source}. Only models with the "
                "proportions of the published ones are supported."
            )
    shape = (total, *weights[0][2][1:])
    return Target(source.removesuffix(".weight"), shape, tuple(sorted(parts, key=_start)))
