"""The nodes' audit log: what was permitted, learned, saved and exported, in a file beside the identities."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from ...metalora_core.errors import MetaLoRAError
from ...metalora_core.files.identity import Identity
from ...metalora_core.provenance.audit_log import AuditLog, Detail
from .folders import IDENTITIES, roots_of

AUDIT_LOG = "audit.jsonl"


def note_down(event: str, **details: Detail) -> None:
    """Add an entry; a failure to write goes to ComfyUI's log and stops nothing."""
    log = AuditLog(roots_of(IDENTITIES)[0] / AUDIT_LOG)
    try:
        log.append(event, details, datetime.now(timezone.utc))
    except MetaLoRAError as error:
        logging.warning("Meta-LoRA: %r could not be added to the audit log. %s", event, error)


def note_identity(event: str, identity: Identity, place: str) -> None:
    """Add an entry about an identity: subject, number of photos, permission, and where it went."""
    own = identity.metadata
    note_down(
        event,
        file=place,
        subject=f"{own.trigger} {own.class_word}".strip(),
        photos=len(own.photo_hashes),
        steps=own.steps,
        prior=own.prior_sha256,
        consent=own.consent_id,
    )
