"""``adapt``: learn a subject from photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import options
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..files.identity import Identity
    from ..files.prior import Prior
    from ..photos.reading import ReadPhotos
    from ..provenance.permission import WithoutRecord
    from ..training.adaptation_options import AdaptationOptions, AdaptationResult


def adapt(
    photos: Annotated[list[Path], typer.Argument(help="One to eight photos, or a folder of them.")],
    class_word: Annotated[str, typer.Option(help='What it is, such as "person" or "mug".')],
    output: Annotated[Path, typer.Option(help="Identity file to write.")],
    trigger: Annotated[str, typer.Option(help="Rare word to call the subject by in prompts.")] = "ohwx",
    prior: Annotated[
        str,
        typer.Option(
            help="A prior file made for the model; empty for none, and for the pocket model the one of the class word "
            '("avatars" or "products"). "none" learns without one. With one, fewer steps are needed.'
        ),
    ] = "",
    model: options.Model = "pocket",
    steps: Annotated[int, typer.Option(help="Training steps; 0 for the preset.", min=0)] = 0,
    learning_rate: Annotated[
        str,
        typer.Option(
            help="Learning rate of all that is trained. auto finds it by a few trial steps on the photos; empty takes "
            "the preset, and auto for models that have none."
        ),
    ] = "",
    seed: options.Seed = 0,
    size: options.Size = 0,
    mirror: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            help="Also train on mirrored photos. Turn it off for anything with a left and a right. auto follows the "
            "preset, and is off for objects with a handle."
        ),
    ] = "auto",
    crop: Annotated[
        int, typer.Option(help="Random crop: latent pixels by which the crop window may move; 0 for none.", min=0)
    ] = 0,
    preserve: Annotated[
        float,
        typer.Option(help="Prior preservation: weight of the class's own pictures in the loss; 0 for none.", min=0),
    ] = 0.0,
    settings: Settings = [],  # noqa: B006  (typer reads it and never changes it)
    held_out: Annotated[
        int, typer.Option(help="Photos held out for early stopping; needs two photos or more.", min=0)
    ] = 0,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint file; empty for OUTPUT.checkpoint.safetensors.")] = "",
    pipeline_config: options.PipelineConfig = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the passes: minutes before the first step, then faster steps.")
    ] = False,
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
    from ..photos.training_set import chosen_flip
    from ..training.adaptation_options import AdaptationOptions
    from ..training.personal_prior import usual_options
    from ..training.retries import last_good_saved
    from . import loading as base
    from .settings import with_settings
    from .terminal import answer, progress_bars

    _require_words(trigger, class_word)
    asked = AdaptationOptions(seed=seed, crop_px=crop, preservation_weight=preserve)
    asked = replace(asked, steps=steps or asked.steps)
    with_settings(asked, settings).check()
    base.require_output(output, ".safetensors", prior, model)
    checkpoint_path = base.checkpoint_beside(output, checkpoint)
    used_prior = base.prior_to_learn_with(prior, model, class_word)
    read = _read(photos, class_word, trigger, size, used_prior, held_out)
    save = _permitted(read, consent, subject, without_record, nobody=model == base.POCKET)
    blocks = base.block_place(swap_blocks=swap_blocks, fp8_blocks=fp8_blocks)
    host = base.load_base_model(model, device, dtype, pipeline_config, compiled=compiled, blocks=blocks)
    training, validation = split_training_set(read.training_set(base.picture_size_px(host, model, size)), held_out)
    preset = usual_options(host, used_prior, len(training.images), asked)
    preset = replace(preset, steps=steps or preset.steps, flip=chosen_flip(mirror, preset.flip, class_word))
    preset = with_rate(preset, learning_rate, settings)
    with last_good_saved(output, save), progress_bars(json, checkpoint=checkpoint_path) as bars:
        result = learn(
            host,
            used_prior,
            training,
            with_settings(preset, settings),
            on_progress=bars(f"learning {class_word}"),
            checkpoint=checkpoint_path,
            validation=validation,
            save=lambda result: save(output, result.identity),
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
    read: ReadPhotos, consent: str, subject: str, rule: WithoutRecord, *, nobody: bool
) -> Callable[[Path, Identity], str]:
    """Ask whether the photos may be learned from; returns what saves the identity, tied to its record if it has one."""
    from ..files.identity import save_identity
    from ..provenance.consent import Purpose
    from ..provenance.consent_store import read_record
    from ..provenance.permission import Use, tied
    from .permission import ask, permissions_near

    record = read_record(consent) if consent else None
    hashes = [photo.sha256 for photo in read.photos]
    use = Use(Purpose.TRAINING, read.class_word, hashes, record and record.id, nobody, subject)
    ask(use, Path(consent or "photos"), rule)
    if record is None:
        return save_identity
    own = permissions_near(Path(consent)).installation
    return lambda path, identity: save_identity(path, tied(identity, record.id, own))


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


def _require_words(trigger: str, class_word: str) -> None:
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
