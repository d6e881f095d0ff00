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
from ..model.families import FAMILIES, Base, bases
from ..model.objective import EpsObjective, FlowObjective, Objective, VObjective
from .diffusers_door import diffusers_class
from .single_file import PREFIXES

_TEXT_MARKS = ("cond_stage_model.", "conditioner.", "text_encoders.")


def load_pipeline(path: Path, dtype: torch.dtype) -> Any:
    """A pipeline from a local folder; nothing is downloaded and nothing unpickled.

    Raises:
        UnreadableFile: If the folder is not a pipeline of safetensors files.
    """
    from safetensors import SafetensorError

    try:
        index: dict[str, Any] = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        spare = {"safety_checker": None} if "safety_checker" in index else {}
        return diffusers_class("DiffusionPipeline").from_pretrained(
            str(path), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **spare
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
    raise IncompatibleBaseModel(
        f"{path.name} is a whole checkpoint of a model that is unknown here; known are {known}."
    )


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
        return cls.from_single_file(str(path), torch_dtype=dtype, local_files_only=True, **config)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidOptions(
            f"{path.name} is a whole checkpoint and could not be loaded ({str(error)[:300]}). Give pipeline_config=…, "
            f"a local folder with the {cls.__name__} configuration of its base model, or use the diffusers folder."
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
