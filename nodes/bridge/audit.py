"""The nodes' audit log: what was permitted, learned, saved and exported, in a file beside the identities."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from ...metalora_core.errors import MetaLoRAError
from ...metalora_core.files.identity import Identity, layers_sha256
from ...metalora_core.provenance.audit_entry import Detail
from .permissions import permissions


def note_down(event: str, **details: Detail) -> str:
    """Add an entry; a failure or a gap stops nothing.

    Returns:
        A warning for the node's text, which is in ComfyUI's log too; empty if all is well.
    """
    log = permissions().log
    try:
        log.append(event, details, datetime.now(timezone.utc))
        warning = f"The audit log has a gap; its entry {log.gap.number} describes it." if log.gap else ""
    except MetaLoRAError as error:
        warning = f"{event!r} could not be added to the audit log. {error}"
    if warning:
        logging.warning("Meta-LoRA: %s", warning)
    return warning


def note_identity(event: str, identity: Identity, place: str) -> str:
    """Add an entry about an identity: subject, number of photos, permission, and where it went; as `note_down`."""
    own = identity.metadata
    return note_down(
        event,
        file=place,
        subject=f"{own.trigger} {own.class_word}".strip(),
        photos=len(own.photo_hashes),
        steps=own.steps,
        prior=own.prior_sha256,
        consent=own.consent_id,
        layers=layers_sha256(identity),
    )
