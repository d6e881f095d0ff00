"""``export``: an identity as an ordinary LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options
from .loading import POCKET


def export(
    identity: options.IdentityFile,
    output: Annotated[Path, typer.Option(help="LoRA file to write.")],
    prior: options.PriorChoice = "",
    layout: Annotated[
        Literal["comfyui", "kohya", "diffusers"], typer.Option(help="Naming scheme of the keys.")
    ] = "comfyui",
    strength: Annotated[float, typer.Option(help="Built into the file; 1 is the identity as learned.")] = 1.0,
    dtype: Annotated[
        str, typer.Option(help="float32 keeps the identity exactly; bfloat16 and float16 halve the file.")
    ] = "float32",
    author: Annotated[str, typer.Option(help="For the file's metadata.")] = "",
    thumbnail: Annotated[str, typer.Option(help="Preview picture for LoRA managers.")] = "",
    without_record: options.WithoutRecord = "require",
    json: options.Json = False,
) -> None:
    """Fold an identity and its prior into an ordinary LoRA for any loader."""
    from ..files.export import export_lora
    from ..files.identity import load_identity
    from ..hosts.target_map import layout_targets
    from ..photos.images import load_photo
    from ..photos.pictures import thumbnail_jpeg
    from ..provenance.consent import Purpose
    from ..provenance.permission import IDENTITY_EXPORTED
    from .loading import choose_dtype, prior_of, require_output
    from .permission import ask_identity
    from .terminal import answer

    require_output(output, ".safetensors", identity, prior, thumbnail)
    learned = load_identity(identity)
    used_prior = prior_of(learned, prior, POCKET)
    note = ask_identity(identity, learned, used_prior, Purpose.SHARING, without_record)
    export_lora(
        output,
        learned,
        used_prior,
        layout,
        layout_targets(layout, learned, used_prior),
        strength=strength,
        dtype=choose_dtype(dtype),
        author=author,
        thumbnail=thumbnail_jpeg(load_photo(thumbnail).pixels) if thumbnail else b"",
    )
    note(IDENTITY_EXPORTED, output, learned)
    size = output.stat().st_size
    answer({"path": str(output), "layout": layout, "bytes": size}, f"{output}: {layout} LoRA, {size:,} bytes", json)
