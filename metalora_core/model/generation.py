"""Pictures from prompts: encode, sample, decode; in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import COUNT, NOT_NEGATIVE, Range, refuse, seed_after
from .host import Host
from .sampling import sample


@dataclass(frozen=True)
class Request:
    """What to sample.

    Args:
        prompts: One picture each.
        size_px: Width and height.
        steps: Sampling steps.
        guidance: Classifier-free guidance; 1 is none.
        negative: Prompt of the unguided side.
        seed: Of the starting noise; picture i of the request always starts from the same noise.
        batch: Pictures at once.
    """

    prompts: tuple[str, ...]
    size_px: int
    steps: int = 28
    guidance: float = 1.0
    negative: str = ""
    seed: int = 0
    batch: int = 8

    def check(self) -> None:
        """Raise ``InvalidOptions`` with all findings at once."""
        findings = COUNT.findings(self, "size_px", "steps", "batch")
        # The noise of a later picture starts from a larger seed.
        findings += NOT_NEGATIVE.findings(self, "guidance") + Range(0, 2**63 - 10**9, whole=True).findings(self, "seed")
        if not self.prompts:
            findings.append("there is no prompt; give at least one")
        refuse("this picture request", findings)


def generate_pictures(host: Host, request: Request, on_pictures: Callable[[int, Tensor], None] | None = None) -> Tensor:
    """Sample one picture per prompt with whatever is injected into the host's model.

    Args:
        host: The base model.
        request: What to draw.
        on_pictures: Called with each batch as soon as it is drawn: the number of its first picture, and the pictures.

    Returns:
        Pictures (prompts, 3, size_px, size_px) in [0, 1], on the CPU.

    Raises:
        InvalidOptions: If a setting is out of its range.
    """
    request.check()
    pictures: list[Tensor] = []
    for start in range(0, len(request.prompts), request.batch):
        pictures.append(_batch(host, request, start))
        if on_pictures is not None:
            on_pictures(start, pictures[-1])
    return torch.cat(pictures)


@torch.no_grad()
def _batch(host: Host, request: Request, start: int) -> Tensor:
    side = request.size_px // host.downscale
    prompts = list(request.prompts[start : start + request.batch])
    negative = host.encode_prompts([request.negative] * len(prompts)) if request.guidance != 1 else None
    latents = sample(
        host,
        host.encode_prompts(prompts),
        negative,
        shape=(len(prompts), host.latent_channels, side, side),
        steps=request.steps,
        guidance=request.guidance,
        generator=torch.Generator().manual_seed(seed_after(request.seed, start)),
    )
    return host.decode_latents(latents).float().cpu()
