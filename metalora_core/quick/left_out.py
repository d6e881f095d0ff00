"""What a new prior is worth: subjects that it has not seen are learned with it, without one, and as a plain LoRA.

All three take the same number of steps. The score needs no reader: it is the denoising error on photos of the subject
that were not learned from, at fixed noise, compared with the base model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from PIL import Image

from ..evaluation.methods.cohort import draw_pictures, train_cohort
from ..evaluation.methods.registry import PLAIN, chain_of
from ..files.lora_files import FoundLoRAs, LoRAFile
from ..files.prior import Prior, targets_of_prior
from ..inject import Injection
from ..model.generation import Request, generate_pictures
from ..model.host import Host
from ..model.targets import Target
from ..photos.pictures import grid, to_pil
from ..photos.reading import caption_for, load_training_set
from ..photos.subject_folders import SubjectFolder
from ..photos.training_set import TrainingSet, chosen_flip
from ..training.adaptation_options import AdaptationOptions
from ..training.chain_trainer import SubjectChains
from ..training.lora_start import chains_of_lora
from ..training.personal_prior import personal_prior, usual_options
from ..training.photo_batches import HeldOut
from ..training.starts import ChainStart, start_of_prior

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LeftOutScores", "aside", "compare_on_left_out", "drawn_subject", "photos_aside"]

WITH, WITHOUT = "with this prior", "without a prior"
_TITLES = {WITH: WITH, WITHOUT: WITHOUT, PLAIN: "plain LoRA"}
_SHOWN_STEPS, _DRAWN_PHOTOS = 16, 4


@dataclass(frozen=True)
class LeftOutScores:
    """How left-out subjects were learned from one photo each.

    Args:
        subjects: How many.
        steps: Of every adaptation.
        gains: Share of the base model's error on the other photos that each way of learning takes away.
        picture: One row per subject: the photo, another one, and what each way draws for that one's caption.
    """

    subjects: int
    steps: int
    gains: Mapping[str, float]
    picture: Image.Image

    @property
    def text(self) -> str:
        """One line."""
        told = ", ".join(f"{-100 * gain:+.1f} % {_TITLES[way]}" for way, gain in self.gains.items())
        return (
            f"Left-out subjects ({self.subjects}, one photo each, {self.steps} steps), error on their other photos "
            f"against the base model's: {told}. Less is better."
        )


def compare_on_left_out(
    host: Host,
    prior: Prior,
    subjects: Sequence[TrainingSet],
    *,
    guidance: float = 1.0,
    seed: int = 0,
    on_subject: Callable[[int, int], None] | None = None,
) -> LeftOutScores:
    """Adapt subjects that a prior has not seen, with it, without one and as a plain LoRA.

    Args:
        host: The base model; it is left unchanged.
        prior: To be judged.
        subjects: Two or more photos each, all of one size; the first is learned from.
        guidance: Of the pictures.
        seed: Of everything.
        on_subject: Called with the adaptations done and all of them; it may raise.
    """
    preset, alone = usual_options(host, prior, 1), usual_options(host, None, 1)
    targets = targets_of_prior(prior, host.targets())
    own = personal_prior(host, targets, alone)
    ways = {
        WITH: (start_of_prior(prior, targets, preset), preset),
        WITHOUT: (start_of_prior(own, targets_of_prior(own, host.targets()), alone), alone),
        PLAIN: (chain_of(PLAIN, host, prior, seed), alone),
    }
    errors, base = dict.fromkeys(ways, 0.0), 0.0
    rows: list[list[Image.Image | str]] = [["learned from", "another photo", *_TITLES.values()]]
    for number, photos in enumerate(subjects):
        others = photos.part(1, len(photos.images))
        held_out = HeldOut(host, others, AdaptationOptions().validation_samples, seed)
        with host.training():
            base += held_out.loss()
        rows.append([to_pil(photos.images[0]), to_pil(others.images[0])])
        for place, (way, (start, options)) in enumerate(ways.items(), start=1):
            flip = chosen_flip("auto", options.flip, photos.class_word)
            options = replace(options, steps=preset.steps, seed=seed, flip=flip)
            flat = train_cohort(host, start, [photos.part(0, 1)], options, [preset.steps])[0].flats[0]
            errors[way] += _loss_with(host, start, flat, held_out)
            rows[-1].append(to_pil(_drawn(host, start, flat, others, guidance, seed)))
            if on_subject is not None:
                on_subject(number * len(ways) + place, len(subjects) * len(ways))
    gains = {way: 1 - error / base for way, error in errors.items()}
    return LeftOutScores(len(subjects), preset.steps, gains, grid(rows))


def _loss_with(host: Host, start: ChainStart, flat: Tensor, held_out: HeldOut) -> float:
    chains = SubjectChains(host, start)
    chains.point_at(*start.layout.unpack(flat.to(host.device, host.dtype)))
    with host.training(), chains.inject():
        return held_out.loss()


def _drawn(host: Host, start: ChainStart, flat: Tensor, photos: TrainingSet, guidance: float, seed: int) -> Tensor:
    side, prompts = photos.images[0].shape[-1], [[str(photos.captions[0])]]
    host.encode_prompts([*prompts[0], ""])  # a host that keeps them needs its text encoder no more
    with host.training():
        pictures = draw_pictures(
            host, start, flat[None], prompts, size_px=side, steps=_SHOWN_STEPS, guidance=guidance, seeds=[seed]
        )
    return pictures[0, 0]


def aside(
    folders: Sequence[SubjectFolder], loras: FoundLoRAs | None, wanted: int
) -> tuple[tuple[list[SubjectFolder], list[SubjectFolder]], tuple[FoundLoRAs | None, tuple[LoRAFile, ...]]]:
    """Keep some subjects aside, or LoRA files where there are no subjects: at most every tenth.

    Args:
        folders: Subjects; one with a single photo is never kept aside.
        loras: LoRA files, or None.
        wanted: Most to keep aside.

    Returns:
        Folders to learn from and folders kept aside; LoRA files to learn from and LoRA files kept aside.
    """
    able = [folder for folder in folders if len(folder.found.files) > 1]
    count = min(wanted, len(folders) // 10)
    others = able[len(able) - min(count, len(able)) :]
    left = [folder for folder in folders if folder not in others]
    if folders or loras is None:
        return (left, others), (loras, ())
    count = min(wanted, len(loras.files) // 10)
    cut = len(loras.files) - count
    return (left, others), (replace(loras, files=loras.files[:cut]), loras.files[cut:])


def photos_aside(
    host: Host,
    folders: Sequence[SubjectFolder],
    files: Sequence[LoRAFile],
    targets: Sequence[Target],
    class_word: str,
    size_px: int,
    guidance: float,
) -> list[TrainingSet]:
    """Photos of what was kept aside: those in the folders, and pictures drawn with the LoRA files.

    Args:
        host: The base model.
        folders: Subjects.
        files: LoRAs of subjects.
        targets: Layers that these were read for.
        class_word: What their subjects are.
        size_px: Width and height.
        guidance: Of the pictures.
    """
    read = [load_training_set(one.found.files, one.class_word, "", size_px) for one in folders]
    return read + [
        drawn_subject(host, file, targets, class_word, size_px=size_px, guidance=guidance, seed=number)
        for number, file in enumerate(files)
    ]


def drawn_subject(
    host: Host, file: LoRAFile, targets: Sequence[Target], class_word: str, *, size_px: int, guidance: float, seed: int
) -> TrainingSet:
    """Pictures that the model draws with a LoRA, as photos of a subject that no folder holds.

    Args:
        host: The base model; it is left unchanged.
        file: The LoRA.
        targets: Layers that it was read for.
        class_word: What its subject is.
        size_px: Width and height.
        guidance: Of the pictures.
        seed: Of their noise.
    """
    caption = caption_for(None, class_word, "")
    request = Request((caption,) * _DRAWN_PHOTOS, size_px, _SHOWN_STEPS, guidance, seed=seed)
    host.encode_prompts([caption, ""])
    with torch.no_grad(), host.training(), Injection(host.model, targets, chains_of_lora(host, file, targets)):
        pictures = generate_pictures(host, request).clamp(0, 1)
    return TrainingSet(tuple(pictures), (caption,) * len(pictures), class_word, "")
