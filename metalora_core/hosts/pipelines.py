"""What a diffusers pipeline brings beside its denoiser: text encoders, and the objective it was trained with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import InvalidOptions, UnreadableFile
from ..files.bounded import read_keys
from ..model.host import Conditioning
from ..model.objective import EpsObjective, FlowObjective, Objective, VObjective
from .diffusers_door import diffusers_class
from .single_file import PREFIXES

_PIPELINES = {
    "flux": "FluxPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd15": "StableDiffusionPipeline",
}
_TEXT_MARKS = ("cond_stage_model.", "conditioner.", "text_encoders.")


def load_pipeline(path: Path, dtype: torch.dtype) -> Any:
    """A pipeline from a local folder; nothing is downloaded and nothing unpickled.

    Raises:
        UnreadableFile: If the folder is no pipeline of safetensors files.
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
            f"{path} could not be loaded as a diffusers pipeline ({str(error)[:400]}). Copy or download the folder "
            "again, with its weights as safetensors."
        ) from error


def holds_text_encoders(path: Path) -> bool:
    """Whether a single file is a whole checkpoint, with text encoders beside the denoiser."""
    return any(key.startswith(_TEXT_MARKS) for key in read_keys(path))


def base_of_checkpoint(path: Path) -> str:
    """Base of a whole checkpoint, by its keys: "flux", "sd3", "sdxl" or "sd15"."""
    keys = set(read_keys(path))
    marks = {"double_blocks.": "flux", "joint_blocks.": "sd3", "label_emb.": "sdxl"}
    for mark, base in marks.items():
        if any(key.startswith(tuple(prefix + mark for prefix in PREFIXES)) for key in keys):
            return base
    return "sd15"


def load_whole_checkpoint(path: Path, dtype: torch.dtype, pipeline_config: Path | None) -> Any:
    """A pipeline from one file that holds denoiser, autoencoder and text encoders.

    Args:
        path: The .safetensors file.
        dtype: Of the denoiser and text encoders.
        pipeline_config: Local folder with the configuration of the base model's pipeline; without it diffusers looks
            in its local cache.

    Raises:
        InvalidOptions: If there is no configuration at hand.
    """
    from safetensors import SafetensorError

    cls = diffusers_class(_PIPELINES[base_of_checkpoint(path)])
    config = {"config": str(pipeline_config)} if pipeline_config else {}
    try:
        return cls.from_single_file(str(path), torch_dtype=dtype, local_files_only=True, **config)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidOptions(
            f"{path.name} is a whole checkpoint and could not be loaded ({str(error)[:300]}). Give pipeline_config=…, "
            f"a local folder with the {cls.__name__} configuration of its base model, or use the diffusers folder."
        ) from error


class PipelinePrompts:
    """The text encoders of a pipeline as a `TextEncoder`.

    Args:
        pipeline: Of Flux, SD3, SDXL or SD1.5.
        base: Which of them: "flux", "sd3", "sdxl" or "sd15".
        max_sequence_length: Tokens of T5, where there is one; ComfyUI pads Flux to 256.
    """

    def __init__(self, pipeline: Any, base: str, max_sequence_length: int = 256) -> None:
        self.pipeline = pipeline
        self.base = base
        self.max_sequence_length = max_sequence_length

    def __call__(self, prompts: list[str]) -> Conditioning:
        """``context`` (B, T, C) and, but for SD1.5, ``pooled`` (B, C)."""
        encode, device = self.pipeline.encode_prompt, self.pipeline.text_encoder.device
        if self.base == "flux":
            context, pooled, _ = encode(
                prompts, prompt_2=None, device=device, max_sequence_length=self.max_sequence_length
            )
            return {"context": context, "pooled": pooled}
        if self.base == "sd3":
            context, _, pooled, _ = encode(
                prompts, None, None, device=device, do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )  # fmt: skip
            return {"context": context, "pooled": pooled}
        if self.base == "sdxl":
            context, _, pooled, _ = encode(prompts, device=device, do_classifier_free_guidance=False)
            return {"context": context, "pooled": pooled}
        return {"context": encode(prompts, device, 1, do_classifier_free_guidance=False)[0]}


def objective_of(scheduler_config: Mapping[str, Any]) -> Objective:
    """The objective that a scheduler's configuration stands for.

    A flow scheduler gives logit-normal timesteps under its shift; where the shift depends on the picture size
    (FLUX.1-dev), that of the largest training size, exp(max_shift) ≈ 3.2, is taken.

    Raises:
        InvalidOptions: If the model predicts something else than noise or velocity.
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
            f"The scheduler says that the model predicts {prediction!r}; {', '.join(kinds)} or a flow can be trained."
        )
    scheduler = diffusers_class("DDPMScheduler").from_config(config)
    return kinds[prediction](cast("torch.Tensor", scheduler.alphas_cumprod))
