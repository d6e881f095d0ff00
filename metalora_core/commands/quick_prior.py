"""``prior quick``: a prior from a folder of subjects, a folder of LoRA files, or both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, prior_hub
from .settings import Settings

if TYPE_CHECKING:
    from ..files.lora_files import FoundLoRAs
    from ..files.prior import Prior
    from ..hosts.diffusers import DiffusersHost
    from ..model.targets import Target
    from ..photos.subject_folders import SubjectFolder
    from ..photos.training_set import TrainingSet
    from ..provenance.permission import WithoutRecord
    from ..quick.left_out import LeftOutScores
    from ..quick.making import QuickSources
    from ..training.meta_options import MetaTrainingOptions
    from .permission import NotePrior

prior_app = typer.Typer(help="Make a prior from what you have, or share one.", no_args_is_help=True)
prior_app.command()(prior_hub.push)
prior_app.command()(prior_hub.pull)


@prior_app.command()
def quick(
    class_word: Annotated[str, typer.Option(help='What the subjects are, such as "person" or "mug".')],
    output: Annotated[Path, typer.Option(help="Prior file to write; the picture goes beside it.")],
    subjects: Annotated[
        Path | None, typer.Argument(help="Folder with one folder of photos per subject, 20 or more.")
    ] = None,
    loras: Annotated[
        str,
        typer.Option(
            help="Folder of ordinary LoRA files of such subjects for this model, 32 or more, by any trainer, of any "
            "rank. Alone they become the prior in seconds; with subjects they are its start."
        ),
    ] = "",
    license: Annotated[
        str,
        typer.Option(
            help="Licence or permission under which you use the photos or LoRA files, for the prior's record; needed "
            "for LoRA files."
        ),
    ] = "",
    left_out: Annotated[
        int,
        typer.Option(help="Subjects or LoRA files to keep aside, to measure the prior with; 0 for none.", min=0),
    ] = 2,
    model: options.Model = "pocket",
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 2000,
    batch: Annotated[int, typer.Option(help="Subjects per step.", min=1)] = 16,
    settings: Settings = [],  # noqa: B006
    seed: options.Seed = 0,
    size: options.Size = 0,
    pipeline_config: options.PipelineConfig = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    without_record: options.WithoutRecord = "require",
    json: options.Json = False,
) -> None:
    """Make a prior from a folder of subjects, a folder of LoRA files, or both, and measure it on left-out subjects.

    Ctrl-C stops it; run the same command again to resume.
    """
    from ..provenance.effort import Meter
    from ..quick.left_out import aside, photos_aside
    from ..quick.making import QuickSources, advice, lora_targets
    from ..training.meta_options import MetaTrainingOptions
    from .loading import POCKET, load_base_model, name_of, picture_size_px, require_output
    from .meta_train import encoded_subjects, read_subjects
    from .settings import with_settings
    from .terminal import remark

    chosen = MetaTrainingOptions(
        steps=steps, subjects_per_batch=batch, seed=seed, class_words=(class_word,), name=output.stem, license=license
    )
    (chosen := with_settings(chosen, settings)).check()
    _require_sources(subjects, loras, license)
    require_output(output, ".safetensors", model, loras, *([subjects] if subjects else []))
    folders = read_subjects(subjects, class_word, json) if subjects else []
    notes = _ask(folders, subjects, loras, class_word, model, without_record)
    host = load_base_model(model, device, dtype, pipeline_config)
    size_px, guidance = picture_size_px(host, model, size), 2.0 if model == POCKET else 1.0
    found = _read_loras(Path(loras), host, lora_targets(host, chosen), json) if loras else None
    (folders, other_folders), (found, other_loras) = aside(folders, found, left_out)
    data = encoded_subjects(folders, host, size_px, class_word, json) if folders else None
    sources = QuickSources(class_word, data, found, data.features if data else None)
    remark(advice(sources, len(other_folders) + len(other_loras)))

    meter = Meter(host.device)
    prior = _made(host, sources, chosen, output, name_of(model), json)
    effort = meter.read()
    for number, note in enumerate(notes):  # two sources are one training
        note(output, prior.sha256, {} if number else effort)
    photos = photos_aside(host, other_folders, other_loras, lora_targets(host, chosen), class_word, size_px, guidance)
    scores = _measured(host, prior, photos, guidance, seed, json)
    _report(prior, output, sources, scores, json)


def _require_sources(subjects: Path | None, loras: str, license: str) -> None:
    from ..errors import InvalidOptions
    from ..quick.making import require_license

    if subjects is None and not loras:
        raise InvalidOptions("There is nothing to make a prior of; give a folder of subjects, or --loras FOLDER.")
    if loras:
        require_license(license, "Say with --license under")


def _ask(
    folders: Sequence[SubjectFolder],
    subjects: Path | None,
    loras: str,
    class_word: str,
    model: str,
    rule: WithoutRecord,
) -> list[NotePrior]:
    """LoRA files show people as photos do, under the names of the files. Returns what notes the prior down."""
    from ..files.lora_files import lora_files
    from .loading import POCKET
    from .permission import ask_named, ask_subjects

    nobody = model == POCKET  # which draws nobody
    notes = [] if subjects is None else [ask_subjects(() if nobody else folders, subjects, rule)]
    if loras:
        named = [(path.stem, class_word) for path in lora_files(Path(loras))]
        notes.append(ask_named(() if nobody else named, Path(loras), rule))
    return notes


def _made(
    host: DiffusersHost, sources: QuickSources, chosen: MetaTrainingOptions, output: Path, base: str, quiet: bool
) -> Prior:
    import torch

    from ..files.prior import save_prior
    from ..quick.making import quick_prior
    from ..training.retries import last_good_saved
    from .loading import checkpoint_beside
    from .terminal import progress_bars

    features = torch.empty(0) if sources.photos is None else sources.photos

    def save(made: Prior) -> Prior:
        return save_prior(output, made.described(features, base))

    checkpoint = checkpoint_beside(output, "")
    with last_good_saved(output, save_prior), progress_bars(quiet, checkpoint=checkpoint) as bars:
        show = bars("making a prior")
        return quick_prior(host, sources, chosen, on_forecast=_tell, on_progress=show, checkpoint=checkpoint, save=save)


def _read_loras(folder: Path, host: DiffusersHost, targets: Sequence[Target], quiet: bool) -> FoundLoRAs:
    from ..files.lora_files import layer_names, read_loras
    from ..model.families import family_named
    from .terminal import counting_bar, remark

    family = family_named(host.family)
    names = layer_names(host.targets(), family.component if family else "transformer")
    with counting_bar("reading LoRA files", "file", quiet) as bar:
        found = read_loras(folder, names, targets, bar)
    remark(found.note)
    return found


def _tell(seconds: float) -> None:
    from ..quick.making import in_words
    from .terminal import remark

    remark(f"The training will take about {in_words(seconds)}. Ctrl-C stops it; the same command resumes.")


def _measured(
    host: DiffusersHost, prior: Prior, photos: Sequence[TrainingSet], guidance: float, seed: int, quiet: bool
) -> LeftOutScores | None:
    from ..quick.left_out import compare_on_left_out
    from .terminal import counting_bar

    if not photos:
        return None
    with counting_bar("measuring", "adaptation", quiet) as bar:
        return compare_on_left_out(host, prior, photos, guidance=guidance, seed=seed, on_subject=bar)


def _report(prior: Prior, output: Path, sources: QuickSources, scores: LeftOutScores | None, as_json: bool) -> None:
    from ..photos.pictures import save_picture
    from .terminal import answer

    subjects, loras = len(sources.subjects or ()), len(sources.loras.files if sources.loras else ())
    fields: dict[str, Any] = {"path": str(output), "bytes": output.stat().st_size, "sha256": prior.sha256}
    fields |= {"subjects": subjects, "loras": loras, "passed_over": sources.loras.passed_over if sources.loras else ()}
    text = f"{output}: prior of {subjects} subjects and {loras} LoRA files, {fields['bytes']:,} bytes"
    fields["left_out"] = scores.subjects if scores else 0
    if scores is not None:
        picture = output.with_suffix(".png")
        save_picture(scores.picture, picture)
        fields |= {"picture": str(picture), "steps": scores.steps, "gains": scores.gains}
        text += f"\n{scores.text}\nThe picture: {picture}"
    answer(fields, text, as_json)
