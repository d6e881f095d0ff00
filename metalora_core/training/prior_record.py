"""The record of a prior, whether it was trained or read off LoRA files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from .. import __version__
from ..files.prior import PriorMetadata
from ..model.targets import Target, fingerprint
from .meta_options import MetaTrainingOptions

__all__ = ["prior_record"]


def prior_record(
    options: MetaTrainingOptions,
    family: str,
    targets: Sequence[Target],
    domain: str,
    training: Mapping[str, JsonValue],
) -> PriorMetadata:
    """What a prior's file says about it.

    Args:
        options: Ranks, scale, name, licence and class words.
        family: Of the base model.
        targets: Layers in the prior.
        domain: Kind of subject in words.
        training: What it was made from and how.
    """
    return PriorMetadata(
        name=options.name or domain,
        family=family,
        base_fingerprint=fingerprint(targets),
        domain=domain,
        class_words=list(options.class_words),
        r_meta=options.r_meta,
        r_mid=options.r_mid,
        scale=options.scale,
        license=options.license,
        created_with=f"metalora_core {__version__}",
        training=dict(training),
    )
