"""What passes through the identity socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ...metalora_core.chain import ChainFactors
from ...metalora_core.files.identity import Identity, chain_factors, layers_sha256
from ...metalora_core.files.prior import Prior
from ...metalora_core.photos.captions import subject_words


@dataclass(frozen=True)
class LearnedIdentity:
    """An identity with the prior that it needs, and a JPEG that shows it, if a training drew one."""

    identity: Identity
    prior: Prior
    thumbnail: bytes = b""

    def factors(self) -> Mapping[str, ChainFactors]:
        """Chain per target in float32; files may contain 16-bit numbers, and only factors of equal precision
        multiply."""
        chains = chain_factors(self.identity, self.prior)
        return {
            name: replace(chain, meta_down=chain.meta_down.float(), mid=chain.mid.float(), up=chain.up.float())
            for name, chain in chains.items()
        }

    @cached_property
    def layers_sha256(self) -> str:
        """What it is known by, whatever its file says."""
        return layers_sha256(self.identity)

    @property
    def words(self) -> str:
        """Trigger and class word, as they stand in a prompt."""
        record = self.identity.metadata
        return subject_words(record.trigger, record.class_word)

    @property
    def title(self) -> str:
        """The identity's name in messages."""
        return f"The identity {self.identity.metadata.name or self.words!r}"
