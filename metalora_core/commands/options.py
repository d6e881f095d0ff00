"""Options that several commands share, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Model = Annotated[
    str,
    typer.Option(help='"pocket" for the small model that ships with the pack, or a diffusers folder or single file.'),
]
PipelineConfig = Annotated[
    str,
    typer.Option(
        help="For a single file: a diffusers pipeline folder of the same family. A file with only the denoiser takes "
        "text encoders and autoencoder from there."
    ),
]
PriorChoice = Annotated[
    str,
    typer.Option(
        help='A prior file; "avatars" or "products" for the pocket model\'s; empty to choose those by class word. An '
        "identity learned without a prior needs none."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; empty for the best one available.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
SwapBlocks = Annotated[
    bool,
    typer.Option(
        "--swap-blocks", help="Keep the model's blocks in main memory, for when the model does not fit on the card."
    ),
]
Fp8Blocks = Annotated[
    bool,
    typer.Option(
        "--fp8-blocks", help="Store the blocks' matrices in 8 bits: half the memory, slightly different results."
    ),
]
Size = Annotated[int, typer.Option(help="Width and height of pictures in pixels; 0 for the model's usual size.", min=0)]
WithoutRecord = Annotated[
    Literal["require", "remind"],
    typer.Option(help="People without a consent record: require refuses them, remind only says so."),
]
IdentityFolder = Annotated[
    Path, typer.Argument(help="ComfyUI's models/metalora_identities.", exists=True, file_okay=False)
]
IdentityFile = Annotated[Path, typer.Argument(help="Identity file.")]
