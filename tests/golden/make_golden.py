"""Writes golden.json: numbers that must not move unless an algorithm is changed on purpose.

Run ``python tests/golden/make_golden.py`` after such a change and say why in the commit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1]), str(HERE.parent)]


def golden() -> dict[str, list[float]]:
    """Losses of both trainings on the toy host, and the draws they rest on."""
    from core.toy_host import ToyHost, ToySubjects

    from metalora_core.adaptation import adapt
    from metalora_core.meta_training import meta_train
    from metalora_core.model.objective import FlowObjective, StratifiedTimesteps
    from metalora_core.photos.training_set import TrainingSet
    from metalora_core.training.adaptation_options import AdaptationOptions
    from metalora_core.training.meta_options import MetaTrainingOptions
    from metalora_core.training.schedule import warmup_cosine
    from metalora_core.training.seeds import step_generator

    losses: list[float] = []
    options = MetaTrainingOptions(steps=12, subjects_per_batch=3, r_meta=6, r_mid=2, read_every=3, warmup_steps=2)
    prior = meta_train(ToyHost(), ToySubjects(), options, on_progress=lambda p: losses.append(p.loss))
    image = torch.linspace(0, 1, 3 * 64).view(3, 8, 8)
    photos = TrainingSet((image,), ("photo of a ohwx blob",), "blob", "ohwx")
    learned = adapt(ToyHost(), prior, photos, AdaptationOptions(steps=12, seed=1))
    return {
        "meta_training_losses": losses,
        "adaptation_losses": list(learned.losses),
        "stratified_timesteps": StratifiedTimesteps(FlowObjective(), 3, seed=2).at(4).tolist(),
        "noise": torch.randn(4, generator=step_generator(5, "golden", 6)).tolist(),
        "schedule": [warmup_cosine(step, 8, 2, 0.1) for step in range(8)],
    }


if __name__ == "__main__":
    (HERE / "golden.json").write_text(json.dumps(golden(), indent=1) + "\n")
