"""The same on bases in fewer bits, each loaded by core's own loader or by the GGUF pack. In a ComfyUI process only."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from checks.support import folders
from families import columns, walk
from families.building import Family, build, config_of, families, tried
from families.columns import Case
from families.reference import cosine
from torch import Tensor

BASES = ("flux_dev", "flux2_klein", "z_image", "qwen_image", "sdxl", "wan21_t2v")
ALGORITHMS = {"fp8_scaled": "float8_e4m3fn", "nvfp4": "nvfp4", "mxfp8": "mxfp8", "int8": "int8_tensorwise"}
PLAIN = ("bfloat16", "float16", "fp8_cast", "fp8_scaled_before")
GGUF = ("gguf_q8_0", "gguf_q4_0", "gguf_q5_1")
ARCHITECTURES = {
    "flux_dev": "flux",
    "flux2_klein": "flux",
    "sdxl": "sdxl",
    "z_image": "lumina2",
    "qwen_image": "qwen_image",
}
EXACT, OF_INTEGERS = 0.999, 0.998
SMALLEST = 64


def rows(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each base and format that this ComfyUI loads; older ones have no table of formats."""
    try:
        from comfy.quant_ops import QUANT_ALGOS
    except ImportError:
        return
    own = [name for name, algorithm in ALGORITHMS.items() if algorithm in QUANT_ALGOS]
    theirs = GGUF if gguf_pack() is not None else ()
    for base in names or BASES:
        for form in (*PLAIN, *own, *(theirs if base in ARCHITECTURES else ())):
            if tried(families()[base]):
                yield _row(families()[base], form)


def _row(family: Family, form: str) -> dict[str, Any]:
    errors: dict[str, str] = {}
    row: dict[str, Any] = {"family": family.name, "format": form}
    model = walk.attempt(errors, "load", lambda: load(family, form))
    if model is not None:
        case = Case.of(family, model)
        row["gradient_cosine_min"] = walk.attempt(errors, "gradient_cosine_min", lambda: _gradient_cosine_min(case))
        for column in (columns.meta_train, columns.adapt, _kept_apart, columns.removal):
            row[column.__name__.strip("_")] = walk.attempt(errors, column.__name__, lambda c=column: c(case))
    comfy.model_management.unload_all_models()
    worst = row.get("gradient_cosine_min")
    enough = worst is not None and worst >= (OF_INTEGERS if form == "int8" else EXACT)
    flags = all(row.get(name) is True for name in ("meta_train", "adapt", "kept_apart", "removal"))
    return {**row, "yes": enough and flags, "errors": errors}


def _kept_apart(case: Case) -> bool:
    """Applied as the node chooses, an identity changes the latents in proportion to its strength."""
    case.sampled["base"] = base = columns.latents_of(case, case.model)
    factors = case.learned.factors()
    whole, half = (columns.latents_of(case, columns.applied(case, factors, share)) - base for share in (1.0, 0.5))
    return cosine(whole, half) > 0.5


def _gradient_cosine_min(case: Case) -> float:
    """Worst cosine to the same numbers in float32."""
    wide = Case.of(case.family, dequantised(case))
    latents, noise, levels, captions = case.drawn(2)
    objective = case.host.objective
    given = objective.make_noisy(latents, noise, levels), objective.target(latents, noise, levels), levels
    wide.targets = case.targets
    truth = columns.gradients(wide, *given, wide.drawn(2)[3])
    found = columns.gradients(case, *given, captions)
    return min(cosine(found[name], value) for name, value in truth.items() if bool(value.any()))


def load(family: Family, form: str) -> Any:
    """A tiny model written and read in a format, as MODEL."""
    if form in GGUF:
        with torch.inference_mode():
            return _through_gguf(family, form)
    state, metadata = _state(family, form)
    detect = comfy.model_detection.model_config_from_unet
    comfy.model_detection.model_config_from_unet = _tiny(family)
    try:
        with torch.inference_mode():
            return comfy.sd.load_diffusion_model_state_dict(state, metadata=metadata)
    finally:
        comfy.model_detection.model_config_from_unet = detect


def _tiny(family: Family) -> Any:
    """Core's detection, but for the sizes that it takes a family to have."""

    def config(state: Any, prefix: str, *_: Any, **__: Any) -> Any:
        made = config_of(family)
        found = comfy.utils.detect_layer_quantization(state, prefix)
        if found:
            made.quant_config = found
        return made

    return config


def _quantised(name: str, weight: Tensor) -> bool:
    """What published files quantise: the large matrices of the blocks."""
    inside = ("blocks." in name or "layers." in name) and name.endswith(".weight")
    return inside and weight.dim() == 2 and min(weight.shape) >= SMALLEST and "norm" not in name and "mod" not in name


def _state(family: Family, form: str) -> tuple[dict[str, Any], dict[str, str]]:
    whole = {name: value.detach().clone() for name, value in build(family).model.diffusion_model.state_dict().items()}
    dtype = torch.float16 if form == "float16" else torch.bfloat16
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in whole.items()}
    if form == "fp8_cast":
        state = {n: v.to(torch.float8_e4m3fn) if v.is_floating_point() and v.dim() > 1 else v for n, v in state.items()}
    if form == "fp8_scaled_before":
        for name in [name for name, value in state.items() if _quantised(name, value)]:
            scale = state[name].float().abs().max() / 448
            state[name.removesuffix("weight") + "scale_weight"] = scale
            state[name] = (state[name].float() / scale).to(torch.float8_e4m3fn)
        state["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return _packed(state, form) if form in ALGORITHMS else (state, {})


def _packed(state: dict[str, Any], form: str) -> tuple[dict[str, Any], dict[str, str]]:
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    algorithm, layers = ALGORITHMS[form], dict[str, Any]()
    for name in [name for name, value in state.items() if _quantised(name, value)]:
        layer = name.removesuffix(".weight")
        settings: dict[str, Any] = {"scale": "recalculate"} if form == "fp8_scaled" else {}
        made = QuantizedTensor.from_float(state[name], QUANT_ALGOS[algorithm]["comfy_tensor_layout"], **settings)
        numbers = made._params
        state[name] = made._qdata
        state[f"{layer}.weight_scale"] = numbers.block_scale if form == "nvfp4" else numbers.scale
        if form == "nvfp4":
            state[f"{layer}.weight_scale_2"] = numbers.scale
        layers[layer] = {"format": algorithm}
    return state, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def dequantised(case: Case) -> Any:
    """The numbers that a packed model computes with, in an ordinary float32 model."""
    model = build(case.family)
    own = dict(model.model.diffusion_model.named_parameters())
    with torch.inference_mode():
        for name, parameter in case.model.model.diffusion_model.named_parameters():
            packed: Any = parameter
            if hasattr(packed, "_qdata"):
                plain = packed.data.dequantize()
            elif hasattr(packed, "tensor_type"):
                plain = sys.modules["gguf_pack.dequant"].dequantize_tensor(packed, torch.float32)
            else:
                plain = packed.data
            if name in own:
                own[name].copy_(Tensor.as_subclass(plain, Tensor).float())
    return model


def gguf_pack() -> Any:
    """The GGUF pack, where GGUF_PACK names its folder; it is no part of this project."""
    folder = Path(os.environ.get("GGUF_PACK", ""))
    if not (folder / "nodes.py").is_file() or importlib.util.find_spec("gguf") is None:
        return None
    if "gguf_pack" not in sys.modules:
        spec: Any = importlib.util.spec_from_file_location(
            "gguf_pack", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules["gguf_pack"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["gguf_pack"])
    return sys.modules["gguf_pack"]


def _through_gguf(family: Family, form: str) -> Any:
    import folder_paths
    import gguf

    path = folders() / "models" / "diffusion_models" / f"{family.name}_{form}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = getattr(gguf.GGMLQuantizationType, form.removeprefix("gguf_").upper())
    writer: Any = gguf.GGUFWriter(str(path), ARCHITECTURES[family.name])
    for name, value in build(family).model.diffusion_model.state_dict().items():
        numbers = value.detach().float().numpy()
        if _quantised(name, value):
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    for folder in ("diffusion_models", "unet_gguf"):
        folder_paths.folder_names_and_paths[folder] = ([str(path.parent)], {".gguf"})
    detect = comfy.model_detection.model_config_from_unet
    comfy.model_detection.model_config_from_unet = _tiny(family)
    try:
        return gguf_pack().NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]().load_unet(path.name)[0]
    finally:
        comfy.model_detection.model_config_from_unet = detect
