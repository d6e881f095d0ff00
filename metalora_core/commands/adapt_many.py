"""``adapt-many``: learn every subject of a folder, one identity file each."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import options
from .settings import Settings

if TYPE_CHECKING:
    from ..files.prior import Prior
    from ..many.folder import FolderRun
    from ..many.manifest import ManifestRow

_POCKET_TOGETHER = 16
"""Of the small model's subjects in one pass: more gain nothing on a CPU."""


def adapt_many(
    folder: Annotated[Path, typer.Argument(help="Folder with one folder of photos per subject.", file_okay=False)],
    class_word: Annotated[str, typer.Option(help='What the subjects are, such as "person" or "mug".')],
    output: Annotated[Path, typer.Option(help="Folder for the identity files, the manifest and the contact sheet.")],
    trigger: options.Trigger = "ohwx",
    prior: options.LearnFrom = "",
    model: options.Model = "pocket",
    side_by_side: Annotated[
        int,
        typer.Option(
            help="Most subjects in one pass; 0 for 16 with the pocket model and 1 with others. Subjects that do not "
            "fit into memory together are learned in smaller groups.",
            min=0,
        ),
    ] = 0,
    sheet: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(help="Draw a contact sheet of the first 32 results. auto does so with the pocket model only."),
    ] = "auto",
    steps: options.AdaptSteps = 0,
    learning_rate: options.LearningRate = "",
    seed: options.Seed = 0,
    size: options.Size = 0,
    mirror: options.Mirror = "auto",
    crop: options.Crop = 0,
    preserve: options.Preserve = 0.0,
    settings: Settings = [],  # noqa: B006  (typer reads it and never changes it)
    held_out: options.HeldOut = 0,
    pipeline_config: options.PipelineConfig = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    compiled: options.Compiled = False,
    swap_blocks: options.SwapBlocks = False,
    fp8_blocks: options.Fp8Blocks = False,
    without_record: options.WithoutRecord = "require",
    skip_bad: options.SkipBad = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Learn every subject of a folder: an identity file each, a manifest, and a contact sheet.

    A subject that fails stops no other; the manifest says why. Ctrl-C stops the run; run the same command again to
    resume: what was learned from the same photos with the same settings is not learned again.
    """
    from ..many.folder import FolderPlan, FolderRun
    from ..training.adaptation_options import AdaptationOptions
    from . import loading as base
    from .adapt import chosen_options, require_words
    from .meta_train import answer_report, look
    from .permission import saver_for_each
    from .settings import with_settings
    from .terminal import remark

    require_words(trigger, class_word)
    asked = AdaptationOptions(seed=seed, crop_px=crop, preservation_weight=preserve)
    with_settings(asked, settings).check()
    base.require_drawable(size)
    base.require_folder(output, folder)
    report = look(folder, class_word, json, trigger)
    if dry_run:
        return answer_report(report, json)
    for line in report.lines:
        remark(line)
    prior_for = cache(partial(base.prior_to_learn_with, prior, model))
    saver = saver_for_each(folder, without_record, nobody=model == base.POCKET)
    blocks = base.block_place(swap_blocks=swap_blocks, fp8_blocks=fp8_blocks)
    host = base.load_base_model(model, device, dtype, pipeline_config, compiled=compiled, blocks=blocks)

    def options_for(used: Prior | None, photos: int, word: str) -> AdaptationOptions:
        return chosen_options(host, used, photos, word, asked, steps, mirror, learning_rate, settings)

    together = side_by_side or (_POCKET_TOGETHER if model == base.POCKET else 1)
    size_px = base.picture_size_px(host, model, size)
    plan = FolderPlan(folder, output, class_word, trigger, size_px, prior_for, options_for, saver, held_out, together)
    good = {one.path.name: one.found.files for one in report.subjects} if skip_bad else {}
    run = FolderRun(host, plan, on_failure=_failed, photos=good)
    rows = _learned(run, json)
    draws = sheet == "on" or (sheet == "auto" and model == base.POCKET)
    _report(rows, output, _sheet(run, 2.0 if model == base.POCKET else 1.0, json) if draws else "", json)


def _failed(name: str, reason: str) -> None:
    from .terminal import remark

    remark(f"{name} was not learned: {reason}")


def _learned(run: FolderRun, quiet: bool) -> list[ManifestRow]:
    import time

    from ..training.progress import MetaTrainingProgress
    from .terminal import progress_bars

    began, manifest = time.monotonic(), run.plan.output / "manifest.csv"
    with progress_bars(quiet, checkpoint=manifest) as bars:
        show = bars("learning", "subject")
        run.on_subject = lambda done, count, loss: show(
            MetaTrainingProgress(done, count, loss, time.monotonic() - began)
        )
        return run.learn()


def _sheet(run: FolderRun, guidance: float, quiet: bool) -> str:
    from ..many.sheet import SheetSubject, results_sheet
    from ..photos.pictures import save_picture
    from .terminal import counting_bar

    plan, path = run.plan, run.plan.output / "sheet.png"
    shown = [
        SheetSubject(row.subject, plan.source / row.subject, plan.output / row.file, plan.prior_for(row.class_word))
        for row in run.sorted_rows
        if row.file
    ]
    if not shown:
        return ""
    with counting_bar("drawing", "picture", quiet) as bar:
        save_picture(results_sheet(run.host, shown, plan.size_px, guidance, bar), path)
    return str(path)


def _report(rows: list[ManifestRow], output: Path, sheet: str, as_json: bool) -> None:
    from ..many.manifest import write_manifest
    from .terminal import answer, remark

    if missing := write_manifest(output, rows, parquet=True):
        remark(missing)
    counts = {state: sum(row.state == state for row in rows) for state in ("learned", "known", "failed")}
    manifest, seconds = output / "manifest.csv", round(sum(row.seconds for row in rows if row.state == "learned"), 1)
    fields: dict[str, Any] = {"manifest": str(manifest), "sheet": sheet, "seconds": seconds, **counts}
    fields["failures"] = {row.subject: row.failure for row in rows if row.failure}
    text = f"{manifest}: {counts['learned']} subjects learned in {seconds} s, {counts['known']} known from before, "
    text += f"{counts['failed']} failed{' (the manifest says why)' if counts['failed'] else ''}"
    answer(fields, f"{text}\n{sheet}".rstrip(), as_json)
