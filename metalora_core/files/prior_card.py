"""A prior's model card, in the form that the Hugging Face Hub reads: facts from its record, nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..checks import optional, visible
from .prior import Prior

__all__ = ["prior_card"]

_TAGS = ("meta-lora", "comfyui", "few-shot", "lora")
_TRAINING = {
    "subjects": "Subjects",
    "loras": "LoRA files",
    "steps": "Steps",
    "picture_px": "Picture size, px",
}


def prior_card(prior: Prior, file_name: str, repo: str, base_model: str = "") -> str:
    """README.md of a repository that holds a prior.

    Args:
        prior: Whose record is told.
        file_name: Of the prior in the repository.
        repo: "owner/name".
        base_model: The base model's own repository; empty if it is not known.

    Raises:
        MissingDependency: If huggingface_hub is not installed.
    """
    data = optional("huggingface_hub", "A model card", "ModelCardData")(
        **_licence(prior.metadata.license),
        base_model=base_model or None,
        tags=list(_TAGS),
        pipeline_tag="text-to-image",
    )
    told = "\n".join(f"| {name} | {_cell(value)} |" for name, value in _facts(prior, base_model).items())
    return f"""---
{data.to_yaml()}
---

# {_cell(prior.metadata.name)}

A prior for Meta-LoRA ([arXiv 2503.22352](https://arxiv.org/abs/2503.22352)) in ComfyUI. With it a new subject of this
kind is learned from one to eight photos in few steps. It draws nobody by itself.

| | |
|---|---|
{told}

```
python -m metalora_core prior pull {_cell(repo)} --to ComfyUI/models/metalora
```

or put `{_cell(file_name)}` into ComfyUI's `models/metalora` and choose it in *Load Prior*.
"""


def _licence(text: str) -> dict[str, str]:
    """The Hub knows licences by their short names in small letters; any other sentence has a field of its own."""
    short = text.strip().lower()
    return {"license": short} if re.fullmatch(r"[a-z0-9.+-]+", short) else {"license": "other", "license_name": text}


def _facts(prior: Prior, base_model: str) -> Mapping[str, object]:
    record = prior.metadata
    facts: dict[str, object] = {
        "Base model": base_model or record.base_name or f"a {record.family} model",
        "Family": record.family,
        "Kind of subject": record.domain,
        "Words": ", ".join(record.class_words),
        "Layers": len(prior.layers),
        "Ranks": f"r_meta {record.r_meta}, r_mid {record.r_mid}",
    }
    facts |= {name: record.training.get(key) for key, name in _TRAINING.items()}
    facts |= {"Licence": record.license, "Made with": record.created_with, "SHA-256": prior.sha256}
    return {name: value for name, value in facts.items() if value not in (None, "", 0)}


def _cell(value: object) -> str:
    """Text of a file's record as text: no line breaks, no table cells, no markup."""
    text = visible(str(value)).replace("\n", " ")
    return "".join(f"\\{mark}" if mark in "\\|<>[]`*_#" else mark for mark in text)
