"""Meta-train the shipped priors: the stage 1 that serves large models, on the pocket model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..load import NAME, load_autoencoder, load_pocket_host, prior_file
from ..world.factors import PRODUCT_KINDS, Domain
from .dataset import PhotoPlan, rendered_photos
from .latents_cache import PhotoSubjects, encoded_photos

if TYPE_CHECKING:
    from ...files.prior import Prior
    from ...training.meta_options import MetaTrainingOptions
    from ...training.progress import MetaTrainingProgress

_LOG = logging.getLogger(__name__)

# So few that each subject's factors are trained often enough to become an identity; with all of them they stay near the
# start.
_SUBJECTS = 600
# Photos that the domain check's statistics are made of: one of each of the first subjects.
_STATISTICS_PHOTOS = 600


def shipped_stages(domain: Domain, steps: int = 0) -> tuple[MetaTrainingOptions, ...]:
    """The settings that the shipped prior of a domain was trained with, stage by stage.

    First all per-subject and shared factors jointly, then episodes from one photo, which make few steps go further. The
    shipped priors went through both several times, as their records show.

    Args:
        domain: Which.
        steps: Of the first stage; 0 for 6,000, as it had the first time.
    """
    from ...training.meta_options import MetaTrainingOptions

    joint = MetaTrainingOptions(
        steps=steps or 6000,
        mid_learning_rate=5e-3,
        up_learning_rate=5e-3,
        subjects_per_batch=24,
        r_meta=64,
        r_mid=16,
        warm_start="learned",
        slot_decay=0.02,
        checkpoint_every=2000,
        name=f"pocket-{domain}",
        class_words=("person",) if domain == "avatars" else PRODUCT_KINDS,
        license="MIT",
    )
    episodes = replace(
        joint,
        steps=120,
        inner_steps=12,
        query_every=3,
        support_photos=1,
        meta_learning_rate=3e-4,
        common_learning_rate=5e-4,
        mid_learning_rate=3e-3,
        up_learning_rate=3e-3,
        slot_decay=0.0,
        read_every=10,
    )
    return joint, episodes


def make_prior(
    domain: Domain,
    folder: Path,
    stages: Sequence[MetaTrainingOptions],
    *,
    earlier: Prior | None = None,
    fast: bool = False,
) -> None:
    """Meta-train and write the prior of a domain.

    Args:
        domain: Which.
        folder: Where photos, latents and the checkpoints of a running training are kept.
        stages: Settings of stage 1, each starting from the prior of the one before.
        earlier: A prior to start from.
        fast: Compiled passes in bfloat16.
    """
    from ...files.checkpoint import forget_checkpoint
    from ...meta_training import meta_train

    plan = PhotoPlan(domain)
    subjects = PhotoSubjects(plan, encoded_photos(plan, folder, load_autoencoder()), _SUBJECTS)

    def tell(progress: MetaTrainingProgress) -> None:
        if progress.step % 100 == 0 or progress.steps < 1000:
            _LOG.info(f"step {progress.step} loss {progress.loss:.4f} {progress.seconds:.0f} s")

    host = load_pocket_host()
    checkpoints = [folder / f"prior-{domain}-{number}.checkpoint.safetensors" for number in range(len(stages))]
    for options, checkpoint in zip(stages, checkpoints, strict=True):
        with host.fast_training() if fast else nullcontext():
            earlier = meta_train(host, subjects, options, earlier=earlier, on_progress=tell, checkpoint=checkpoint)
    # Not before the last stage: an interrupted one is found by the prior that all of them started from.
    if earlier is not None:
        save_pocket_prior(earlier, domain, folder)
    for checkpoint in checkpoints:
        forget_checkpoint(checkpoint)


def save_pocket_prior(prior: Prior, domain: Domain, folder: Path) -> None:
    """Write a prior to its shipped place: in half precision, with the statistics of its training photos.

    Args:
        prior: From stage 1.
        domain: Whose.
        folder: Where the photos are kept.
    """
    import torch

    from ...files.prior import save_prior
    from ...photos.pictures import from_uint8
    from ...references.domain import picture_features

    def halved(value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.to(torch.float16)

    plan = PhotoPlan(domain)
    photos = rendered_photos(plan, folder)[: _STATISTICS_PHOTOS * plan.photos : plan.photos]
    layers = {
        name: replace(
            layer,
            meta_down=layer.meta_down.to(torch.float16),
            mid_init=halved(layer.mid_init),
            up_init=halved(layer.up_init),
        )
        for name, layer in prior.layers.items()
    }
    stored = replace(prior, layers=layers).described(picture_features(from_uint8(photos)), NAME)
    save_prior(prior_file(domain), stored)
