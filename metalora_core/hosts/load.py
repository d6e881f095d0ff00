"""Load a diffusers model from this machine as a host; nothing is downloaded, nothing unpickled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..errors import InvalidOptions, UnreadableFile
from ..model.objective import Objective
from .architecture import architecture_of, base_of, family_of
from .block_store import BlockPlace, move_to
from .diffusers import DiffusersHost, TextEncoder
from .latents import LatentSpace, load_latent_space
from .pipeline_calls import PipelineCalls
from .pipelines import denoiser_of, holds_text_encoders, load_pipeline, load_whole_checkpoint, objective_of, read_index
from .single_file import load_denoiser, load_denoiser_folder

__all__ = ["host_of_pipeline", "load_diffusers_host"]


def host_of_pipeline(pipeline: Any, *, guidance: float = 3.5) -> DiffusersHost:
    """A host from a diffusers pipeline that is already in memory; pipeline and host share their weights.

    Args:
        pipeline: With a denoiser of one of the families, ``vae``, ``scheduler`` and ``encode_prompt``; it stays where
            it is, in the dtype that it has.
        guidance: See `DiffusersHost`.

    Raises:
        IncompatibleBaseModel: If the architecture is not one of the families.
        InvalidOptions: If the scheduler's prediction type cannot be trained.
    """
    model = denoiser_of(pipeline)
    code = architecture_of(family_of(model))
    if code is not None:
        prompts = partial(code.encode, pipeline)
        objective = objective_of(pipeline.scheduler.config)
        return DiffusersHost(model, LatentSpace.of(pipeline.vae), prompts, objective, guidance=guidance)
    calls = PipelineCalls(pipeline, family_of(model).component, guidance)
    objective = objective_of(pipeline.scheduler.config)
    return DiffusersHost(model, calls.space, calls.encode, objective, guidance=guidance, calls=calls)


def load_diffusers_host(
    path: Path | str,
    *,
    autoencoder: Path | str | nn.Module | LatentSpace | None = None,
    text_encoder: TextEncoder | None = None,
    objective: Objective | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    pipeline_config: Path | str | None = None,
    guidance: float = 3.5,
    gradient_checkpointing: bool = False,
    compiled: bool = False,
    blocks: BlockPlace | None = None,
) -> DiffusersHost:
    """Load a host from this machine; nothing is downloaded, nothing unpickled.

    Args:
        path: A pipeline folder (model_index.json), a denoiser's folder (config.json), a whole checkpoint in one
            .safetensors file, or a denoiser alone in one such file under ComfyUI's names.
        autoencoder: Path or object; needed with a denoiser alone, else it replaces the pipeline's.
        text_encoder: Likewise.
        objective: None takes it from the pipeline's scheduler.
        device: Where denoiser and autoencoder go.
        dtype: Of the denoiser and text encoders; the autoencoder stays in float32, which some need.
        pipeline_config: For a whole checkpoint, see `load_whole_checkpoint`; for a denoiser alone, a pipeline folder
            with everything else; the denoiser in it is not read.
        guidance: See `DiffusersHost`.
        gradient_checkpointing: See `DiffusersHost`.
        compiled: See `DiffusersHost`.
        blocks: Where the denoiser's blocks are kept; blocks in main memory are recomputed in a training.

    Raises:
        UnreadableFile: If there is nothing usable at the path.
        IncompatibleBaseModel: If the architecture is not one of the families.
        InvalidOptions: If a whole checkpoint lacks its pipeline configuration, or blocks cannot be kept as asked.
    """
    path = Path(path)
    device = torch.device(device)
    blocks = blocks or BlockPlace()
    pipeline = _find_pipeline(path, dtype, Path(pipeline_config) if pipeline_config else None)
    calls = None
    if pipeline is not None:
        model = denoiser_of(pipeline)
        family, code = family_of(model), architecture_of(family_of(model))
        calls = None if code else PipelineCalls(pipeline, family.component, guidance)
        autoencoder = autoencoder or (calls.space if calls else pipeline.vae.float())
        text_encoder = text_encoder or (calls.encode if calls else partial(cast(Any, code).encode, pipeline))
        objective = objective or objective_of(pipeline.scheduler.config)
        if calls and compiled:
            raise InvalidOptions(f"Passes of {base_of(model).title} cannot be compiled; remove --compile.")
    else:
        model = load_denoiser_folder(path) if path.is_dir() else load_denoiser(path)
    if isinstance(autoencoder, (str, Path)):
        autoencoder = load_latent_space(autoencoder, base_of(model))
    space = LatentSpace.of(autoencoder) if isinstance(autoencoder, nn.Module) else autoencoder
    if space is not None:
        space.autoencoder.to(device).eval()
    blocks.check(device, family_of(model))
    move_to(model.to(dtype).eval(), device, leave_blocks=blocks.in_main_memory)
    host = DiffusersHost(
        model, space, text_encoder, objective, guidance=guidance, compiled=compiled,
        gradient_checkpointing=gradient_checkpointing or blocks.in_main_memory, calls=calls,
    )  # fmt: skip
    host.keep_blocks(blocks)
    return host


def _find_pipeline(path: Path, dtype: torch.dtype, pipeline_config: Path | None) -> Any:
    if (path / "model_index.json").is_file():
        return load_pipeline(path, dtype)
    if path.is_dir():
        return None
    if path.suffix != ".safetensors":
        raise UnreadableFile(
            f"{path} is neither a folder nor a .safetensors file; other formats are not opened. Convert it to "
            "safetensors."
        )
    if holds_text_encoders(path):
        return load_whole_checkpoint(path, dtype, pipeline_config)
    if pipeline_config is None:
        return None
    _, family = read_index(pipeline_config)
    model = load_denoiser(path, family, pipeline_config / family.component).to(dtype)
    return load_pipeline(pipeline_config, dtype, **{family.component: model})
