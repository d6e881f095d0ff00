"""``inspect``: what a file is, how it was made and how large it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def inspect(
    files: Annotated[
        list[Path], typer.Argument(help="Safetensors files: priors, identities, checkpoints, LoRAs, models.")
    ],
    json: options.Json = False,
) -> None:
    """Say what each file is, how it was made and its size."""
    from ..inspection import describe_file
    from ..terminal import answer

    found = [describe_file(path) for path in files]
    answer({"files": [item.fields() for item in found]}, "\n\n".join(item.text() for item in found), json)
