"""Prompts through a ComfyUI text encoder into the tensors that a diffusion model takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....metalora_core.errors import IncompatibleBaseModel
from ....metalora_core.model.host import Conditioning


def encode_prompt(clip: Any, prompt: str) -> list[Any]:
    """One prompt as ComfyUI's CONDITIONING, in either text encoder interface (0.3 and later)."""
    tokens = clip.tokenize(prompt)
    return clip.encode_from_tokens_scheduled(tokens)


def model_conds(base: Any, entry: list[Any], noise: Tensor, device: torch.device, guidance: float) -> dict[str, Any]:
    """What the model makes of one CONDITIONING entry: name to ComfyUI's COND object.

    Args:
        base: ComfyUI's BaseModel.
        entry: ``[cross_attn, options]``.
        noise: A latent of the trained size, (1, C, h, w); size-conditioned models read it.
        device: Where the tensors go.
        guidance: Guidance that distilled models are trained at, unless the entry names one.
    """
    cross_attn, options = entry
    parameters = {
        "guidance": guidance,
        **options,
        "cross_attn": cross_attn,
        "device": device,
        "noise": noise,
        "latent_image": noise,
        "prompt_type": "positive",
        "width": noise.shape[-1] * 8,
        "height": noise.shape[-2] * 8,
    }
    return base.extra_conds(**parameters)


def merge_conds(rows: list[dict[str, Any]], device: torch.device) -> tuple[Conditioning, dict[str, Any]]:
    """Join the conds of several prompts.

    Returns:
        Tensors with one row a prompt, and what is no tensor and the same for every prompt.

    Raises:
        IncompatibleBaseModel: If a model's non-tensor conditioning differs between prompts.
    """
    tensors: Conditioning = {}
    constants: dict[str, Any] = {}
    for name in rows[0]:
        conds = [row[name] for row in rows]
        merged = conds[0].concat(conds[1:]) if len(conds) > 1 else conds[0].cond
        if isinstance(merged, Tensor) and merged.shape[:1] == (len(rows),):
            tensors[name] = _ordinary(merged, device)
        elif all(cond.can_concat(conds[0]) for cond in conds):
            constants[name] = merged
        else:
            raise IncompatibleBaseModel(
                f"The connected model's conditioning {name!r} differs between captions and is no tensor, so captions "
                "cannot be trained in one batch. Use one caption for all photos."
            )
    return tensors, constants


def _ordinary(tensor: Tensor, device: torch.device) -> Tensor:
    # Encoded in inference mode; training has to own a tensor that autograd may save.
    with torch.inference_mode(False):
        return tensor.detach().clone().to(device)
