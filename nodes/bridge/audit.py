"""The nodes' audit log: what was permitted, learned, saved and exported, in a file beside the identities."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from ...metalora_core.errors import MetaLoRAError
from ...metalora_core.files.identity import Identity
from ...metalora_core.provenance.audit_entry import Detail
from ...metalora_core.provenance.effort import Effort
from ...metalora_core.provenance.permission import identity_details
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


def note_identity(event: str, identity: Identity, place: str, effort: Effort | None = None) -> str:
    """Add an entry about an identity, and what learning it took; as `note_down`."""
    return note_down(event, **identity_details(identity, place), **(effort or {}))
