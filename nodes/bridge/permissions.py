"""What this ComfyUI knows of permissions: its folders, its signing key, and the user's rule for people."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...metalora_core.provenance.installation import Installation
from ...metalora_core.provenance.permission import Permissions, WithoutRecord
from .folders import IDENTITIES, roots_of

RULE = "MetaLoRA.PeopleWithoutConsent"
"""Id of the setting in ComfyUI's page; anything but "remind" requires a record."""


def permissions() -> Permissions:
    """The records beside the identities, signed with the key in ComfyUI's user folder."""
    import folder_paths

    user = Path(folder_paths.get_user_directory())
    return Permissions(roots_of(IDENTITIES), Installation(user / "metalora"), _rule(user))


def permissions_state() -> str:
    """For the fingerprints of nodes: ComfyUI runs them again when a record was revoked, changed or removed."""
    return permissions().state(datetime.now(timezone.utc))


def _rule(user: Path) -> WithoutRecord:
    # Read from the file, as the settings of the page are not handed to nodes.
    try:
        settings: Any = json.loads((user / "default" / "comfy.settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "require"
    return "remind" if isinstance(settings, dict) and settings.get(RULE) == "remind" else "require"
