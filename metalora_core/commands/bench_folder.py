"""``python -m metalora_core bench folder``: the benchmark on the user's own model, prior and photos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as shared

if TYPE_CHECKING:
    from ..evaluation.subjects.folders import FolderOptions, PhotoFolders


def folder(
    photos_in: Annotated[Path, typer.Argument(help="Folder with one folder of photos per subject.")],
    prior: Annotated[Path, typer.Option(help="Prior file made for the model.")],
    embedder: Annotated[
        Path, typer.Option(help="Folder of a transformers vision model that scores identity similarity.")
    ],
    prompt_embedder: Annotated[
        str, typer.Option(help="Folder of a CLIP or SigLIP model that scores prompt adherence; empty for the embedder.")
    ] = "",
    model: shared.Model = "pocket",
    class_word: Annotated[str, typer.Option(help="What the subjects are: person, mug, dog…")] = "person",
    prompts: Annotated[str, typer.Option(help="Text file, one prompt per line, each with {subject}.")] = "",
    photos: Annotated[str, typer.Option(help="Numbers of photos to learn from, separated by commas.")] = "1",
    held_out: Annotated[
        int, typer.Option(help="Photos of each subject, the last ones, held out for comparison.", min=1)
    ] = 2,
    methods: Annotated[str, typer.Option(help="Methods by name, separated by commas.")] = "plain_lora,meta_warm",
    steps: Annotated[
        str, typer.Option(help="Training steps at which subjects are scored, separated by commas.")
    ] = "25,50,100,200",
    rates: Annotated[
        str, typer.Option(help="Learning rates, needed for your own model: plain_lora=1e-4,meta_warm=1e-3.")
    ] = "",
    sampling_steps: Annotated[int, typer.Option(help="Of each picture.", min=1)] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 1 for distilled models.", min=1)] = 1.0,
    mirrored: Annotated[
        bool,
        typer.Option(help="Also train on mirrored photos; not for writing or anything else with a left and a right."),
    ] = False,
    size: shared.Size = 0,
    device: shared.Device = "",
    dtype: shared.Dtype = "float32",
    pipeline_config: shared.PipelineConfig = "",
    json: Annotated[str, typer.Option(help="Also write rows and summary to this JSON file.")] = "",
    output: Annotated[Path, typer.Option(help="Folder for rows and report.")] = Path("output/bench-folder"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over: delete the rows in the folder.")] = False,
) -> None:
    """Compare methods on your own model and photos, scored by embedders that you choose."""
    from dataclasses import replace

    from ..evaluation.subjects.folders import PROMPTS, FolderOptions, folder_plan
    from .bench_run import finish, named_methods, numbers, run, usual_and_tuned_rates
    from .loading import POCKET

    asked = prompts_in(Path(prompts)) if prompts else PROMPTS
    options = FolderOptions(
        photos_in, prior, embedder, Path(prompt_embedder) if prompt_embedder else None, model, class_word, held_out,
        asked, size, device, dtype, pipeline_config,
    )  # fmt: skip
    options.check()
    compared = named_methods(methods)
    known = own_rates(rates, usual_and_tuned_rates() if model == POCKET else {})
    require_rates(compared, known)
    world = open_photo_folders(options)
    plan = folder_plan(world, compared, numbers(photos, "photos"), numbers(steps, "steps"))
    plan = replace(plan, sampling_steps=sampling_steps, guidance=guidance, rates=known, mirrored=mirrored)
    rows = run(plan, output, 1, fresh, lambda: world)
    finish(plan, rows, output, Path(json) if json else None, 3, world)


def prompts_in(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one per line.

    Raises:
        InvalidOptions: If it is not UTF-8 text.
    """
    from ..errors import InvalidOptions

    try:
        return tuple(filter(None, map(str.strip, path.read_text("utf-8").splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOptions(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def own_rates(text: str, known: Mapping[str, float]) -> dict[str, float]:
    """Known rates, with those of "plain_lora=1e-4,meta_warm=1e-3" in place of all known rates of these methods.

    Raises:
        InvalidOptions: If a method is unknown or a rate is not a positive number.
    """
    from ..errors import InvalidOptions
    from ..evaluation.methods.registry import method_named

    given: dict[str, float] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, _, rate = (part.strip() for part in pair.partition("="))
        method_named(name)
        try:
            given[name] = float(rate)
        except ValueError:
            given[name] = 0.0
        if not 0 < given[name] < math.inf:
            raise InvalidOptions(
                f"--rates contains {pair!r}; give positive numbers, such as plain_lora=1e-4,meta_warm=1e-3."
            )
    others = {key: rate for key, rate in known.items() if key.split("@")[0] not in given}
    return others | {f"{name}@1": rate for name, rate in given.items()}


def require_rates(methods: Sequence[str], known: Mapping[str, float]) -> None:
    """Refuse to compare methods at rates that were tuned for another model.

    Raises:
        InvalidOptions: If a method has no learning rate.
    """
    from ..errors import InvalidOptions
    from ..evaluation.methods.registry import method_named

    missing = [name for name in methods if method_named(name).trained and f"{name}@1" not in known]
    if missing:
        raise InvalidOptions(
            f"{', '.join(missing)}: no learning rate is known for this model, and the rates tuned on the small model "
            "would make the comparison unfair. Give a suitable rate for each: --rates plain_lora=1e-4,meta_warm=1e-3"
        )


def open_photo_folders(options: FolderOptions) -> PhotoFolders:
    """Load everything that a benchmark on your own photos needs.

    Raises:
        InvalidOptions: If the options contradict each other, or the prompt embedder cannot read prompts.
        UnreadableFile: If a model cannot be loaded.
    """
    from ..errors import InvalidOptions
    from ..evaluation.subjects.embedders import load_embedder
    from ..evaluation.subjects.folders import PhotoFolders
    from ..files.prior import load_prior
    from .loading import choose_device, load_base_model, picture_size_px

    options.check()
    device = choose_device(options.device)
    whose = load_embedder(options.embedder, device)
    what = whose if options.prompt_embedder is None else load_embedder(options.prompt_embedder, device)
    if not what.reads_prompts:
        raise InvalidOptions(
            f"{options.prompt_embedder or options.embedder} cannot read prompts. Give a CLIP or SigLIP folder with "
            "--prompt-embedder."
        )
    host = load_base_model(options.model, options.device, options.dtype, options.pipeline_config)
    prior = load_prior(options.prior)
    size = picture_size_px(host, options.model, options.size)
    return PhotoFolders(host, {prior.metadata.domain: prior}, options, size, whose, what)
