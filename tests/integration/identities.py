"""Small identity files for tests of what lists them, written as the library writes them, without a training."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from metalora_core.files.identity import Identity, IdentityLayer, IdentityMetadata, save_identity
from metalora_core.photos.pictures import thumbnail_jpeg
from metalora_core.provenance.consent import record_consent
from metalora_core.provenance.consent_store import ConsentStore

LAYERS = {"layer": IdentityLayer(torch.ones(2, 4), torch.ones(8, 2))}
HOSTILE = "<img src=x onerror=window.hacked=1>"


def put_identity(folder: Path, name: str, *, picture: bool = False, **fields: Any) -> Path:
    """Write an identity of no model; the fields are those of its record."""
    told: dict[str, Any] = {"trigger": "ohwx", "class_word": "mug", "family": "flux", "name": name} | fields
    record = IdentityMetadata(prior_sha256="0" * 64, prior_name="mugs", base_fingerprint="0" * 64, **told)
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = thumbnail_jpeg(torch.full((3, 64, 64), 0.5)) if picture else b""
    save_identity(path, Identity(LAYERS, record), drawn)
    return path


def put_consent(folder: Path, subject: str, expires: datetime) -> str:
    """Write a record into the folder; returns its id."""
    record = record_consent(
        subject=subject,
        kind="product",
        granted_by="Sample Owner",
        basis="own work",
        purposes=["training", "generation"],
        valid_from=datetime(2020, 1, 1, tzinfo=timezone.utc),
        expires=expires,
        photo_scope="any",
    )
    ConsentStore(folder).save(record)
    return record.id
