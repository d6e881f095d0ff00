"""A learned identity in a host's model, for as long as a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from .files.identity import Identity, chain_factors
from .files.prior import Prior, targets_of_prior
from .inject import Coverage, Injection
from .model.base_weights import SAMPLE, report_other_weights
from .model.host import Host

__all__ = ["apply_identity"]


@contextmanager
def apply_identity(host: Host, identity: Identity, prior: Prior, strength: float = 1.0) -> Generator[Coverage]:
    """Add an identity's ΔW = strength · scale · up · mid · meta_down to every layer it was learned on.

    Nothing in the model is overwritten: the deltas are computed beside the layers and leave with the block, so the
    model's bits are the same before and after. Blocks nest, and each identity adds to the ones outside it.

    Args:
        host: The base model that the prior was made for.
        identity: mid and up of one subject.
        prior: The prior that the identity was learned with.
        strength: 0 is the base model, 1 the identity as learned.

    Yields:
        How many layers took their delta; all of them.

    Raises:
        IncompatibleBaseModel: If prior, identity and model do not belong together.
        RankMismatch: If a mid does not fit its meta_down.
    """
    targets = targets_of_prior(prior, host.targets())
    recorded, name = identity.metadata.metrics.get(SAMPLE), identity.metadata.name or identity.metadata.trigger
    report_other_weights(host.model, targets, identity.layers, recorded, f"identity {name!r}")
    with Injection(host.model, targets, chain_factors(identity, prior, strength, host.device)) as injection:
        injection.require_all()
        yield injection.coverage
