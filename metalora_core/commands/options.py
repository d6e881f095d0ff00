"""Options that several commands share, with one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Model = Annotated[
    str, typer.Option(help='"pocket" for the small model that comes along, or a diffusers folder or single file.')
]
PipelineConfig = Annotated[
    str, typer.Option(help="For a single file: folder with the configuration of its diffusers pipeline.")
]
PriorChoice = Annotated[
    str,
    typer.Option(
        help='A prior file; "avatars" or "products" for those that come along; empty to take one by class word.'
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; empty for the best one here.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Size = Annotated[int, typer.Option(help="Width and height of pictures in pixels; 0 for the model's usual size.", min=0)]
IdentityFile = Annotated[Path, typer.Argument(help="Identity file.")]
