"""Folders of photos as a benchmark's subjects, scored by embedders: R-FaceSim's rule on the user's own pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import InvalidOptions, UnusableReferences
from ...photos.reading import load_training_set, split_training_set
from ...photos.subject_folders import subject_folders
from ...photos.training_set import TrainingSet, is_one_sided
from ..conditions import CONDITIONS
from .embedders import Embedder
from .scores import PictureScores, copy_angle, likeness, pair_cosines
from .world import TRIGGER, LearnedSubject

if TYPE_CHECKING:
    from ...files.prior import Prior
    from ...model.host import Host
    from ..plan import BenchPlan

__all__ = ["PROMPTS", "FolderOptions", "PhotoFolders", "embedded_scores", "folder_digest", "folder_plan"]

PROMPTS = (
    "photo of {subject} on a beach at noon",
    "photo of {subject} in a snowy forest",
    "photo of {subject} on a city street at night",
    "photo of {subject} in a kitchen",
    "oil painting of {subject}",
    "photo of {subject} seen from the side, black background",
)
"""The prompts that are used unless others are given."""


@dataclass(frozen=True)
class FolderOptions:
    """A benchmark on the user's own model and photos.

    Args:
        folder: One folder of photos for each subject; they are taken in the order of their names.
        prior: Prior file made for the model.
        embedder: Folder of a vision model that scores identity similarity.
        prompt_embedder: Folder of a model that reads prompts (CLIP, SigLIP); the embedder itself if empty.
        model: Diffusers folder or single file.
        class_word: What the subjects are.
        held_out: Photos of each subject, the last ones, that nothing is learned from.
        prompts: With "{subject}" where the subject is named.
        size: Width and height in pixels; 0 for the model's usual.
        device: Of the model and the embedders.
        dtype: Of the model.
        pipeline_config: For a single file.
    """

    folder: Path
    prior: Path
    embedder: Path
    prompt_embedder: Path | None = None
    model: str = "pocket"
    class_word: str = "person"
    held_out: int = 2
    prompts: tuple[str, ...] = PROMPTS
    size: int = 0
    device: str = ""
    dtype: str = "float32"
    pipeline_config: str = ""

    def check(self) -> None:
        """Raise ``InvalidOptions`` with all findings at once."""
        findings = [f"the prompt {p!r} does not contain {{subject}}" for p in self.prompts if "{subject}" not in p]
        if len(self.prompts) < 2:
            findings.append(f"{len(self.prompts)} prompts given, at least 2 needed")
        if self.held_out < 1:
            findings.append(
                f"held_out is {self.held_out}; at least 1 photo that is not trained on is needed for scoring"
            )
        if findings:
            raise InvalidOptions("This benchmark cannot be run: " + "; ".join(findings) + ".")


@dataclass(frozen=True)
class PhotoFolders:
    """A `World` of photo folders."""

    host: Host
    priors: Mapping[str, Prior]
    options: FolderOptions
    size_px: int
    whose: Embedder
    what: Embedder

    def subjects(
        self, plan: BenchPlan, domain: str, numbers: Sequence[int], condition: str
    ) -> Sequence[LearnedSubject]:
        """Folders number so and so, by name."""
        folders = subject_folders(self.options.folder)
        return [self._subject(folders[number], domain, number, plan.most_photos, condition) for number in numbers]

    def _subject(self, folder: Path, domain: str, number: int, most: int, condition: str) -> LearnedSubject:
        options, changed = self.options, CONDITIONS[condition]
        everything = load_training_set([folder], options.class_word, TRIGGER, self.size_px)
        photos, kept = split_training_set(everything, options.held_out)
        if kept is None or len(photos.images) < most:
            raise UnusableReferences(
                f"{folder} contains {len(everything.images)} photos; {most} to learn from and {options.held_out} to "
                "hold out are needed."
            )
        order = [(i + changed.first_photo) % len(photos.images) for i in range(len(photos.images))][:most]
        spoiled = changed.spoil(torch.stack([photos.images[i] for i in order]), number)
        captions = tuple(photos.captions[i] for i in order)
        sided = is_one_sided(photos.class_word)
        learned = TrainingSet(tuple(spoiled), captions, photos.class_word, photos.trigger, one_sided=sided)
        asked = tuple(prompt.replace("{subject}", f"a {options.class_word}") for prompt in options.prompts)
        prompts = tuple(prompt.replace("{subject}", f"{TRIGGER} {options.class_word}") for prompt in options.prompts)
        truth = torch.stack(kept.images)
        score = partial(embedded_scores, learned.images, truth, asked, self.whose, self.what)
        return LearnedSubject(domain, number, learned, prompts, asked, "", truth, asked[:2], score)


@torch.no_grad()
def embedded_scores(
    references: Sequence[Tensor], held_out: Tensor, asked: Sequence[str], whose: Embedder, what: Embedder,
    pictures: Tensor, photos: int,
) -> PictureScores:  # fmt: skip
    """Scores of pictures without a known truth.

    Identity error and copying are means of `likeness`. Prompt error is one minus the probability that a picture was
    made under its own prompt and not under another one.

    Args:
        references: Photos, the first ``photos`` of which were learned from.
        held_out: Other photos of the subject, (P, 3, H, W).
        asked: Prompts in plain words.
        whose: Scores identity similarity.
        what: Scores prompt adherence.
        pictures: One a prompt, (prompts, 3, H, W).
        photos: How many were learned from.
    """
    learned, others, drawn = (whose.pictures(p) for p in (torch.stack(list(references[:photos])), held_out, pictures))
    found = likeness(drawn, others, learned)
    asked = list(asked)
    return PictureScores(
        identity_error=fmean(found.error),
        prompt_error=1 - float(what.likelihoods(pictures, asked).diagonal().mean()),
        copying=fmean(found.copying),
        diversity=(1 - float(pair_cosines(drawn).mean())) / max(1 - found.ceiling, 1e-6),
        identity_floor=1 - found.ceiling,
        prompt_floor=0.0,
        photo_prompt_error=1 - float(what.likelihoods(references[0][None], asked).mean()),
        copy_angle=copy_angle(drawn, others.expand(len(drawn), -1, -1), learned[0]),
    )


def folder_digest(options: FolderOptions) -> str:
    """SHA-256 over the photos and what decides the rows, so that rows of others are never mixed with these."""
    digest = hashlib.sha256(repr(options).encode() + options.prior.read_bytes())
    for subject in subject_folders(options.folder):
        for photo in sorted(path for path in subject.iterdir() if path.is_file()):
            digest.update(f"{subject.name}/{photo.name}".encode() + hashlib.sha256(photo.read_bytes()).digest())
    return digest.hexdigest()


def folder_plan(
    world: PhotoFolders, methods: tuple[str, ...], photos: tuple[int, ...], steps: tuple[int, ...]
) -> BenchPlan:
    """Every method with every number of photos, one subject after the other so that a large model fits.

    Raises:
        InvalidOptions: If a method needs what your own photos lack: a prior of another domain, or the pocket model.
    """
    from ..methods.registry import BASE, CORE, META_OUTSIDE
    from ..plan import BenchPlan, Group

    wrong = [name for name in methods if name in (CORE, META_OUTSIDE)]
    if wrong:
        raise InvalidOptions(f"{', '.join(wrong)} can only be compared on the pocket model; leave it out here.")
    return BenchPlan(
        (Group((BASE, *(name for name in methods if name != BASE)), photos, steps),),
        subjects=len(subject_folders(world.options.folder)),
        split="folder",
        domains=tuple(world.priors),
        prompts=len(world.options.prompts),
        at_once=1,
        models="".join(
            (folder_digest(world.options), *(part.weights_digest() for part in (world.host, world.whose, world.what)))
        ),
    )
