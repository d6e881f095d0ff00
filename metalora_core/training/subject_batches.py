"""The batches of stage 1, from many subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..checks import seed_after
from ..errors import InvalidOptions
from ..model.host import Host
from ..model.objective import StratifiedTimesteps
from .batches import Batch, CaptionCache
from .meta_options import MetaTrainingOptions
from .ranks import Ranks
from .seeds import step_generator


class SubjectDataset(Protocol):
    """Many subjects of one domain with several captioned photos each."""

    @property
    def domain(self) -> str:
        """What the subjects are, e.g. "avatars"."""
        ...

    def __len__(self) -> int:
        """Subjects."""
        ...

    def latents_of(self, subject: int) -> Tensor:
        """A subject's photos as latents, (P, C, h, w); P may differ between subjects."""
        ...

    def captions_of(self, subject: int) -> list[str]:
        """One caption per photo."""
        ...


class SubjectBatches:
    """Chooses the batches of a meta-training; everything depends on seed, step and rank only.

    Args:
        host: Encodes each caption once; its timesteps are stratified over all passes of a role.
        subjects: The data set.
        options: Batch size, photos per subject, seed, caption dropout and the photos of an episode.
        ranks: The processes that train together; only this one's own subjects are drawn.

    Raises:
        InvalidOptions: If there are fewer subjects than a batch holds.
    """

    def __init__(
        self, host: Host, subjects: SubjectDataset, options: MetaTrainingOptions, ranks: Ranks | None = None
    ) -> None:
        self._ranks = ranks = ranks or Ranks()
        self._own, fewest = ranks.own(len(subjects)), len(subjects) // ranks.count
        if not 1 <= options.subjects_per_batch <= fewest:
            has = f"the data set has {len(subjects)}" + (f" for {ranks.count} ranks" if ranks.count > 1 else "")
            raise InvalidOptions(
                f"The batch size is {options.subjects_per_batch} subjects, but {has}. Lower subjects_per_batch or add "
                "subjects; at least one is needed."
            )
        self._subjects, self._size, self._photos = subjects, options.subjects_per_batch, options.photos_per_subject
        self._seed, self._dropout = options.seed, options.caption_dropout
        self._device, self._captions = host.device, CaptionCache(host, torch.device("cpu"))
        self.samples = self._size * self._photos
        """In a batch; as many of each subject, side by side."""
        self._timesteps = {
            "support": StratifiedTimesteps(host.objective, self.samples, seed_after(options.seed, 1)),
            "query": StratifiedTimesteps(host.objective, self.samples, options.seed),
        }
        self._order = (-1, torch.empty(0, dtype=torch.int64))
        """The latest epoch and its order of the subjects."""
        self._episodes, self._support_photos = options.inner_steps > 0, options.support_photos

    def encode_captions(self) -> None:
        """Encode all captions ahead, so that the text encoder and the model need not be in memory together."""
        subjects = self._subjects
        self._captions.prepare(text for subject in self._own for text in subjects.captions_of(subject))

    def subjects_at(self, step: int) -> list[int]:
        """Distinct subjects of a step; every epoch is a new permutation of the rank's own."""
        batches = len(self._own) // self._size
        epoch, place = divmod(step, batches)
        if self._order[0] != epoch:  # drawn once an epoch: among 100,000 subjects it takes as long as a small step
            generator = step_generator(self._seed, f"{self._ranks.name}epoch", epoch)
            self._order = epoch, torch.randperm(len(self._own), generator=generator)
        return [self._own[place] for place in self._order[1][place * self._size : (place + 1) * self._size].tolist()]

    def draw(self, subjects: Sequence[int], step: int, role: str, episode: int) -> Batch:
        """Samples of these subjects; all weights are 1.

        So each subject gets the gradient of an adaptation with batch 1; Adam ignores the factor.

        Args:
            subjects: From ``subjects_at``.
            step: Number of this pass among all passes of its role, which decides the timesteps.
            role: "support" or "query".
            episode: Step of the meta-training, which decides the photos that all support passes of it share.
        """
        generator = step_generator(self._seed, f"{self._ranks.name}{role}", step)
        latents: list[Tensor] = []
        captions: list[str] = []
        for subject in subjects:
            photos, texts = self._subjects.latents_of(subject), self._subjects.captions_of(subject)
            chosen = self._choose(self._photos_for(role, subject, len(texts), episode), generator)
            latents.append(photos[chosen])
            captions += [texts[i] for i in chosen]
        if self._dropout:
            kept = (torch.rand(len(captions), generator=generator) >= self._dropout).tolist()
            captions = [caption if keep else "" for caption, keep in zip(captions, kept, strict=True)]
        stacked = torch.cat(latents)
        noise = torch.randn(stacked.shape, generator=generator)
        weights = torch.ones(len(captions), device=self._device)
        # Those of all ranks together cover the range as those of a larger batch would.
        timesteps = self._timesteps[role].at(step * self._ranks.count + self._ranks.rank)
        return Batch(stacked, noise, timesteps, self._captions.encode(captions), weights)

    def _photos_for(self, role: str, subject: int, count: int, episode: int) -> list[int]:
        """A subject's photos that a pass of this role may show."""
        if not self._episodes or count == 1:
            return list(range(count))
        if not self._support_photos:
            return list(range(count // 2)) if role == "support" else list(range(count // 2, count))
        order = torch.randperm(count, generator=step_generator(self._seed, f"episode of subject {subject}", episode))
        cut = min(self._support_photos, count - 1)
        return (order[:cut] if role == "support" else order[cut:]).tolist()

    def _choose(self, photos: Sequence[int], generator: torch.Generator) -> list[int]:
        order = [photos[i] for i in torch.randperm(len(photos), generator=generator).tolist()]
        # A subject with fewer photos than requested shows some of them twice, at another noise level.
        return (order * -(-self._photos // len(order)))[: self._photos]
