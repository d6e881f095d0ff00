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
Trigger = Annotated[str, typer.Option(help="Rare word to call the subject by in prompts.")]
LearnFrom = Annotated[
    str,
    typer.Option(
        "--prior",
        help="A prior file made for the model; empty for none, and for the pocket model the one of the class word "
        '("avatars" or "products"). "none" learns without one. With one, fewer steps are needed.',
    ),
]
AdaptSteps = Annotated[int, typer.Option("--steps", help="Training steps; 0 for the preset.", min=0)]
LearningRate = Annotated[
    str,
    typer.Option(
        help="Learning rate of all that is trained. auto finds it by a few trial steps on the photos; empty takes "
        "the preset, and auto for models that have none."
    ),
]
Mirror = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        help="Also train on mirrored photos. Turn it off for anything with a left and a right. auto follows the "
        "preset, and is off for objects with a handle."
    ),
]
Crop = Annotated[
    int, typer.Option(help="Random crop: latent pixels by which the crop window may move; 0 for none.", min=0)
]
Preserve = Annotated[
    float, typer.Option(help="Prior preservation: weight of the class's own pictures in the loss; 0 for none.", min=0)
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out photos, captions and folders that cannot be used, and go on.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only look at the folder and say what was found; nothing is learned.")
]
HeldOut = Annotated[int, typer.Option(help="Photos held out for early stopping; needs two photos or more.", min=0)]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile the passes: minutes before the first step, then faster steps.")
]
