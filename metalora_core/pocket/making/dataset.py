"""The photos that the pocket models are trained on: rendered once, kept as a memory-mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ...files.atomic import atomic_write
from ...photos.pictures import to_uint8
from ..world.factors import SPLIT_BASE, Domain, Split, Subject, draw_subjects
from ..world.looks import looks
from ..world.render import PICTURE_SIZE, render
from ..world.scenes import Scene, draw_scenes


@dataclass(frozen=True)
class PhotoPlan:
    """Which photos a set holds: ``photos`` of each of ``subjects`` subjects of one split."""

    domain: Domain
    split: Split = "train"
    subjects: int = 2000
    photos: int = 6

    def drawn_subjects(self) -> list[Subject]:
        """The subjects, each once."""
        return draw_subjects(self.domain, self.split, self.subjects)

    def scenes(self) -> list[Scene]:
        """One scene a photo, subject by subject."""
        return draw_scenes(self.domain, self.subjects * self.photos, SPLIT_BASE[self.split] + 77)

    def captions(self, *, mirrored: bool = False) -> list[str]:
        """One caption a photo, or a photo's mirror image, subject by subject."""
        words = [subject.class_word for subject in self.drawn_subjects() for _ in range(self.photos)]
        scenes = [scene.mirrored() if mirrored else scene for scene in self.scenes()]
        return [scene.caption(self.domain, word) for scene, word in zip(scenes, words, strict=True)]

    def looks(self) -> list[list[str]]:
        """What each photo's subject looks like, in phrases; photo by photo."""
        return [looks(subject) for subject in self.drawn_subjects() for _ in range(self.photos)]

    @property
    def file_name(self) -> str:
        """Name of the memory-mapped file that holds the photos."""
        return f"{self.domain}-{self.split}-{self.subjects}x{self.photos}.npy"


def rendered_photos(plan: PhotoPlan, folder: Path) -> NDArray[np.uint8]:
    """All photos of a plan as uint8, shape (subjects · photos, 3, 128, 128); rendered if they are missing.

    Args:
        plan: Which photos.
        folder: Where the file is kept. An interrupted rendering resumes at the subject it had reached.
    """
    path = folder / plan.file_name
    progress = path.with_suffix(".done")
    shape = (plan.subjects * plan.photos, 3, PICTURE_SIZE, PICTURE_SIZE)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Left over from a file that was removed, it would pass the new file's empty photos off as rendered.
        progress.unlink(missing_ok=True)
        open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    done = int(progress.read_text()) if progress.exists() else 0
    if done < plan.subjects:
        photos = open_memmap(path, mode="r+")
        subjects, scenes = plan.drawn_subjects(), plan.scenes()
        for first in range(done, plan.subjects, 8):
            last = min(first + 8, plan.subjects)
            rows = slice(first * plan.photos, last * plan.photos)
            who = [subject for subject in subjects[first:last] for _ in range(plan.photos)]
            photos[rows] = to_uint8(render(who, scenes[rows])).numpy()
            atomic_write(progress, [str(last).encode()])
    return open_memmap(path, mode="r")
