"""The pack's own socket types, and what travels through them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comfy_api.latest import io

from ..metalora_core.files.identity import Identity, chain_factors
from ..metalora_core.files.prior import Prior
from ..metalora_core.layers import ChainFactors

PriorSocket = io.Custom("METALORA_PRIOR")
ReferencesSocket = io.Custom("METALORA_REFERENCES")
ConsentSocket = io.Custom("METALORA_CONSENT")
IdentitySocket = io.Custom("METALORA_IDENTITY")


@dataclass(frozen=True)
class LearnedIdentity:
    """An identity with the prior that it needs."""

    identity: Identity
    prior: Prior

    def factors(self) -> Mapping[str, ChainFactors]:
        return chain_factors(self.identity, self.prior)

    @property
    def name(self) -> str:
        return self.identity.metadata.name or self.identity.metadata.trigger
