"""``export``: an identity as an ordinary LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options


def export(
    identity: options.IdentityFile,
    prior: Annotated[str, typer.Option(help='The prior it was learned with: a file, "avatars" or "products".')],
    output: Annotated[Path, typer.Option(help="LoRA file to write.")],
    layout: Annotated[
        Literal["comfyui", "kohya", "diffusers"], typer.Option(help="Whose key names to use.")
    ] = "comfyui",
    model: options.Model = "pocket",
    pipeline_config: options.PipelineConfig = "",
    json: options.Json = False,
) -> None:
    """Fold an identity and its prior into an ordinary LoRA that any loader reads."""
    from ..files.export import export_lora, is_named_by_diffusers
    from ..files.identity import load_identity
    from .loading import load_base_model, load_prior_for, require_output
    from .terminal import answer

    require_output(output, ".safetensors", identity, prior, model)
    learned = load_identity(identity)
    used_prior = load_prior_for(prior, model, learned.metadata.class_word)
    # Names that are not ComfyUI's depend on how a model spreads a target over its modules.
    needed = layout == "diffusers" or (layout == "kohya" and is_named_by_diffusers(used_prior))
    targets = load_base_model(model, "cpu", "float32", pipeline_config).targets() if needed else None
    export_lora(output, learned, used_prior, layout=layout, targets=targets)
    size = output.stat().st_size
    answer({"path": str(output), "layout": layout, "bytes": size}, f"{output}: {layout} LoRA, {size:,} bytes", json)
