"""Candidate checkpoint keys of a UNet, for the numbered probe of `target_map`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import IncompatibleBaseModel

_RESNET = ("in_layers.0", "in_layers.2", "out_layers.0", "out_layers.3", "emb_layers.1", "skip_connection")


def unet_keys(model: nn.Module) -> list[str]:
    """Original keys that a UNet of this configuration may have; more than it has, never fewer.

    The skeleton (``input_blocks.<i>.<j>``, ``middle_block.<j>``, ``output_blocks.<i>.<j>``) follows from the number of
    levels and layers; the names inside an attention block are the same in both worlds and are read from the model.
    Keys that the model lacks come out of the converter under names that the model lacks too, and are dropped there.

    Raises:
        IncompatibleBaseModel: If levels have different numbers of layers, which the original form cannot express.
    """
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    config: Any = getattr(model, "config", None)
    layers = config.layers_per_block
    if not isinstance(layers, int):
        raise IncompatibleBaseModel(
            f"The UNet has {layers} layers per block; one number for all levels is needed, as in SD1.5 and SDXL."
        )
    stems: set[str] = {str(name).rpartition(".")[0] for name in _values(DIFFUSERS_TO_LDM_MAPPING["unet"])}
    attention = _attention_stems(model)
    per_level = layers + 1
    for i in range(len(config.down_block_types) * per_level):
        stems |= {f"input_blocks.{i}.0.{stem}" for stem in (*_RESNET, "op")}
        stems |= {f"input_blocks.{i}.1.{stem}" for stem in attention}
        stems |= {f"output_blocks.{i}.0.{stem}" for stem in _RESNET}
        if "CrossAttn" in config.up_block_types[i // per_level]:
            stems |= {f"output_blocks.{i}.1.{stem}" for stem in attention} | {f"output_blocks.{i}.2.conv"}
        else:
            stems.add(f"output_blocks.{i}.1.conv")
    stems |= {f"middle_block.{j}.{stem}" for j in (0, 2) for stem in _RESNET}
    stems |= {f"middle_block.1.{stem}" for stem in attention}
    return [f"{stem}.{kind}" for stem in sorted(stems) for kind in ("weight", "bias")]


def _values(mapping: Any) -> list[str]:
    return [name for group in mapping.values() for name in group.values()]


def _attention_stems(model: nn.Module) -> set[str]:
    # "down_blocks.0.attentions.1.proj_in" → "proj_in"
    paths = (path.partition(".attentions.")[2].partition(".")[2] for path, _ in model.named_modules())
    return {path for path in paths if path}
