"""``adapt``: learn a subject from photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .settings import Settings, with_settings

if TYPE_CHECKING:
    from ..files.prior import Prior
    from ..model.host import Host
    from ..photos.reading import ReadPhotos
    from ..provenance.consent import ConsentRecord
    from ..provenance.permission import WithoutRecord
    from ..training.adaptation_options import AdaptationOptions, AdaptationResult
    from .permission import Saver


def adapt(
    photos: Annotated[list[Path], typer.Argument(help="One to eight photos, or a folder of them.")],
    class_word: Annotated[str, typer.Option(help='What it is, such as "person" or "mug".')],
    output: Annotated[Path, typer.Option(help="Identity file to write.")],
    trigger: options.Trigger = "ohwx",
    prior: options.LearnFrom = "",
    model: options.Model = "pocket",
    steps: options.AdaptSteps = 0,
    learning_rate: options.LearningRate = "",
    seed: options.Seed = 0,
    size: options.Size = 0,
    mirror: options.Mirror = "auto",
    crop: options.Crop = 0,
    preserve: options.Preserve = 0.0,
    settings: Settings = [],  # noqa: B006  (typer reads it and never changes it)
    held_out: options.HeldOut = 0,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint file; empty for OUTPUT.checkpoint.safetensors.")] = "",
    pipeline_config: options.PipelineConfig = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    compiled: options.Compiled = False,
    swap_blocks: options.SwapBlocks = False,
    fp8_blocks: options.Fp8Blocks = False,
    consent: Annotated[str, typer.Option(help="Consent record of the photos: a .consent.json file.")] = "",
    subject: Annotated[
        str, typer.Option(help="Who is in the photos; needed if the record covers all photos of a subject.")
    ] = "",
    without_record: options.WithoutRecord = "require",
    json: options.Json = False,
) -> None:
    """Learn a subject and write its identity file.

    A text beside a photo, with the same name and .txt, .caption or .json, is its caption; it should contain the
    trigger. Ctrl-C stops after the running step; run the same command again to resume.
    """
    from dataclasses import replace

    from ..adaptation import adapt as learn
    from ..photos.reading import split_training_set
    from ..provenance.consent_store import read_record
    from ..provenance.effort import Meter
    from ..training.adaptation_options import AdaptationOptions
    from ..training.retries import last_good_saved
    from . import loading as base
    from .terminal import answer, progress_bars

    require_words(trigger, class_word)
    asked = AdaptationOptions(seed=seed, crop_px=crop, preservation_weight=preserve)
    with_settings(replace(asked, steps=steps or asked.steps), settings).check()
    base.require_output(output, ".safetensors", prior, model)
    checkpoint_path = base.checkpoint_beside(output, checkpoint)
    used_prior = base.prior_to_learn_with(prior, model, class_word)
    record = read_record(consent) if consent else None
    read = _read(photos, class_word, trigger, size, used_prior, held_out)
    read = read.known_by([photo.sha256 for photo in record.photos] if record else ())
    save = _permitted(read, record, subject, Path(consent or output), without_record, nobody=model == base.POCKET)
    blocks = base.block_place(swap_blocks=swap_blocks, fp8_blocks=fp8_blocks)
    host = base.load_base_model(model, device, dtype, pipeline_config, compiled=compiled, blocks=blocks)
    training, validation = split_training_set(read.training_set(base.picture_size_px(host, model, size)), held_out)
    chosen = chosen_options(
        host, used_prior, len(training.images), class_word, asked, steps, mirror, learning_rate, settings
    )
    meter = Meter(host.device)
    with last_good_saved(output, save), progress_bars(json, checkpoint=checkpoint_path) as bars:
        result = learn(
            host,
            used_prior,
            training,
            chosen,
            on_progress=bars(f"learning {class_word}"),
            checkpoint=checkpoint_path,
            validation=validation,
            save=lambda result: save(output, result.identity, meter.read()),
        )
    answer(fields := _fields(result, output), _text(fields), json)


def _read(
    photos: list[Path], class_word: str, trigger: str, size: int, prior: Prior | None, held_out: int
) -> ReadPhotos:
    """Read and assess the photos before the model is loaded, which may take minutes."""
    from ..photos.reading import read_photos, require_left
    from .loading import USUAL_PX, require_drawable
    from .terminal import remark

    require_drawable(size)
    read = read_photos(photos, class_word, trigger)
    require_left(len(read.photos), held_out)
    for note in read.remarks(size or (prior and prior.metadata.picture_px) or USUAL_PX, prior):
        remark(note)
    return read


def _permitted(
    read: ReadPhotos, record: ConsentRecord | None, subject: str, near: Path, rule: WithoutRecord, *, nobody: bool
) -> Saver:
    """Ask whether the photos may be learned from; returns what saves the identity, tied to its record if it has one."""
    from ..provenance.consent import Purpose
    from ..provenance.permission import Use
    from .permission import ask

    hashes = [photo.sha256 for photo in read.photos]
    use = Use(Purpose.TRAINING, read.class_word, hashes, record and record.id, nobody, subject)
    return ask(use, near, rule)


def chosen_options(
    host: Host,
    prior: Prior | None,
    photos: int,
    class_word: str,
    asked: AdaptationOptions,
    steps: int,
    mirror: str,
    learning_rate: str,
    settings: list[str],
) -> AdaptationOptions:
    """The preset for a model, a prior and a number of photos, with what was asked for instead; steps 0 for its own."""
    from dataclasses import replace

    from ..photos.training_set import chosen_flip
    from ..training.personal_prior import usual_options

    preset = usual_options(host, prior, photos, replace(asked, steps=steps or asked.steps))
    preset = replace(preset, steps=steps or preset.steps, flip=chosen_flip(mirror, preset.flip, class_word))
    return with_settings(with_rate(preset, learning_rate, settings), settings)


def with_rate(preset: AdaptationOptions, asked: str, settings: list[str]) -> AdaptationOptions:
    """The preset at the rate that was asked for; rates of mid and up that are set leave nothing to find."""
    from dataclasses import replace

    from ..errors import InvalidOptions

    if not asked:
        own = any(text.startswith(("mid_learning_rate=", "up_learning_rate=")) for text in settings)
        return replace(preset, learning_rate=0.0) if own else preset
    try:
        return replace(preset, learning_rate="auto" if asked == "auto" else float(asked))
    except ValueError as error:
        raise InvalidOptions(f"--learning-rate is {asked!r}; give a number, such as 1e-3, or auto.") from error


def require_words(trigger: str, class_word: str) -> None:
    """Raise ``InvalidOptions`` with everything that is wrong with a trigger and a class word."""
    from ..errors import InvalidOptions
    from ..photos.captions import word_findings

    if wrong := word_findings(trigger, class_word):
        raise InvalidOptions(f"Trigger and class word are not usable: {'; '.join(wrong)}.")


def _fields(result: AdaptationResult, output: Path) -> dict[str, Any]:
    from ..training.adaptation_state import risen_note

    return {
        "path": str(output),
        "bytes": output.stat().st_size,
        "steps": len(result.losses),
        "seconds": round(result.seconds, 2),
        "loss": result.losses[-1] if result.losses else None,
        "rise": risen_note(result.identity.metadata),
        "mirrored": result.identity.metadata.settings["flip"],
        "stop_reason": result.stop_reason,
        "notes": list(result.notes),
        "memory": result.memory,
        "parameters": result.identity.numbers,
        "without_prior": result.identity.metadata.own_prior is not None,
    }


def _text(fields: dict[str, Any]) -> str:
    from ..training.personal_prior import NO_PRIOR_NOTE

    return (
        f"{fields['path']}: learned in {fields['steps']} steps, {fields['seconds']} "
        f"s{', with mirrored photos' if fields['mirrored'] else ''} ({fields['parameters']:,} parameters, "
        f"{fields['bytes']:,} bytes; stopped: {fields['stop_reason']})"
        f"{f'. {NO_PRIOR_NOTE}' if fields['without_prior'] else ''}"
        f"{fields['rise'] and '. ' + fields['rise']}"
        f"{''.join(f' {note}' for note in fields['notes'])}"
    )
