"""Laws of the sampler."""

from __future__ import annotations

import pytest
import torch
from core.toy_host import ToyHost
from torch import Tensor

from metalora_core.errors import InvalidOptions
from metalora_core.model.host import Conditioning
from metalora_core.model.objective import (
    EpsObjective,
    FlowObjective,
    MixedObjective,
    VObjective,
    scaled_linear_alphas,
)
from metalora_core.model.sampling import sample

SHAPE = (2, 4, 4, 4)
# The network sees the picture at unit variance and is asked for the noise, as EDM and older models have it.
SCALED = MixedObjective(
    rates=lambda t: torch.stack([1 / (1 + t**2).sqrt(), t / (1 + t**2).sqrt(), 0 * t, 0 * t + 1]),
    quantile=lambda u: 20 * u**2,
)
OBJECTIVES = [
    FlowObjective(),
    FlowObjective(shift=3.0),
    EpsObjective(scaled_linear_alphas()),
    VObjective(scaled_linear_alphas()),
    SCALED,
]


class Oracle(ToyHost):
    """Knows the picture: predicts exactly what the objective asks for."""

    picture = torch.linspace(-1, 1, 4 * 16).view(1, 4, 4, 4)

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        if isinstance(self.objective, MixedObjective):
            a, b, _, _ = self.objective.rates(t).view(4, -1, 1, 1, 1)
            noise = (noisy - a * self.picture) / b
        elif self.objective.name == "flow":
            noise = (noisy - (1 - t.view(-1, 1, 1, 1)) * self.picture) / t.view(-1, 1, 1, 1)
        else:
            a = scaled_linear_alphas()[t.long()].view(-1, 1, 1, 1)
            noise = (noisy - a.sqrt() * self.picture) / (1 - a).sqrt()
        return self.objective.target(self.picture.expand_as(noisy), noise, t)


def draw(host: ToyHost, seed: int = 0, **options) -> Tensor:
    conditioning = host.encode_prompts(["a blob", "a mug"])
    return sample(host, conditioning, shape=SHAPE, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.name}{getattr(o, 'shift', '')}")
@pytest.mark.parametrize("steps", [1, 7])
def test_a_perfect_model_gives_the_picture(objective, steps: int):
    latents = draw(Oracle(objective=objective), steps=steps)
    torch.testing.assert_close(latents, Oracle.picture.expand(SHAPE), rtol=1e-2, atol=3e-2)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.name}{getattr(o, 'shift', '')}")
def test_same_seed_same_picture_and_guidance_one_ignores_the_negative(objective):
    host = ToyHost(objective=objective)
    first = draw(host, steps=4)
    assert torch.equal(first, draw(host, steps=4)) and not torch.equal(first, draw(host, 1, steps=4))
    negative = host.encode_prompts(["", ""])
    assert torch.equal(first, draw(host, steps=4, negative=negative))
    assert not torch.equal(first, draw(host, steps=4, negative=negative, guidance=3.0))
    same = host.encode_prompts(["a blob", "a mug"])
    torch.testing.assert_close(first, draw(host, steps=4, negative=same, guidance=3.0), rtol=1e-4, atol=1e-4)


def test_every_step_is_told():
    seen: list[tuple[int, int]] = []
    draw(ToyHost(), steps=3, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_nothing_needs_grad_and_contradictions_are_refused():
    host = ToyHost()
    assert not draw(host, steps=1).requires_grad
    for options, words in (
        ({"steps": 0}, "at least 1"),
        ({"guidance": 2.0}, "negative"),
    ):
        with pytest.raises(InvalidOptions, match=words):
            draw(host, **options)
