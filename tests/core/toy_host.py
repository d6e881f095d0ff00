"""A host small enough to train in milliseconds: tokens, a split projection, a convolution, text as a sum of words."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalora_core.model.host import Conditioning
from metalora_core.model.objective import FlowObjective, Objective
from metalora_core.model.targets import Part, Target
from metalora_core.model.weights_digest import weights_digest
from metalora_core.training.batches import Batch

WIDTH = 12


def _word(word: str) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(sum(map(ord, word))))


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=1)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        b, _, h, w = noisy.shape
        x = self.embed(noisy.flatten(2).mT) + text[:, None] + t.to(noisy.dtype)[:, None, None]
        attended = F.scaled_dot_product_attention(self.to_q(x), self.to_k(x), self.to_v(x))
        x = x + self.out(attended)
        x = x + self.conv(x.mT.unflatten(2, (h, w))).flatten(2).mT
        return self.head(torch.tanh(x)).mT.reshape(b, 4, h, w)


class ToyHost:
    family = "toy"
    latent_channels = 4
    downscale = 2
    compiled = checkpointing = swapped = False
    can_checkpoint = can_swap = False

    def __init__(self, dtype: torch.dtype = torch.float32, objective: Objective | None = None, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = ToyModel().to(dtype)
        self.objective: Objective = objective or FlowObjective()
        self.device = torch.device("cpu")
        self.dtype = dtype
        self.prompts_encoded = 0
        self.pictures_encoded = 0

    def targets(self) -> tuple[Target, ...]:
        rows = [Part(name, i * WIDTH, (i + 1) * WIDTH) for i, name in enumerate(("to_q", "to_k", "to_v"))]
        return (
            Target("attn.qkv", (3 * WIDTH, WIDTH), tuple(rows)),
            Target("attn.proj", (WIDTH, WIDTH), (Part("out", 0, WIDTH),)),
            Target("conv", (WIDTH, WIDTH, 3, 3), (Part("conv", 0, WIDTH),)),
        )

    def weights_digest(self) -> str:
        return weights_digest(self.model.named_parameters())

    def encode_images(self, images: Tensor) -> Tensor:
        self.pictures_encoded += len(images)
        small = F.avg_pool2d(images, self.downscale) * 2 - 1
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return (F.interpolate(latents[:, :3], scale_factor=self.downscale) / 2 + 0.5).clamp(0, 1)

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        self.prompts_encoded += len(prompts)
        rows = [sum((_word(word) for word in prompt.split()), torch.zeros(WIDTH)) for prompt in prompts]
        return {"text": 0.3 * torch.stack(rows).to(self.dtype)}

    def passes(self, conditioning: Conditioning) -> list[list[int]]:
        return [list(range(len(conditioning["text"])))]

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        scale = 1.0 if self.objective.name == "flow" else 0.001
        return self.model(noisy, t * scale, conditioning["text"])

    @contextmanager
    def training(self) -> Generator[None]:
        flags = [p.requires_grad for p in self.model.parameters()]
        self.model.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, flag in zip(self.model.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)


class ReadingHost(ToyHost):
    """Its conditioning is the number of the caption, so that a test can read what a batch shows."""

    def __init__(self) -> None:
        super().__init__()
        self._captions: list[str] = []

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        self._captions += [prompt for prompt in prompts if prompt not in self._captions]
        return {"text": torch.tensor([[self._captions.index(prompt)] for prompt in prompts])}

    def captions_of(self, batch: Batch) -> list[str]:
        return [self._captions[int(number)] for number in batch.conditioning["text"]]


class ToySubjects:
    domain = "blobs"

    def __init__(self, count: int = 6, photos: int = 4) -> None:
        generator = torch.Generator().manual_seed(7)
        own = torch.randn(count, 1, 4, 1, 1, generator=generator)
        self._latents = own + 0.1 * torch.randn(count, photos, 4, 4, 4, generator=generator)

    def __len__(self) -> int:
        return len(self._latents)

    def latents_of(self, subject: int) -> Tensor:
        return self._latents[subject]

    def captions_of(self, subject: int) -> list[str]:
        return [f"photo of a blob, view {i}" for i in range(self._latents.shape[1])]
