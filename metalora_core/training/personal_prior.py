"""A prior made for one subject where nobody has meta-trained one: random directions instead of learned ones.

Every layer's meta_down gets orthonormal rows. It says nothing of the subject, so all of the learning is left to mid and
up, as in an ordinary LoRA, and takes an ordinary LoRA's number of steps. What is learned is folded at the end
(`files.identity.self_contained`), so the file is as small as that LoRA's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import JsonValue

from .. import __version__
from ..files.prior import Prior, PriorLayer, PriorMetadata
from ..model.families import default_patterns
from ..model.host import Host
from ..model.targets import Target, choose_targets, fingerprint
from .adaptation_options import AdaptationOptions
from .meta_options import MetaTrainingOptions
from .seeds import step_generator
from .step_preset import step_preset, without_prior

__all__ = ["NO_PRIOR_NOTE", "own_targets", "personal_prior", "random_down", "usual_options"]

NO_PRIOR_NOTE = "No prior was used; with one made for this model, fewer steps would do."
_NAME = "none"


def own_targets(host: Host, layers: Sequence[str] = ()) -> tuple[Target, ...]:
    """The layers that are trained without a prior.

    Args:
        host: The base model.
        layers: Names or patterns; empty for the family's attention and feed-forward layers.

    Raises:
        InvalidOptions: If no layer has such a name.
    """
    return choose_targets(host.targets(), layers or default_patterns(host.family))


def usual_options(
    host: Host, prior: Prior | None, photos: int, base: AdaptationOptions | None = None
) -> AdaptationOptions:
    """Settings for an adaptation of a model, with a prior or without.

    Args:
        host: The base model.
        prior: What will be adapted from; None for no prior.
        photos: Reference photos that are learned from.
        base: Every setting that the presets do not give; the defaults if None.

    Raises:
        UnreadableFile: If the preset file is damaged.
    """
    if prior is None:
        return without_prior(fingerprint(own_targets(host)), base)
    return step_preset(prior, photos, base)


def random_down(target: Target, rank: int, generator: torch.Generator) -> torch.Tensor:
    """A meta_down that knows nothing, (rank, in) or (rank, in, kh, kw): orthonormal rows, fewer if the inputs are."""
    inputs = math.prod(target.shape[1:])
    # In float64, so that rounding to float32 gives the same bits whatever the order of the sums.
    drawn = torch.randn(inputs, min(rank, inputs), generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].T.float().contiguous().view(-1, *target.shape[1:])


def personal_prior(host: Host, targets: Sequence[Target], options: AdaptationOptions, picture_px: int = 0) -> Prior:
    """Make a prior for one adaptation; the same model, options and seed always give the same one.

    Args:
        host: The base model; only its record is read.
        targets: Layers to train, see `own_targets`.
        options: ``r_mid``, 0 for 8, and ``seed``.
        picture_px: Side of the training pictures, for the record; 0 if they differ.

    Returns:
        A prior without a learned start, marked as personal: identities learned with it carry it in their own file.
    """
    usual, generator = MetaTrainingOptions(), step_generator(options.seed, "personal prior")
    layers: dict[str, PriorLayer] = {}
    for target in sorted(targets, key=lambda one: one.name):
        layers[target.name] = PriorLayer(random_down(target, usual.r_meta, generator))
    # No weights of the base model: what is attached to it comes and goes, and the identity records its own.
    training: dict[str, JsonValue] = {"picture_px": picture_px} if picture_px else {}
    record = PriorMetadata(
        name=_NAME,
        family=host.family,
        base_fingerprint=fingerprint(targets),
        domain="",
        r_meta=usual.r_meta,
        r_mid=options.r_mid or usual.r_mid,
        created_with=f"metalora_core {__version__}",
        training=training,
    )
    return Prior(layers, record, personal=True)
