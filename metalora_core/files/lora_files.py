"""Ordinary LoRA files, whoever trained them, read as low-rank updates of a model's layers.

A file's keys are looked up in a table of every name that a layer goes by: ComfyUI's, kohya's and diffusers' (PEFT's).
Inside ComfyUI its own table takes the place of `layer_names`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..checks import plain_line
from ..errors import IncompatibleBaseModel, MetaLoRAError, UnreadableFile
from ..model.targets import Target
from .bounded import ReadLimits, read_safetensors

__all__ = ["FoundLoRAs", "LayerRows", "LoRAFile", "LoRAPart", "layer_names", "lora_files", "read_lora", "read_loras"]

_LIMITS = ReadLimits(file_bytes=4 * 1024**3)
_FACTOR = re.compile(r"(?P<name>.+?)[._]lora(?:_linear_layer)?[._](?P<side>down|up|A|B)(?:\.default)?\.weight")
_OTHER_KINDS = ("hada_", "lokr_", "dora_scale", "lora_magnitude", "lora_mid", "oft_", "glora")
_UNET_PREFIXES = ("diffusion_model.", "model.diffusion_model.", "base_model.model.", "")


class LayerRows(NamedTuple):
    """Rows of a layer's weight that a LoRA's name stands for."""

    layer: str
    start: int
    stop: int


@dataclass(frozen=True)
class LoRAPart:
    """One pair of factors: rows start to stop of ΔW are scale · up · down.

    Args:
        rows: Where it belongs.
        down: (rank, in) or (rank, in, kh, kw), as stored.
        up: (rows, rank) or (rows, rank, 1, 1), as stored.
        scale: alpha / rank, or 1 if the file has no alpha.
    """

    rows: LayerRows
    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class LoRAFile:
    """A file that fits the model.

    Args:
        name: File name.
        sha256: Of the file.
        parts: Its factors, in the order of the file.
        used: Keys that belong to them, alphas included.
        keys: All keys of the file.
    """

    name: str
    sha256: str
    parts: tuple[LoRAPart, ...]
    used: int
    keys: int


@dataclass(frozen=True)
class FoundLoRAs:
    """The files of a folder: those that fit, and why the others were passed over."""

    files: tuple[LoRAFile, ...]
    passed_over: tuple[str, ...]

    @property
    def note(self) -> str:
        """How many files and keys are used, then one line per file that is not."""
        used, keys = sum(file.used for file in self.files), sum(file.keys for file in self.files)
        lines = [f"{len(self.files)} LoRA files, {used} of {keys} keys used."]
        return "\n".join(lines + [f"Passed over: {reason}" for reason in self.passed_over])


def layer_names(targets: Iterable[Target], component: str = "transformer") -> dict[str, LayerRows]:
    """Every name that a LoRA file may have for a layer.

    Args:
        targets: Layers of the model, with the modules that compute them in diffusers.
        component: What a diffusers pipeline calls the model, "transformer" or "unet".
    """
    table: dict[str, LayerRows] = {}
    for target in targets:
        whole = LayerRows(target.name, 0, target.shape[0])
        parts = [(part.module, LayerRows(target.name, part.start, part.stop)) for part in target.parts]
        for name, rows in ((target.name, whole), *parts):
            flat = name.replace(".", "_")
            dotted = (*_UNET_PREFIXES, f"{component}.", f"base_model.model.{component}.")
            table |= {f"{prefix}{name}": rows for prefix in dotted if f"{prefix}{name}" not in table}
            unders = ("lora_unet_", f"lora_{component}_", "lycoris_")
            table |= {f"{prefix}{flat}": rows for prefix in unders if f"{prefix}{flat}" not in table}
    return table


def read_lora(path: Path, names: Mapping[str, LayerRows], shapes: Mapping[str, tuple[int, ...]]) -> LoRAFile:
    """Read a LoRA file.

    Args:
        path: The file.
        names: Name in a file to the rows that it stands for, see `layer_names`.
        shapes: Weight shape of every layer that may be used; factors of others are left out.

    Raises:
        UnreadableFile: If it is damaged, oversized, not finite, or no plain LoRA.
        IncompatibleBaseModel: If it was made for another model.
    """
    file = read_safetensors(path, _LIMITS)
    foreign = next((key for key in file.tensors if any(mark in key for mark in _OTHER_KINDS)), None)
    if foreign is not None:
        raise UnreadableFile(f"it holds another kind of adapter than plain LoRA ({plain_line(foreign, 80)})")
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in file.tensors.items():
        if found := _FACTOR.fullmatch(key):
            side = "down" if found["side"] in ("down", "A") else "up"
            pairs.setdefault(found["name"], {})[side] = tensor
    parts, used = list[LoRAPart](), 0
    for name, pair in pairs.items():
        rows, alpha = names.get(name), file.tensors.get(f"{name}.alpha")
        if rows is None or rows.layer not in shapes:
            continue
        parts.append(_part(name, rows, pair, alpha, shapes[rows.layer]))
        used += 2 + (alpha is not None)
    if not parts:
        first = plain_line(next(iter(file.tensors), "none"), 80)
        raise IncompatibleBaseModel(f"none of its {len(file.tensors)} keys names an adapted layer (first: {first})")
    return LoRAFile(plain_line(path.name, 120), file.sha256, tuple(parts), used, len(file.tensors))


def _part(
    name: str, rows: LayerRows, pair: Mapping[str, Tensor], alpha: Tensor | None, shape: tuple[int, ...]
) -> LoRAPart:
    down, up, shown = pair.get("down"), pair.get("up"), plain_line(name, 80)
    if down is None or up is None or not (down.is_floating_point() and up.is_floating_point()):
        raise UnreadableFile(f"{shown} lacks one of its two factors")
    rank, wanted = down.shape[0] if down.ndim else 0, (rows.stop - rows.start, *shape[1:])
    flat_up = up.flatten(1) if up.ndim in (2, 4) else up
    found = (up.shape[0] if up.ndim else 0, *down.shape[1:])
    if down.ndim == 4 and len(shape) == 2 and down.shape[2:] == (1, 1):  # a linear layer that was a 1×1 convolution
        down, found = down.flatten(1), (*found[:2],)
    if not rank:
        raise UnreadableFile(f"{shown} has rank 0")
    if found != wanted or flat_up.shape != (wanted[0], rank):
        raise IncompatibleBaseModel(
            f"{shown} fits a weight of shape {found}, and the model has {wanted}: it was made for another model"
        )
    if alpha is not None and (alpha.numel() != 1 or alpha.is_complex()):
        raise UnreadableFile(f"the alpha of {shown} has shape {tuple(alpha.shape)}; expected one real number")
    scale = 1.0 if alpha is None else float(alpha) / rank
    if not all(bool(factor.float().isfinite().all()) for factor in (down, flat_up * scale)):
        raise UnreadableFile(f"the weights of {shown} are too large for a number of 32 bits")
    return LoRAPart(rows, down, flat_up, scale)


def lora_files(folder: Path) -> list[Path]:
    """The .safetensors files of a folder, by name.

    Raises:
        UnreadableFile: If the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".safetensors")
    except OSError as error:
        raise UnreadableFile(f"{folder} could not be read ({error.strerror or error}). Check the path.") from error


def read_loras(
    folder: Path,
    names: Mapping[str, LayerRows],
    targets: Sequence[Target],
    on_file: Callable[[int, int], None] | None = None,
) -> FoundLoRAs:
    """Read all LoRA files of a folder; what does not fit is passed over.

    Args:
        folder: Holds .safetensors files.
        names: See `read_lora`.
        targets: Layers that may be used.
        on_file: Called with the files read and the files in all; it may raise.

    Raises:
        UnreadableFile: If the folder cannot be read, or no file in it fits; the message gives each reason.
    """
    paths = lora_files(folder)
    shapes = {target.name: target.shape for target in targets}
    files, passed_over, known = list[LoRAFile](), list[str](), dict[str, str]()
    for done, path in enumerate(paths, start=1):
        name = plain_line(path.name, 120)
        try:
            file = read_lora(path, names, shapes)
            if file.sha256 in known:
                raise UnreadableFile(f"the same file as {known[file.sha256]}")
            known[file.sha256] = name
            files.append(file)
        except MetaLoRAError as reason:
            told = str(reason)
            passed_over.append(told if told.startswith(name) else f"{name}: {told}")
        if on_file is not None:
            on_file(done, len(paths))
    if not files:
        reasons = "; ".join(passed_over[:20]) or "there is no .safetensors file"
        raise UnreadableFile(
            f"No LoRA file in {folder} fits the model: {reasons}. Give LoRA files made for this model."
        )
    return FoundLoRAs(tuple(files), tuple(passed_over))
