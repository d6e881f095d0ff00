"""``meta-train``: make a prior from many subjects."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import options

if TYPE_CHECKING:
    from ..files.prior import Prior
    from ..model.host import Host
    from ..photos.folder_report import FolderReport
    from ..photos.subject_folders import FolderSubjects, SubjectFolder
from .settings import Settings, with_settings


def meta_train(
    subjects: Annotated[Path, typer.Argument(help="Folder with one folder of photos per subject.")],
    class_word: Annotated[str, typer.Option(help='What the subjects are, such as "person" or "mug".')],
    output: Annotated[Path, typer.Option(help="Prior file to write.")],
    model: options.Model = "pocket",
    domain: Annotated[str, typer.Option(help="Name of the domain; the class word if empty.")] = "",
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 2000,
    batch: Annotated[int, typer.Option(help="Subjects per step.", min=1)] = 16,
    r_meta: Annotated[int, typer.Option(help="Rank shared by all subjects; a high one pays off.", min=1)] = 64,
    r_mid: Annotated[int, typer.Option(help="Rank of each identity.", min=1)] = 8,
    warm_start: Annotated[
        Literal["none", "mean", "learned"],
        typer.Option(help="Where identities start: at zero, at the mean, or at a learned identity."),
    ] = "mean",
    inner_steps: Annotated[
        int,
        typer.Option(help="Adaptation steps inside each training step (episodes); 0 trains everything jointly.", min=0),
    ] = 0,
    caption_dropout: Annotated[
        float, typer.Option(help="Share of captions that are left empty, for guidance.", min=0, max=0.99)
    ] = 0.0,
    include: Annotated[list[str], typer.Option(help='Only layers that match, such as "*attn*"; may be repeated.')] = [],  # noqa: B006
    exclude: Annotated[list[str], typer.Option(help="Leave out layers that match; may be repeated.")] = [],  # noqa: B006
    bank_folder: Annotated[
        str, typer.Option(help="Keep the per-subject factors in files in this folder, if they do not fit into memory.")
    ] = "",
    settings: Settings = [],  # noqa: B006
    earlier: Annotated[str, typer.Option(help="Prior file to start from; its ranks must be the same.")] = "",
    seed: options.Seed = 0,
    size: options.Size = 0,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint file; empty for OUTPUT.checkpoint.safetensors.")] = "",
    pipeline_config: options.PipelineConfig = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    without_record: options.WithoutRecord = "require",
    skip_bad: options.SkipBad = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a prior for a domain on folders of photos. Ctrl-C stops it; run the same command again to resume.

    With several cards or machines: torchrun --nproc-per-node N -m metalora_core meta-train ...
    """
    from ..files.prior import load_prior, save_prior
    from ..meta_training import meta_train as learn
    from ..provenance.effort import Meter
    from ..training.meta_options import MetaTrainingOptions
    from ..training.ranks import joined
    from ..training.retries import last_good_saved
    from .loading import POCKET, checkpoint_beside, load_base_model, name_of, picture_size_px, require_output
    from .permission import ask_subjects
    from .terminal import progress_bars

    chosen = MetaTrainingOptions(
        steps=steps, subjects_per_batch=batch, r_meta=r_meta, r_mid=r_mid, warm_start=warm_start,
        inner_steps=inner_steps, seed=seed, caption_dropout=caption_dropout, include=tuple(include),
        exclude=tuple(exclude), bank_folder=Path(bank_folder) if bank_folder else None, class_words=(class_word,),
        name=output.stem,
    )  # fmt: skip
    (chosen := with_settings(chosen, settings)).check()
    require_output(output, ".safetensors", earlier, model)
    checkpoint_path, start = checkpoint_beside(output, checkpoint), load_prior(Path(earlier)) if earlier else None
    ranks, device = joined(device)
    quiet = json or not ranks.first
    report = look(subjects, class_word, quiet)
    if dry_run:
        return answer_report(report, json) if ranks.first else None
    found = usable(report, skip_bad=skip_bad, says=ranks.first)
    asked = found if model != POCKET and ranks.first else ()  # the pocket model draws nobody
    note = ask_subjects(asked, subjects, without_record)
    host = load_base_model(model, device, dtype, pipeline_config)
    data = encoded_subjects(found, host, picture_size_px(host, model, size), domain or class_word, quiet)
    chosen = replace(chosen, subjects_per_batch=max(min(batch, len(data) // ranks.count), 1))
    kept, meter = last_good_saved(output, save_prior) if ranks.first else nullcontext(), Meter(host.device, ranks.count)
    with kept, progress_bars(quiet, checkpoint=checkpoint_path) as bars:
        show, save = bars(f"meta-training on {len(data)} subjects"), partial(_save, output, data, name_of(model))
        prior = learn(host, data, chosen, earlier=start, on_progress=show, checkpoint=checkpoint_path, save=save)
    if ranks.first:
        note(output, prior.sha256, meter.read())
        _report(prior, output, len(data), steps, json)


def look(folder: Path, class_word: str, quiet: bool, trigger: str = "") -> FolderReport:
    """Read every photo once before the model is loaded, so that a broken one is reported at the start."""
    from ..photos.folder_report import look_at_folder
    from .terminal import counting_bar

    with counting_bar("reading photos", "photo", quiet) as bar:
        return look_at_folder(folder, class_word, trigger, on_photos=bar)


def usable(report: FolderReport, *, skip_bad: bool = False, says: bool = True) -> list[SubjectFolder]:
    """Say what was found, unless another process does, and give the subjects that can be used.

    Raises:
        UnusableReferences: If something cannot be used and is not to be skipped, or nothing is left.
    """
    from ..errors import UnusableReferences
    from .terminal import remark

    if not skip_bad:
        report.require_whole("Repair or remove them, or leave them out with --skip-bad.")
    for line in report.lines if says else ():
        remark(line)
    if not report.subjects:
        raise UnusableReferences("No subject is left that can be used.")
    return report.subjects


def answer_report(report: FolderReport, as_json: bool) -> None:
    """Print what was found as the answer of a dry run."""
    from dataclasses import asdict

    from .terminal import answer

    fields = {**asdict(report), "subjects": [one.path.name for one in report.subjects]}
    answer(fields, "\n".join(report.lines), as_json)


def read_subjects(folder: Path, class_word: str, quiet: bool) -> list[SubjectFolder]:
    """As `look`, and `usable`; nothing is skipped."""
    report = look(folder, class_word, quiet)
    report.require_whole()
    return usable(report)


def encoded_subjects(found: list[SubjectFolder], host: Host, size_px: int, domain: str, quiet: bool) -> FolderSubjects:
    """Encode the photos once, with a bar."""
    from ..photos.subject_folders import FolderSubjects
    from .terminal import counting_bar

    with counting_bar("encoding photos", "photo", quiet) as bar:
        return FolderSubjects(found, host, size_px, domain, bar)


def _save(output: Path, subjects: FolderSubjects, base_name: str, prior: Prior) -> Prior:
    from ..files.prior import save_prior

    return save_prior(output, prior.described(subjects.features, base_name))


def _report(prior: Prior, output: Path, subjects: int, steps: int, as_json: bool) -> None:
    from .terminal import answer

    fields = {"path": str(output), "bytes": output.stat().st_size, "sha256": prior.sha256}
    fields |= {"subjects": subjects, "steps": steps}
    text = f"{output}: prior of {subjects} subjects, {steps} steps, {fields['bytes']:,} bytes"
    answer(fields, text, as_json)
