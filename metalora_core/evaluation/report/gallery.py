"""Pictures of a few test subjects, learned by plain LoRA and by Meta-LoRA, each at its best point."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ...photos.pictures import grid, to_pil
from ...training.adaptation_options import AdaptationOptions
from ..conditions import CLEAN
from ..methods.cohort import draw_pictures, train_cohort
from ..methods.registry import META_WARM, PLAIN, chain_of, method_named

if TYPE_CHECKING:
    from ..plan import BenchPlan
    from ..subjects.world import LearnedSubject, World
    from .tables import BestPoint

__all__ = ["Strip", "draw_strips", "strip_png"]

SHOWN = (PLAIN, META_WARM)
_SAMPLING_STEPS = 20


@dataclass(frozen=True, eq=False)
class Strip:
    """One subject of the gallery.

    Args:
        domain: Of the subject.
        photo: The reference photo (3, H, W).
        asked: What each column asks for, in words.
        pictures: Row title to pictures (prompts, 3, H, W); the last row is the truth.
    """

    domain: str
    photo: Tensor
    asked: tuple[str, ...]
    pictures: Mapping[str, Tensor]


def draw_strips(bench: World, plan: BenchPlan, points: Sequence[BestPoint], subjects: int = 3) -> list[Strip]:
    """Learn the first subjects of every domain again, at the steps of the best points with one photo."""
    steps = {(p.method, p.domain): p.steps for p in points if p.photos == 1}
    first = plan.first_index
    strips: list[Strip] = []
    for domain in plan.domains:
        if any((method, domain) not in steps for method in SHOWN):
            continue
        chosen = bench.subjects(plan, domain, range(first, first + min(subjects, plan.subjects)), CLEAN.name)
        rows = {m: _pictures(bench, plan, domain, chosen, m, steps[m, domain]) for m in SHOWN}
        for i, one in enumerate(chosen):
            pictures = {f"{method_named(m).title}, {steps[m, domain]} steps": rows[m][i] for m in SHOWN}
            shown = {**pictures, "true photos": one.truth[: len(one.asked)]}
            strips.append(Strip(domain, one.photos.images[0], one.asked, shown))
    return strips


def _pictures(
    bench: World, plan: BenchPlan, domain: str, subjects: Sequence[LearnedSubject], name: str, steps: int
) -> Tensor:
    start = chain_of(name, bench.host, bench.priors[domain], plan.training_seed)
    rate = plan.rate_of(name, 1, domain)
    options = AdaptationOptions(
        steps=max(steps, 1), mid_learning_rate=rate, up_learning_rate=rate, final_rate=1.0, flip=plan.mirrored
    )
    seeds = [plan.training_seed + one.number for one in subjects]
    photos = [one.photos.part(0, 1) for one in subjects]
    flats = train_cohort(bench.host, start, photos, options, [steps], seeds)[0].flats
    prompts, size = [one.prompts for one in subjects], subjects[0].size_px
    return draw_pictures(
        bench.host, start, flats, prompts, size_px=size, steps=_SAMPLING_STEPS, guidance=plan.guidance, seeds=seeds
    )


def strip_png(strip: Strip) -> bytes:
    """The photo on the left, one row of pictures for each method, what was asked above."""
    rows: list[list[Image.Image | str]] = [["the one photo", "", *strip.asked]]
    for title, pictures in strip.pictures.items():
        photo = to_pil(strip.photo) if len(rows) == 1 else ""
        rows.append([photo, title, *map(to_pil, pictures)])
    buffer = io.BytesIO()
    grid(rows).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
