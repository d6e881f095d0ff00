"""``meta-train``: make a prior from many subjects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options
from .settings import Settings


def meta_train(
    subjects: Annotated[Path, typer.Argument(help="Folder with one folder of photos per subject.")],
    class_word: Annotated[str, typer.Option(help='What the subjects are, such as "person" or "mug".')],
    output: Annotated[Path, typer.Option(help="Prior file to write.")],
    model: options.Model = "pocket",
    domain: Annotated[str, typer.Option(help="Name of the domain; the class word if empty.")] = "",
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 2000,
    batch: Annotated[int, typer.Option(help="Subjects per step.", min=1)] = 16,
    r_meta: Annotated[int, typer.Option(help="Rank shared by all subjects; a wide one is worth it.", min=1)] = 64,
    r_mid: Annotated[int, typer.Option(help="Rank of one identity.", min=1)] = 8,
    warm_start: Annotated[
        Literal["none", "mean", "learned"], typer.Option(help="Where identities start: zero, the mean, or learned.")
    ] = "mean",
    inner_steps: Annotated[
        int, typer.Option(help="Adaptation steps inside each training step (episodes); 0 trains all jointly.", min=0)
    ] = 0,
    caption_dropout: Annotated[
        float, typer.Option(help="Share of captions that are left empty, for guidance.", min=0, max=0.99)
    ] = 0.0,
    include: Annotated[list[str], typer.Option(help='Only layers that match, such as "*attn*"; may be repeated.')] = [],  # noqa: B006
    exclude: Annotated[list[str], typer.Option(help="Leave these layers out; may be repeated.")] = [],  # noqa: B006
    bank_folder: Annotated[
        str, typer.Option(help="Keep the subjects' factors in files of this folder, when they do not fit into memory.")
    ] = "",
    settings: Settings = [],  # noqa: B006
    earlier: Annotated[str, typer.Option(help="Prior file to go on from; its ranks have to be the same.")] = "",
    seed: options.Seed = 0,
    size: options.Size = 0,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint file; empty for OUTPUT.checkpoint.safetensors.")] = "",
    pipeline_config: options.PipelineConfig = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    json: options.Json = False,
) -> None:
    """Train a prior for a domain on folders of photos; Ctrl-C stops, the same command goes on."""
    from ..files.prior import load_prior, save_prior
    from ..meta_training import meta_train as learn
    from ..photos.subject_folders import FolderSubjects
    from ..training.meta_options import MetaTrainingOptions
    from .loading import checkpoint_beside, load_base_model, name_of, picture_size_px, require_output
    from .settings import with_settings
    from .terminal import answer, progress_bars

    chosen = MetaTrainingOptions(
        steps=steps,
        subjects_per_batch=batch,
        r_meta=r_meta,
        r_mid=r_mid,
        warm_start=warm_start,
        inner_steps=inner_steps,
        seed=seed,
        caption_dropout=caption_dropout,
        include=tuple(include),
        exclude=tuple(exclude),
        bank_folder=Path(bank_folder) if bank_folder else None,
        class_words=(class_word,),
        name=output.stem,
    )
    chosen = with_settings(chosen, settings)
    chosen.check()
    require_output(output, ".safetensors", earlier, model)
    checkpoint_path = checkpoint_beside(output, checkpoint)
    earlier_prior = load_prior(Path(earlier)) if earlier else None
    host = load_base_model(model, device, dtype, pipeline_config)
    data = FolderSubjects(subjects, host, class_word, picture_size_px(host, model, size), domain)
    chosen = replace(chosen, subjects_per_batch=min(batch, len(data)))
    with progress_bars(json, checkpoint=checkpoint_path) as bars:
        prior = learn(
            host,
            data,
            chosen,
            earlier=earlier_prior,
            on_progress=bars(f"meta-training on {len(data)} subjects"),
            checkpoint=checkpoint_path,
        )
    saved = save_prior(output, prior.described(data.features, name_of(model)))
    checkpoint_path.unlink(missing_ok=True)
    fields = {"path": str(output), "bytes": output.stat().st_size, "sha256": saved.sha256}
    text = f"{output}: prior of {len(data)} subjects, {steps} steps, {fields['bytes']:,} bytes"
    answer({**fields, "subjects": len(data), "steps": steps}, text, json)
