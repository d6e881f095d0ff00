"""What an adaptation trains on: latents and captions encoded once, samples chosen by the step's number."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.host import Conditioning, Host
from ..model.objective import StratifiedTimesteps
from ..model.sampling import sample
from ..photos.training_set import TrainingSet, with_mirrored
from .adaptation_options import AdaptationOptions
from .batches import Batch, CaptionCache, denoising_losses
from .seeds import step_generator

__all__ = ["HeldOut", "PhotoBatches"]


class PhotoBatches:
    """Chooses the samples of each step; everything depends on seed and step only.

    Args:
        host: Encodes photos and captions, once, here.
        training_set: The photos.
        options: Batch size, augmentation, prior preservation, seed.
    """

    def __init__(self, host: Host, training_set: TrainingSet, options: AdaptationOptions) -> None:
        self._host, self._options = host, options
        self._samples = _encode_photos(host, with_mirrored(training_set) if options.flip else training_set)
        self._preview_prompt = options.preview_prompt or self._samples[0][1]
        self._captions = CaptionCache(host)
        self._captions.prepare([*(caption for _, caption in self._samples), self._preview_prompt])
        self._timesteps = StratifiedTimesteps(host.objective, options.batch_size, options.seed)
        self._class_samples = list[tuple[Tensor, str]]()
        if options.preservation_weight:
            self._class_samples = self._make_class_pictures(training_set.class_word)

    @property
    def samples(self) -> int:
        """In a batch."""
        return self._options.batch_size + bool(self._class_samples)

    @property
    def first_latent(self) -> Tensor:
        """Latent of the first photo, (1, C, h, w)."""
        return self._samples[0][0]

    def preview_conditioning(self) -> Conditioning:
        """What a preview shows: the requested prompt, or the first photo's caption."""
        return self._captions.encode([self._preview_prompt])

    def draw(self, step: int) -> Batch:
        """The samples of a step; the weights of its photos sum to 1."""
        options, generator = self._options, step_generator(self._options.seed, "adaptation", step)
        chosen = [self._photo_at(step * options.batch_size + i) for i in range(options.batch_size)]
        t, weights = self._timesteps.at(step), torch.full((len(chosen),), 1 / len(chosen))
        latents = [self._crop(latent, generator) for latent, _ in chosen]
        if self._class_samples:
            chosen.append(self._class_samples[step % len(self._class_samples)])
            latents.append(self._crop(chosen[-1][0], generator))
            t = torch.cat([t, self._host.objective.sample_timesteps(1, generator, torch.device("cpu"))])
            weights = torch.cat([weights, torch.tensor([options.preservation_weight])])
        stacked = torch.cat(latents)
        noise = _to_device(torch.randn(stacked.shape, generator=generator), self._host.device)
        conditioning = self._captions.encode([caption for _, caption in chosen])
        return Batch(stacked, noise, t, conditioning, _to_device(weights, noise.device))

    def _photo_at(self, number: int) -> tuple[Tensor, str]:
        if len(self._samples) == 1:
            return self._samples[0]
        epoch, place = divmod(number, len(self._samples))
        order = torch.randperm(len(self._samples), generator=step_generator(self._options.seed, "photos", epoch))
        return self._samples[int(order[place])]

    def _crop(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        # A window of the latent is the latent of a window: the encoder is convolutional. Mirroring is done on pixels,
        # since an encoder need not be symmetric.
        crop = min(self._options.crop_px, *(side // 2 for side in latent.shape[2:]))
        if crop < 1:
            return latent
        top, left = torch.randint(0, crop + 1, (2,), generator=generator).tolist()
        height, width = latent.shape[2] - crop, latent.shape[3] - crop
        return latent[:, :, top : top + height, left : left + width]

    def _make_class_pictures(self, class_word: str) -> list[tuple[Tensor, str]]:
        options, prompt = self._options, self._options.preservation_prompt or f"photo of a {class_word}"
        conditioning = self._captions.encode([prompt])
        generator = step_generator(options.seed, "class pictures")
        shape, steps = self.first_latent.shape, options.preview_steps
        return [
            (sample(self._host, conditioning, shape=shape, steps=steps, generator=generator), prompt)
            for _ in range(options.preservation_pictures)
        ]


class HeldOut:
    """Loss on held-out photos, at fixed noise and noise levels, so that steps can be compared.

    Args:
        host: Encodes photos and captions, once, here.
        photos: The held-out photos.
        samples: Noise levels per photo.
        seed: Of the noise.
    """

    def __init__(self, host: Host, photos: TrainingSet, samples: int, seed: int) -> None:
        captions, levels = CaptionCache(host), (torch.arange(samples) + 0.5) / samples
        self._host, self._batches = host, list[Batch]()
        for number, (latent, caption) in enumerate(_encode_photos(host, photos)):
            noise = torch.randn(samples, *latent.shape[1:], generator=step_generator(seed, "held out", number))
            t = host.objective.timesteps_from_uniform(levels)
            stacked = latent.expand(samples, -1, -1, -1)
            weights = torch.full((samples,), 1 / samples, device=host.device)
            self._batches.append(Batch(stacked, noise, t, captions.encode([caption] * samples), weights))

    @torch.no_grad()
    def loss(self) -> float:
        """Mean over all photos and noise levels, with whatever is injected into the host's model."""
        return float(torch.cat([denoising_losses(self._host, batch) for batch in self._batches]).mean())


def _encode_photos(host: Host, photos: TrainingSet) -> list[tuple[Tensor, str]]:
    with torch.no_grad():
        return [
            (host.encode_images(image[None].to(host.device)).float().clone(), caption)
            for image, caption in zip(photos.images, photos.captions, strict=True)
        ]


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
