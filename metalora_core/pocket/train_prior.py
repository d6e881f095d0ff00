"""Meta-train the shipped priors: the stage 1 that serves large models, on the pocket model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .dataset import PhotoPlan, rendered_photos, to_pictures
from .factors import PRODUCT_KINDS, Domain
from .latents_cache import PhotoSubjects, encoded_photos
from .load import load_autoencoder, load_pocket_host, prior_file

if TYPE_CHECKING:
    from ..files.prior import Prior
    from ..meta_training import MetaTrainingOptions, MetaTrainingProgress

# So few that each one's slot is visited often enough to become an identity; with all 1,000 it stays near the start.
_SUBJECTS = 240
# Photos that the domain check's statistics are made of: one of each of the first subjects.
_STATISTICS_PHOTOS = 600


def shipped_options(domain: Domain, steps: int = 0) -> MetaTrainingOptions:
    """The settings that the shipped prior of a domain was trained with; ``steps`` 0 leaves them all."""
    from ..meta_training import MetaTrainingOptions

    options = MetaTrainingOptions(
        steps=1500,
        mid_learning_rate=5e-3,
        up_learning_rate=5e-3,
        subjects_per_batch=24,
        r_meta=64,
        r_mid=8,
        warm_start="learned",
        slot_decay=0.02,
        name=f"pocket-{domain}",
        class_words=("person",) if domain == "avatars" else PRODUCT_KINDS,
        license="MIT",
    )
    return replace(options, steps=steps or options.steps)


def make_prior(
    domain: Domain,
    folder: Path,
    options: MetaTrainingOptions,
    report: Callable[[str], None] = print,
    *,
    earlier: Prior | None = None,
    fast: bool = False,
) -> None:
    """Meta-train and write the prior of a domain, with the statistics of its training photos.

    Args:
        domain: Which.
        folder: Where photos, latents and the checkpoint of a running training are kept.
        options: Settings of stage 1.
        report: Gets a line of text now and then.
        earlier: A prior to go on from.
        fast: Compiled passes in bfloat16.
    """
    import torch

    from ..files.prior import save_prior
    from ..meta_training import meta_train
    from ..references.domain import EXTRACTOR, feature_statistics

    plan = PhotoPlan(domain)
    subjects = PhotoSubjects(plan, encoded_photos(plan, folder, load_autoencoder()), _SUBJECTS)

    def tell(progress: MetaTrainingProgress) -> None:
        if progress.step % 100 == 0:
            report(f"step {progress.step} loss {progress.loss:.4f} {progress.seconds:.0f} s")

    checkpoint = folder / f"prior-{domain}.checkpoint.safetensors"
    host = load_pocket_host()
    with host.fast_training() if fast else nullcontext():
        prior = meta_train(host, subjects, options, earlier=earlier, on_progress=tell, checkpoint=checkpoint)
    photos = rendered_photos(plan, folder)[: _STATISTICS_PHOTOS * plan.photos : plan.photos]
    statistics = feature_statistics(to_pictures(photos))
    metadata = prior.metadata.model_copy(update={"feature_extractor": EXTRACTOR, "base_name": "Pocket Flux"})
    layers = {
        name: replace(
            layer,
            meta_down=layer.meta_down.to(torch.float16),
            mid_init=None if layer.mid_init is None else layer.mid_init.to(torch.float16),
            up_init=None if layer.up_init is None else layer.up_init.to(torch.float16),
        )
        for name, layer in prior.layers.items()
    }
    save_prior(prior_file(domain), replace(prior, layers=layers, metadata=metadata, features=statistics))
    # A finished checkpoint would be taken for the next training, also on another base model.
    checkpoint.unlink(missing_ok=True)
