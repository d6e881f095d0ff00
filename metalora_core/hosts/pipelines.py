"""Pipelines from this machine, and the objective that their scheduler stands for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..errors import IncompatibleBaseModel, InvalidOptions, UnreadableFile
from ..files.bounded import read_keys
from ..model.families import FAMILIES, Base, Family, bases
from ..model.objective import EpsObjective, FlowObjective, Objective, VObjective
from .architecture import architecture_of
from .diffusers_door import diffusers_class, offline
from .single_file import PREFIXES

_TEXT_MARKS = ("cond_stage_model.", "conditioner.", "text_encoders.")


def read_index(path: Path) -> tuple[dict[str, Any], Family]:
    """A pipeline folder's list of components and the family of its denoiser, in milliseconds.

    Raises:
        UnreadableFile: If there is no such list.
        IncompatibleBaseModel: If the pipeline is not one that can be trained here.
    """
    try:
        index: dict[str, Any] = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        kinds = {name: value[1] for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    except (OSError, ValueError, AttributeError) as error:
        raise UnreadableFile(
            f"{path} has no readable model_index.json ({error}). Copy or download it again."
        ) from error
    found = [(name, family) for name, kind in kinds.items() for family in FAMILIES.values() if family.denoiser == kind]
    pipeline = str(index.get("_class_name"))
    known = ", ".join(base.title for base in bases())
    if not found:
        raise IncompatibleBaseModel(
            f"{path} is a {pipeline}. The command line works with {known}; in ComfyUI the nodes take more models."
        )
    component, family = found[0]
    if architecture_of(family) is None and pipeline not in {base.pipeline for base in family.bases}:
        wanted = " or ".join(base.pipeline for base in family.bases)
        raise IncompatibleBaseModel(
            f"{path} is a {pipeline}, which needs more than a prompt. Use the {wanted} of this family."
        )
    _require_plain(path / component / "config.json")
    return index, family


def _require_plain(config_file: Path) -> None:
    try:
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # diffusers reports what is wrong with it
    taken, given = config.get("in_channels"), config.get("out_channels")
    if config.get("patch_size") != 2 and taken and given and taken != given:
        raise IncompatibleBaseModel(
            f"{config_file.parent} takes {taken} channels and gives {given}: an inpainting, editing or control "
            "variant. Use the family's text-to-image model."
        )


def load_pipeline(path: Path, dtype: torch.dtype, **components: Any) -> Any:
    """A pipeline from a local folder; nothing is downloaded and nothing unpickled.

    Args:
        path: The folder.
        dtype: Of denoiser and text encoders.
        components: Taken in place of those in the folder, which are not read.

    Raises:
        UnreadableFile: If the folder is not a pipeline of safetensors files.
        IncompatibleBaseModel: If the pipeline is not one that can be trained here.
    """
    from safetensors import SafetensorError

    index, _ = read_index(path)
    spare = {"safety_checker": None} if "safety_checker" in index else {}
    try:
        with offline():
            return diffusers_class("DiffusionPipeline").from_pretrained(
                str(path), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **spare, **components
            )
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise UnreadableFile(
            f"{path} is not a diffusers pipeline that can be loaded ({str(error)[:400]}). Copy or download the folder "
            "again, with safetensors weights."
        ) from error


def denoiser_of(pipeline: Any) -> nn.Module:
    """The component of a pipeline that predicts noise or flow.

    Raises:
        IncompatibleBaseModel: If it has none of a known family.
    """
    known = {family.denoiser for family in FAMILIES.values()}
    for component in pipeline.components.values():
        if type(component).__name__ in known:
            return component
    raise IncompatibleBaseModel(f"A {type(pipeline).__name__} has none of these: {', '.join(sorted(known))}.")


def holds_text_encoders(path: Path) -> bool:
    """Whether a single file is a whole checkpoint, with text encoders beside the denoiser."""
    return any(key.startswith(_TEXT_MARKS) for key in read_keys(path))


def base_of_checkpoint(path: Path) -> Base:
    """Base of a whole checkpoint, by its keys.

    Raises:
        IncompatibleBaseModel: If they are those of no base that is known here.
    """
    keys = read_keys(path)
    for base in bases():
        marks = tuple(prefix + mark for prefix in PREFIXES for mark in base.marks)
        if any(key.startswith(marks) for key in keys):
            return base
    known = ", ".join(base.title for base in bases())
    raise IncompatibleBaseModel(f"{path.name} is a whole checkpoint of an unknown model; known are {known}.")


def load_whole_checkpoint(path: Path, dtype: torch.dtype, pipeline_config: Path | None) -> Any:
    """A pipeline from one file that holds denoiser, autoencoder and text encoders.

    Args:
        path: The .safetensors file.
        dtype: Of the denoiser and text encoders.
        pipeline_config: Local folder with the configuration of the base model's pipeline; without it diffusers looks
            in its local cache.

    Raises:
        InvalidOptions: If there is no configuration.
    """
    from safetensors import SafetensorError

    cls = diffusers_class(base_of_checkpoint(path).pipeline)
    config = {"config": str(pipeline_config)} if pipeline_config else {}
    try:
        with offline():
            return cls.from_single_file(str(path), torch_dtype=dtype, local_files_only=True, **config)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidOptions(
            f"{path.name} is a whole checkpoint; to load it, the configuration of its base model is needed. Give "
            f"--pipeline-config FOLDER, a diffusers folder with a {cls.__name__}, or use such a folder as the model. "
            f"(diffusers says: {str(error)[:300]})"
        ) from error


def objective_of(scheduler_config: Mapping[str, Any]) -> Objective:
    """The objective that a scheduler's configuration stands for.

    A flow scheduler gives logit-normal timesteps under its shift; where the shift depends on the picture size
    (FLUX.1-dev), that of the largest training size, exp(max_shift) ≈ 3.2, is taken.

    Raises:
        InvalidOptions: If the model predicts something other than noise or velocity.
    """
    config = dict(scheduler_config)
    if "FlowMatch" in str(config.get("_class_name", "")):
        dynamic = bool(config.get("use_dynamic_shifting", False))
        shift = math.exp(float(config.get("max_shift") or 1.15)) if dynamic else float(config.get("shift") or 1.0)
        return FlowObjective(sampling="logit_normal", shift=shift)
    prediction = config.get("prediction_type", "epsilon")
    kinds = {"epsilon": EpsObjective, "v_prediction": VObjective}
    if prediction not in kinds:
        raise InvalidOptions(
            f"According to its scheduler, the model predicts {prediction!r}; only {', '.join(kinds)} or a flow can be "
            "trained."
        )
    scheduler = diffusers_class("DDPMScheduler").from_config(config)
    return kinds[prediction](cast("torch.Tensor", scheduler.alphas_cumprod))
