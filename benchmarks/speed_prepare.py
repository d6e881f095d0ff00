"""Writes the models, priors, samples and float64 gradients that the speed benchmarks work on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))


@contextmanager
def prepared(models: Sequence[str], *, reference: bool = True) -> Generator[dict[str, Path]]:
    """A folder per model, for the length of a block; made in another process, whose memory is free again then."""
    with tempfile.TemporaryDirectory() as parent:
        folders = {model: Path(parent) / model for model in models}
        for model, folder in folders.items():
            folder.mkdir()
            command = [sys.executable, str(Path(__file__)), model, str(folder), *(["reference"] if reference else [])]
            subprocess.run(command, check=True)
        yield folders


def prepare(model: str, folder: Path, *, reference: bool) -> None:
    import speed_case as case
    import speed_measure as measure
    import torch
    from safetensors.torch import save_file

    case.make_case(folder, case.SIZES[model])
    if reference:
        sample, prior = case.load_case(folder)
        gradient = measure.reference_gradient(case.load_case_host(folder, torch.float64), prior, sample)
        save_file({name: value.contiguous() for name, value in gradient.items()}, folder / "reference.safetensors")


if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]), reference="reference" in sys.argv[3:])
