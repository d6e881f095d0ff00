"""Denoisers in one file with ComfyUI's (the original) key names, of any size, without fetching a configuration from a
server.

diffusers' own single-file loader fetches the configuration of a published model and cuts at its width. Here
the configuration is read off the shapes, and the rows are placed by the map that the same converter gave.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import MetaLoRAError, UnreadableFile
from ..files.bounded import read_keys
from ..model.families import FAMILIES, Family, bases, family_of_denoiser
from .architecture import Builder, architecture_of
from .diffusers_door import diffusers_class
from .target_map import KeyMap, key_map

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")


def load_denoiser(path: Path | str, family: Family | None = None, config: Path | None = None) -> nn.Module:
    """Load a denoiser of one of the families from one safetensors file.

    Keys are the original ones, with or without ``model.diffusion_model.``, or diffusers' own where the family reads
    them.

    Args:
        path: The file. Other tensors in it (VAE, text encoders) are ignored.
        family: Of the model, if it is known.
        config: Folder with its configuration; None to read the sizes off the file.

    Returns:
        The model in the file's dtype and evaluation mode.

    Raises:
        UnreadableFile: If the architecture is not recognised or a tensor is missing or has another shape.
    """
    path = Path(path)
    tensors = _map_tensors(path)
    if family is not None and config is not None:
        return _place(path.name, partial(_configured, family.denoiser, config), _below_prefix(tensors))
    codes = [code for row in FAMILIES.values() if (code := architecture_of(row))]
    builders = {mark: build for code in codes for mark, build in code.builders.items()}
    for prefix in PREFIXES:
        for mark, build in builders.items():
            if prefix + mark in tensors:
                state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                return _place(path.name, build, state)
    raise UnreadableFile(
        f"{path.name} is not a known denoiser: expected {', '.join(base.title for base in bases())}, with one of the "
        f"keys {', '.join(builders)}. Choose another file."
    )


def load_denoiser_folder(path: Path) -> nn.Module:
    """Load a denoiser from its own diffusers folder (config.json and safetensors weights).

    Raises:
        UnreadableFile: If there is none of the known classes in safetensors form.
    """
    from safetensors import SafetensorError

    try:
        kind = str(json.loads((path / "config.json").read_text(encoding="utf-8")).get("_class_name"))
        family_of_denoiser(kind)
        return diffusers_class(kind).from_pretrained(str(path), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError, MetaLoRAError) as error:
        raise UnreadableFile(
            f"{path} is not a diffusers model that can be loaded ({str(error)[:400]}). Copy or download the folder "
            "again, with safetensors weights."
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


def _below_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = next(prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in tensors))
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _configured(kind: str, config: Path, state: Mapping[str, Tensor]) -> nn.Module:
    cls = diffusers_class(kind)
    return cls.from_config(cls.load_config(str(config), local_files_only=True))


@contextmanager
def _parameters_without_memory() -> Generator[None]:
    # Buffers that a model computes for itself, such as rotary frequencies, are in no file and have to be real.
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, None if param is None else nn.Parameter(param.to("meta"), requires_grad=False))

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _place(name: str, build: Builder, state: Mapping[str, Tensor]) -> nn.Module:
    try:
        with _parameters_without_memory():  # they all come from the file
            model = build(state)
        own = set(model.state_dict())
        named_by_diffusers = own <= set(state)
        converted = (
            {key: state[key] for key in own} if named_by_diffusers else _convert(name, key_map(model), state, own)
        )
        model.load_state_dict(converted, strict=True, assign=True)
    except (OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
        raise UnreadableFile(
            f"{name} is incomplete or has unusual shapes: {str(error)[:400]}. Choose another file."
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
