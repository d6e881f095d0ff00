"""ComfyUI's own Train LoRA as a method: a real ComfyUI trains and samples, the same scorers score."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InvalidOptions
from ..photos.training_set import with_mirrored
from .methods.cohort import starting_noise

if TYPE_CHECKING:
    from torch import Tensor

    from ..model.host import Host
    from ..photos.training_set import TrainingSet
    from .plan import BenchPlan, Unit
    from .subjects.world import LearnedSubject

__all__ = ["drawn_by_comfyui", "why_not_run"]

_SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "core_train_lora.py"


@lru_cache(maxsize=1)
def why_not_run() -> str:
    """Why ComfyUI's Train LoRA cannot be run here, or an empty text if it can."""
    if not _SCRIPT.exists():
        return f"{_SCRIPT.name} is not part of this installation"
    found = subprocess.run([sys.executable, _SCRIPT, "--find"], capture_output=True, text=True, check=False)
    return "" if found.returncode == 0 else (found.stdout or found.stderr).strip()


def drawn_by_comfyui(
    host: Host, plan: BenchPlan, unit: Unit, subjects: Sequence[LearnedSubject], seeds: Sequence[int]
) -> Iterator[tuple[int, Sequence[float], Tensor]]:
    """Train and sample the subjects of a unit in ComfyUI: rank 8, its own layers, its own loop, the same starting
    noise.

    Yields:
        Step, seconds of each subject and pictures (subjects, prompts, 3, H, W), for every step of the unit but 0,
        where the model is as it was.

    Raises:
        InvalidOptions: If there is no ComfyUI, or its training failed.
    """
    from safetensors.torch import load_file, save_file

    sets = [subject.photos.part(0, unit.photos) for subject in subjects]
    if plan.mirrored:
        sets = [_twice(photos) if photos.one_sided else with_mirrored(photos) for photos in sets]
    prompts = [[*subject.prompts, *subject.others] for subject in subjects]
    job: dict[str, Any] = {
        "domain": unit.domain,
        "captions": [list(one.captions) for one in sets],
        "prompts": prompts,
        "seeds": list(seeds),
        "steps": [step for step in unit.steps if step],
        "learning_rate": unit.rate or plan.rate_of(unit.method, unit.photos, unit.domain),
        "sampling_steps": plan.sampling_steps,
        "guidance": plan.guidance,
    }
    tensors = {
        "photos": torch.stack([torch.stack(list(one.images)) for one in sets]),
        "noise": starting_noise(host, seeds, len(prompts[0]), subjects[0].size_px),
    }
    with TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "job.safetensors", Path(folder) / "result.safetensors"
        save_file(tensors, asked, {"job": json.dumps(job)})
        done = subprocess.run([sys.executable, _SCRIPT, asked, answer], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InvalidOptions(f"ComfyUI's Train LoRA did not finish: {(done.stderr or done.stdout).strip()[-800:]}")
        result = load_file(answer)
    for step, seconds, pictures in zip(job["steps"], result["seconds"], result["pictures"], strict=True):
        yield step, seconds.tolist(), pictures.float()


def _twice(photos: TrainingSet) -> TrainingSet:
    """Every photo twice, so that photos that are never mirrored fit into a batch with those that are."""
    return replace(photos, images=photos.images * 2, captions=photos.captions * 2)
