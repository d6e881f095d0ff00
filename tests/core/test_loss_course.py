"""One smoothed figure for a training's loss, and what becomes of a training with a rising one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_adaptation import OPTIONS, photos, prior, raise_at, same, tensors
from core.toy_host import ToyHost
from torch import Tensor

from metalora_core.adaptation import adapt
from metalora_core.files.prior import Prior
from metalora_core.training.adaptation_state import risen_note
from metalora_core.training.loss_course import has_risen, loss_course

__all__ = ["prior"]


def noisy(*means: float) -> list[float]:
    draw = random.Random(7)
    return [mean * draw.uniform(0.5, 1.5) for mean in means]


def test_a_course_is_the_mean_of_a_fifth_from_the_first_full_one_to_the_last() -> None:
    losses = [float(number) for number in range(1, 11)]
    assert loss_course(losses) == [(end / 10, end - 0.5) for end in range(2, 11)]


def test_a_course_does_not_change_as_the_run_goes_on() -> None:
    losses = noisy(*[0.3] * 50)
    for now, later in zip(loss_course(losses[:30], 0.6), loss_course(losses)[:21], strict=True):
        assert now == pytest.approx(later)


def test_a_long_run_shows_a_loss_after_fifty_steps() -> None:
    assert len(loss_course([0.3] * 50, 50 / 3000)) == 1


def test_half_a_window_is_no_course() -> None:
    assert loss_course([0.3] * 5, 0.1) == []


def test_only_a_clear_rise_is_a_rise() -> None:
    assert has_risen(noisy(*[0.3] * 10, *[2.0] * 40))
    assert not has_risen(noisy(*[0.3] * 50))
    assert not has_risen(noisy(*[0.3] * 25, *[0.2] * 25))
    assert not has_risen([0.1, 5.0, 9.0])  # too few to tell


class Worsening(ToyHost):
    """Its predictions drift further off with every step."""

    calls = 0

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        self.calls += 1
        return super().predict(noisy, t, conditioning) * (1 + max(0, self.calls - 12) ** 2 / 40)


def test_a_training_that_blew_up_keeps_what_it_had_learned_before(prior: Prior) -> None:
    steady = replace(OPTIONS, final_rate=1.0)
    blown = adapt(Worsening(), prior, photos(), steady)
    assert has_risen(blown.losses)
    step = blown.identity.metadata.metrics["loss_rose_after"]
    assert 0 < step <= 15
    assert f"after step {step}" in risen_note(blown.identity.metadata)
    before = adapt(Worsening(), prior, photos(), replace(steady, steps=step))
    for kept, learned in zip(tensors(blown.identity), tensors(before.identity), strict=True):
        assert torch.equal(kept, learned)


def test_a_training_that_blew_up_is_the_same_when_it_was_interrupted(prior: Prior, tmp_path: Path) -> None:
    path, unbroken = tmp_path / "run.safetensors", Worsening()
    with pytest.raises(KeyboardInterrupt):
        adapt(Worsening(), prior, photos(), OPTIONS, on_progress=raise_at(20, KeyboardInterrupt()), checkpoint=path)
    host = Worsening()
    host.calls = 20
    resumed = adapt(host, prior, photos(), OPTIONS, checkpoint=path)
    assert same(resumed.identity, adapt(unbroken, prior, photos(), OPTIONS).identity)


def test_a_training_that_went_well_is_not_accused(prior: Prior) -> None:
    assert risen_note(adapt(ToyHost(), prior, photos(), OPTIONS).identity.metadata) == ""
