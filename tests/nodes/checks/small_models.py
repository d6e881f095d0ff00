"""Small random models of three families, built by ComfyUI's own classes. Imported inside a ComfyUI process only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch

CPU = torch.device("cpu")

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 16,
    "context_in_dim": 24,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 128},
    },
    "qk_norm": "rms",
    "pos_embed_scaling_factor": None,
    "pos_embed_max_size": 16,
    "num_patches": 256,
}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,  # twice the groups of a group norm, else time embeddings are normalised away
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "num_heads": 2,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_linear_in_transformer": False,
    "legacy": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
}
SDXL = {
    **UNET,
    "num_heads": -1,
    "num_head_channels": 32,
    "transformer_depth": [0, 0, 1, 1],
    "num_res_blocks": [2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1],
    "context_dim": 48,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 40,
}
SIZES = {
    "flux": {"x": (16, 8, 8), "c_crossattn": (5, 24), "y": (16,)},
    "sd3": {"x": (16, 8, 8), "c_crossattn": (5, 4096), "y": (2048,)},
    "unet": {"x": (4, 8, 8), "c_crossattn": (7, 768)},
    "sdxl": {"x": (4, 8, 8), "c_crossattn": (7, 48), "y": (40,)},
}


def build(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A random model as ComfyUI's MODEL, made in inference mode as its loaders do."""
    kinds = {"flux": ("FluxSchnell", FLUX), "sd3": ("SD3", SD3), "unet": ("SD15", UNET), "sdxl": ("SDXL", SDXL)}
    name, settings = kinds[family]
    settings = {key: value for key, value in settings.items() if key != "txt_ids_dims" or _knows_txt_ids_dims()}
    with torch.inference_mode():
        config = getattr(comfy.supported_models, name)(dict(settings))
        config.set_inference_dtype(dtype, None)
        model = config.get_model({}, "")
        generator = torch.Generator().manual_seed(seed)
        for buffer in model.diffusion_model.buffers():
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
        for key, parameter in model.diffusion_model.named_parameters():
            scale = 0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if "norm" in key and key.endswith("weight") and parameter.dim() == 1:
                parameter.add_(1.0)
        return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def _knows_txt_ids_dims() -> bool:
    from comfy.ldm.flux.model import FluxParams

    return "txt_ids_dims" in FluxParams.__dataclass_fields__


def inputs(family: str, batch: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    """Random latents and conditioning for it."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in SIZES[family].items()}


def load_pack(root: Path) -> Any:
    """The pack as ComfyUI loads it: a package of its own, under a name that hides nothing."""
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location("metalora_pack", root / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["metalora_pack"] = module
    spec.loader.exec_module(module)
    return module
