"""The example workflows as the page sends them, with training and sampling cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).resolve().parent.parent / "example_prompts"
NAMES = sorted(path.stem for path in PROMPTS.glob("*.json") if not path.name.startswith("02"))
FOR_LARGE_MODELS = sorted(path.stem for path in PROMPTS.glob("02*.json"))
POCKET_OUTPUTS = {"UNETLoader": 0, "CLIPLoader": 1, "DualCLIPLoader": 1, "VAELoader": 2, "LoadImage": 4}
PERSON = "photo of a ohwx person, smiling, looking left, head level, light from front, blue background"
SHORT: dict[str, dict[str, Any]] = {
    "MetaLoRA_AdaptIdentity": {"steps": 3, "preview_every": 10000},
    "MetaLoRA_MetaTrainPrior": {"steps": 3, "subject_limit": 3, "subjects_per_batch": 2},
    "MetaLoRA_AdaptMany": {"steps": 2},
    "MetaLoRA_QuickPrior": {"steps": 2, "left_out": 1, "subjects_per_batch": 2},
    "MetaLoRA_LoadPocketModel": {"photo_count": 2, "held_out_count": 2},
    "KSampler": {"steps": 1},
    "EmptySD3LatentImage": {"batch_size": 1},
}
SMALL: dict[str, dict[str, Any]] = {
    "CLIPTextEncode": {"text": PERSON},
    "MetaLoRA_PrepareReferences": {"caption": ""},
    "MetaLoRA_RecordConsent": {"subject": "sample person", "granted_by": "sample person"},
    "EmptySD3LatentImage": {"width": 128, "height": 128},
    "EmptyFlux2LatentImage": {"width": 256, "height": 256},  # its latents are half as wide as the pocket model's
    "Flux2Scheduler": {"steps": 1, "width": 128, "height": 128},
}


def hurried(name: str) -> dict[str, Any]:
    """The prompt of an example that ends within seconds."""
    prompt = json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        node["inputs"] |= SHORT.get(node["class_type"], {})
    return prompt


def on_the_pocket_model(name: str) -> dict[str, Any]:
    """An example for a large model with the pocket model, its photos and its words in place of the large ones."""
    prompt = hurried(name)
    loaders = {key: node["class_type"] for key, node in prompt.items() if node["class_type"] in POCKET_OUTPUTS}
    for node in prompt.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
        if node["class_type"] == "MetaLoRA_AdaptIdentity":  # or a server would answer the second example from its cache
            node["inputs"]["seed"] = FOR_LARGE_MODELS.index(name)
        for slot, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in loaders:
                node["inputs"][slot] = ["pocket", POCKET_OUTPUTS[loaders[value[0]]]]
    pocket = {"domain": "avatars", "subject": 6, "photo_count": 1, "held_out_count": 2}
    kept = {key: node for key, node in prompt.items() if key not in loaders}
    return kept | {"pocket": {"class_type": "MetaLoRA_LoadPocketModel", "inputs": pocket}}
