"""How good a picture is: identity similarity, prompt adherence, and what it copies from the reference photo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ...pocket.world.factors import Domain
from ...pocket.world.scenes import SCENE_GROUPS, draw_scenes, scene_truth

__all__ = [
    "COPIED_GROUPS",
    "Likeness",
    "PictureScores",
    "as_good",
    "combined_error",
    "copy_angle",
    "copying",
    "diversity",
    "likeness",
    "pair_cosines",
]

COPIED_GROUPS = ("pose", "light", "background")
"""Scene numbers that the copying score compares."""

LEAST_ERROR = 1e-3
"""Errors above the scorer's own count at least this much in a geometric mean: nothing is infinitely better."""

_INDISTINCT = 1.03

_SCENES_FOR_SPREAD = 2000
_DIVERSITY_SIDE = 16


@dataclass(frozen=True)
class PictureScores:
    """Scores of one subject's pictures; lower is better but for diversity.

    Args:
        identity_error: Against the subject, above the scorer's error on true photos of the same scenes.
        prompt_error: Against the prompt, above the scorer's error there.
        copying: Share of the reference's pose, light and background that came back; 0 none, 1 all.
        diversity: Spread of the pictures over that of true photos of the same scenes; 1 is as it should be.
        identity_floor: The scorer's own identity error on the true photos.
        prompt_floor: The scorer's own prompt error there.
        photo_prompt_error: Prompt error of the first reference photo, as if it came back for every prompt.
        copy_angle: See `copy_angle`.
    """

    identity_error: float
    prompt_error: float
    copying: float
    diversity: float
    identity_floor: float
    prompt_floor: float
    photo_prompt_error: float
    copy_angle: float


def as_good(error: float, lowest: float) -> bool:
    """Whether an error is within 3 % of the lowest, which is indistinguishable from it on so few subjects."""
    return error <= _INDISTINCT * lowest


def combined_error(identity_error: ArrayLike, prompt_error: ArrayLike) -> NDArray[np.float64]:
    """Geometric mean of both errors above the scorer's own, element by element.

    It punishes both copying the photo and ignoring it, but not equally: a model that follows the prompt and has learned
    nothing pays in one of the two factors only, so show the base model's own error beside it.
    """
    return np.sqrt(np.maximum(identity_error, LEAST_ERROR) * np.maximum(prompt_error, LEAST_ERROR))


@lru_cache(maxsize=4)
def _spread(domain: Domain) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of the copied groups, their mean over all scenes, and a width that makes every group count the same."""
    rows = torch.stack([scene_truth(scene, domain) for scene in draw_scenes(domain, _SCENES_FOR_SPREAD, 5)])
    columns, widths = list[int](), list[Tensor]()
    for group in COPIED_GROUPS:
        own = list(range(*SCENE_GROUPS[group].indices(rows.shape[1])))
        columns += own
        widths.append(rows[:, own].var(0).sum().sqrt().expand(len(own)))
    return torch.tensor(columns), rows[:, columns].mean(0), torch.cat(widths)


def copying(read: Tensor, asked: Tensor, references: Tensor, domain: Domain) -> float:
    """How much of the reference photo's scene comes back where the prompt asks for another.

    The read scene is explained by the asked and the reference scene, ``read ≈ α asked + β reference`` (least squares
    over all pictures and numbers, each from its mean over all scenes, pose, light and background counting the same);
    β is the copying. A picture as asked gives 0, the reference itself 1, an average picture 0. With several references
    each picture is compared with the one nearest to it.

    Args:
        read: Scene numbers read from the pictures, (P, 9 or 7).
        asked: What the prompts asked for, (P, 9 or 7).
        references: Scenes of the reference photos, (R, 9 or 7).
        domain: Whose scenes.
    """
    columns, mean, width = _spread(domain)
    seen, wanted, shown = ((rows[:, columns] - mean) / width for rows in (read, asked, references))
    nearest = shown[torch.cdist(seen, shown).argmin(1)]
    explaining = torch.stack([wanted.flatten(), nearest.flatten()], dim=1).double()
    return float(torch.linalg.lstsq(explaining, seen.flatten().double()[:, None], driver="gelsd").solution[1, 0])


def copy_angle(pictures: Tensor, truth: Tensor, photo: Tensor) -> float:
    """Which of two an embedding finds the pictures closer to: true photos of what was asked, or the photo learned from.

    ``(θ(picture, truth) − θ(picture, photo)) / θ(truth, photo)``, θ the angle between two vectors: −1 for a true photo
    of what was asked, 1 for the photo again, 0 as far from both.

    Args:
        pictures: Vectors of the pictures, (P, features).
        truth: Of the true photos that each is compared with, (P, any, features).
        photo: Of the first reference photo, (features,).
    """
    nearer = _angle(pictures[:, None], truth).mean() - _angle(pictures, photo).mean()
    return float(nearer / _angle(truth, photo).mean().clamp(min=1e-6))


def _angle(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=-1).clamp(-1, 1).arccos()


def diversity(pictures: Tensor, truth: Tensor) -> float:
    """Mean distance between pictures of one subject over that between true photos of the same scenes.

    Args:
        pictures: (P, 3, H, W), P at least 2.
        truth: (P, 3, H, W).
    """
    spreads = [torch.pdist(adaptive_avg_pool2d(p, _DIVERSITY_SIDE).flatten(1)).mean() for p in (pictures, truth)]
    return float(spreads[0] / spreads[1].clamp(min=1e-6))


@dataclass(frozen=True)
class Likeness:
    """Identity similarity of pictures where only photos of the subject are known, in cosines of an embedder.

    Attributes:
        error: One a picture: the ceiling minus its mean cosine to the held-out photos. 0 is as like as another photo.
        copying: One a picture, empty if nothing was learned from: how much nearer it is to the nearest learned photo
            than held-out photos are. 0 is no nearer, 1 is that photo again.
        ceiling: Mean cosine of the held-out photos to each other; to the learned ones where only one is held out.
    """

    error: tuple[float, ...]
    copying: tuple[float, ...]
    ceiling: float

    @property
    def similarity(self) -> tuple[float, ...]:
        """Mean cosine of every picture to the held-out photos."""
        return tuple(self.ceiling - error for error in self.error)


def likeness(drawn: Tensor, held_out: Tensor, learned: Tensor | None = None) -> Likeness:
    """Score pictures against held-out photos of their subject.

    Args:
        drawn: Vectors of the pictures, (pictures, features), of unit length as all of these.
        held_out: Of held-out photos, (photos, features).
        learned: Of the photos that were learned from.

    Source: R-FaceSim of Meta-LoRA, arXiv 2503.22352, section 4.
    """
    others = pair_cosines(held_out)
    if not len(others):
        others = torch.ones(1) if learned is None else (held_out @ learned.mT).flatten()
    ceiling = float(others.mean())
    copied: list[float] = []
    if learned is not None:
        apart = float((held_out @ learned.mT).amax(1).mean())
        copied = (((drawn @ learned.mT).amax(1) - apart) / max(1 - apart, 1e-3)).tolist()
    return Likeness(tuple((ceiling - (drawn @ held_out.mT).mean(1)).tolist()), tuple(copied), ceiling)


def pair_cosines(vectors: Tensor) -> Tensor:
    """Cosines of all different pairs of vectors of unit length, (vectors, features)."""
    rows, columns = torch.triu_indices(len(vectors), len(vectors), 1)
    return (vectors[rows] * vectors[columns]).sum(-1)
