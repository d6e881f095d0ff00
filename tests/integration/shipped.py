"""The example workflows as the page sends them, with training and sampling cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).resolve().parent.parent / "example_prompts"
# 02 needs FLUX.1-dev.
NAMES = sorted(path.stem for path in PROMPTS.glob("*.json") if not path.name.startswith("02"))
SHORT: dict[str, dict[str, Any]] = {
    "MetaLoRA_AdaptIdentity": {"steps": 3, "preview_every": 10000},
    "MetaLoRA_MetaTrainPrior": {"steps": 3, "subject_limit": 3, "subjects_per_batch": 2},
    "MetaLoRA_LoadPocketModel": {"photo_count": 2, "held_out_count": 2},
    "KSampler": {"steps": 1},
    "EmptySD3LatentImage": {"batch_size": 1},
}


def hurried(name: str) -> dict[str, Any]:
    """The prompt of an example that ends within seconds."""
    prompt = json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        node["inputs"] |= SHORT.get(node["class_type"], {})
    return prompt
