"""Writes a model, prior, sample and float64 gradient for benchmarks/adapt_step.py: speed_prepare.py MODEL FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import speed_case as case
import speed_measure as measure
import torch
from safetensors.torch import save_file

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    case.make_case(folder, case.SIZES[sys.argv[1]])
    sample, prior = case.load_case(folder)
    reference = measure.reference_gradient(case.load_case_host(folder, torch.float64), prior, sample)
    save_file({name: value.contiguous() for name, value in reference.items()}, folder / "reference.safetensors")
