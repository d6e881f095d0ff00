"""A run that is killed loses at most half a minute, and pictures are on disk as soon as they are drawn."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from core.toy_host import ToyHost
from torch import Tensor

from metalora_core.commands.terminal import progress_bars
from metalora_core.errors import TrainingCancelled
from metalora_core.model.generation import Request, generate_pictures
from metalora_core.photos.pictures import save_pictures
from metalora_core.training import checkpoint_clock
from metalora_core.training.checkpoint_clock import CheckpointClock


def test_a_checkpoint_is_due_by_steps_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_clock.time, "monotonic", lambda: now[0])
    clock = CheckpointClock(every=50, saved_at=0.0)
    assert [step for step in range(1, 121) if clock.due(step)] == [50, 100]
    due: list[int] = []
    for step in range(1, 11):
        now[0] += 12.0
        due += [step] if clock.due(step) else []
    assert due == [3, 6, 9]


def test_a_system_that_shuts_down_ends_a_training_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingCancelled, match="Stopped at once"), progress_bars(True, checkpoint=tmp_path / "c"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("nothing was raised")
    assert signal.getsignal(signal.SIGTERM) is before


def test_each_picture_is_saved_before_the_next_is_drawn(tmp_path: Path) -> None:
    request = Request(("a", "b", "c"), size_px=16, steps=1, batch=2)

    def save_or_stop(first: int, pictures: Tensor) -> None:
        if first:
            raise KeyboardInterrupt
        save_pictures(pictures, tmp_path, request, first)

    with pytest.raises(KeyboardInterrupt):
        generate_pictures(ToyHost(), request, save_or_stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0_00.png", "0_01.png"]
    whole = generate_pictures(ToyHost(), request)
    assert torch.equal(whole, generate_pictures(ToyHost(), request, lambda first, pictures: None))
