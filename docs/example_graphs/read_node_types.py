"""Writes node_types.json from a running ComfyUI: python -m docs.example_graphs.read_node_types http://127.0.0.1:8188."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

USED = (
    *("CFGGuider", "CLIPLoader", "CLIPTextEncode", "ConditioningZeroOut", "DualCLIPLoader", "EmptyFlux2LatentImage"),
    *("EmptySD3LatentImage", "Flux2Scheduler", "FluxGuidance", "ImageStitch", "KSampler", "KSamplerSelect"),
    *("LoadImage", "LoraModelLoader", "LossGraphNode", "MaskComposite", "ModelSamplingAuraFlow"),
    *("PairConditioningCombine", "PairConditioningSetProperties", "PreviewAny", "PreviewImage", "RandomNoise"),
    *("SamplerCustomAdvanced", "SaveImage", "SolidMask", "UNETLoader", "VAEDecode", "VAELoader"),
)
# Left open: no file name is right on every machine, and the page shows a wrong one in red.
FILE_CHOICES = {
    *("unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "image", "prior_name", "identity_name"),
}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "METALORA_PHOTOS"}
NOTE: dict[str, Any] = {
    "title": "Note",
    "sockets": [],
    "widgets": [{"name": "text", "type": "STRING", "default": "", "multiline": True}],
    "outputs": [],
}


def main() -> None:
    """Read /object_info and keep what the examples need."""
    with urllib.request.urlopen(f"{sys.argv[1].rstrip('/')}/object_info", timeout=60) as answer:
        info = json.load(answer)
    names = sorted({*USED, *(name for name in info if name.startswith("MetaLoRA_"))})
    types = {"MarkdownNote": NOTE, **{name: node_type(info[name]) for name in names}}
    path = Path(__file__).parent / "node_types.json"
    path.write_text(json.dumps(types, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def node_type(info: dict[str, Any]) -> dict[str, Any]:
    """Sockets, widgets and outputs of one node of /object_info."""
    sockets: list[dict[str, Any]] = []
    widgets: list[dict[str, Any]] = []
    for need in ("required", "optional"):
        for name, spec in info["input"].get(need, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            listed = isinstance(spec[0], list)
            kind = "COMBO" if listed else spec[0]
            if kind not in WIDGET_TYPES or options.get("forceInput"):
                sockets.append({"name": name, "type": kind, **({"optional": True} if need == "optional" else {})})
                continue
            widgets.append({"name": name, "type": kind, **_widget(name, spec, options)})
    outputs = [{"name": n, "type": t} for n, t in zip(info["output_name"], info["output"], strict=True)]
    title = info.get("display_name") or info["name"]
    return {"title": title, "sockets": sockets, "widgets": widgets, "outputs": outputs}


def _widget(name: str, spec: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
    default = options.get("default", choices[0] if choices else "")
    widget: dict[str, Any] = {"default": "" if name in FILE_CHOICES else default}
    if options.get("multiline"):
        widget["multiline"] = True
    control = options.get("control_after_generate")
    if name in ("seed", "noise_seed") if control is None else control:
        widget["followed_by"] = ["fixed"]
    if options.get("image_upload"):
        widget["followed_by"] = ["image"]
    return widget


if __name__ == "__main__":
    main()
