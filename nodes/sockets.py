"""The pack's own socket types."""

from __future__ import annotations

from comfy_api.latest import io

PriorSocket = io.Custom("METALORA_PRIOR")
ReferencesSocket = io.Custom("METALORA_REFERENCES")
ConsentSocket = io.Custom("METALORA_CONSENT")
IdentitySocket = io.Custom("METALORA_IDENTITY")
