"""``python -m metalora_core bench``: compare Meta-LoRA with what people use now, and choose its settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .plan import BenchPlan, Unit
    from .rows import Row

bench_app = typer.Typer(
    help="Compare the methods on subjects that nothing was trained or tuned on.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

_OUTPUT = Path("output/bench")
Processes = Annotated[int, typer.Option(help="Working side by side, one thread each; 0 for one per core.", min=0)]
Output = Annotated[Path, typer.Option(help="Folder of rows and report; an interrupted run goes on there.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget the rows that the folder holds.")]
Domains = Annotated[Literal["both", "avatars", "products"], typer.Option(help="Whose subjects.")]


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="All methods and photos, 64 subjects a domain: hours.")] = False,
    test_seed: Annotated[int, typer.Option(help="Other test subjects for every number.", min=0)] = 0,
    subjects: Annotated[int, typer.Option(help="Of each domain; 0 for 16, or 64 with --full.", min=0)] = 0,
    json: Annotated[str, typer.Option(help="Also write rows and summary to this JSON file.")] = "",
    output: Output = _OUTPUT,
    processes: Processes = 0,
    domains: Domains = "both",
    methods: Annotated[str, typer.Option(help="Only these, by name, with commas between.")] = "",
    pictures: Annotated[int, typer.Option(help="Subjects of each domain to show in the report.", min=0)] = 3,
    fresh: Fresh = False,
) -> None:
    """Run the benchmark, print its tables, write ``report.html``."""
    if context.invoked_subcommand is not None:
        return
    from .plan import FULL, QUICK

    plan = _cut(FULL if full else QUICK, test_seed, subjects, domains, methods, _rates())
    folder = output / f"{'full' if full else 'quick'}-seed{test_seed}"
    rows = _run(plan, folder, processes, fresh)
    _finish(plan, rows, folder, Path(json) if json else None, pictures)


@bench_app.command()
def tune(
    methods: Annotated[str, typer.Option(help="By name, with commas between; empty for all.")] = "",
    photos: Annotated[str, typer.Option(help="Numbers of photos, with commas between.")] = "1",
    subjects: Annotated[int, typer.Option(help="Validation subjects of each domain.", min=1)] = 8,
    output: Output = _OUTPUT,
    processes: Processes = 0,
    fresh: Fresh = False,
) -> None:
    """Choose every method's learning rate on validation subjects and write tuned_rates.json."""
    from .methods import METHODS
    from .tuning import RATES_FILE, TuningOptions, judge_trials, save_rates, tuning_plan

    chosen = tuple(methods.split(",")) if methods else tuple(METHODS)
    options = TuningOptions(chosen, tuple(int(n) for n in photos.split(",")), subjects)
    trials = judge_trials(_run(tuning_plan(options), output / "tuning", processes, fresh), options)
    for key, tried in trials.items():
        for trial in tried:
            typer.echo(f"{key} rate {trial.rate:g}: combined error {trial.combined_error:.4f} at {trial.steps} steps")
    save_rates(trials, options, _command(), RATES_FILE)
    typer.echo(f"Written to {RATES_FILE}")


@bench_app.command()
def preset(
    subjects: Annotated[int, typer.Option(help="Validation subjects of each domain.", min=1)] = 16,
    output: Output = _OUTPUT,
    processes: Processes = 0,
    fresh: Fresh = False,
) -> None:
    """Choose the steps for each number of photos on validation subjects and write step_preset.json."""
    from .preset import PRESET_FILE, preset_plan, save_preset

    plan = preset_plan(_rates(), subjects)
    record = save_preset(plan, _run(plan, output / "preset", processes, fresh), _command())
    for photos, entry in record["photos"].items():
        typer.echo(f"{photos} photos: {entry['steps']} steps at rate {entry['learning_rate']:g}")
    typer.echo(f"Written to {PRESET_FILE}")


@bench_app.command()
def sampler(
    subjects: Annotated[int, typer.Option(help="Validation subjects of each domain.", min=1)] = 8,
    output: Output = _OUTPUT,
    processes: Processes = 0,
    fresh: Fresh = False,
) -> None:
    """Show on validation subjects how few sampling steps give the scores that many give."""
    from ..terminal import table
    from .methods import META_WARM, PLAIN
    from .plan import BenchPlan, Group
    from .tables import best_points, best_table

    for steps in (4, 6, 8, 12, 20):
        group = Group((PLAIN, META_WARM), (1,), (10, 50))
        plan = BenchPlan((group,), subjects, split="validation", sampling_steps=steps, rates=_rates())
        rows = _run(plan, output / f"sampler-{steps}", processes, fresh)
        typer.echo(f"\n{steps} sampling steps\n{table(best_table(best_points(rows)))}")


def _rates() -> dict[str, float]:
    """Tuned learning rates; a method that was not tuned yet gets its usual one, and a line says so."""
    from .methods import METHODS
    from .tuning import RATES_FILE, load_rates

    tuned = load_rates() if RATES_FILE.exists() else {}
    untuned = [name for name in METHODS if f"{name}@1" not in tuned]
    if untuned:
        typer.echo(f"Not tuned yet, usual rates taken: {', '.join(untuned)}. Tune them with: bench tune", err=True)
    return {**{f"{name}@1": METHODS[name].usual_rate for name in untuned}, **tuned}


def _cut(plan: BenchPlan, seed: int, subjects: int, domains: str, methods: str, rates: dict[str, float]) -> BenchPlan:
    from dataclasses import replace

    from ..errors import InvalidOptions
    from .methods import method_named

    wanted = tuple(method_named(name).name for name in methods.split(",")) if methods else ()
    groups = [replace(g, methods=tuple(m for m in g.methods if not wanted or m in wanted)) for g in plan.groups]
    kept = tuple(group for group in groups if group.methods)
    if not kept:
        raise InvalidOptions(f"This benchmark runs none of {methods}; leave --methods out, or add --full.")
    chosen = tuple(domain for domain in plan.domains if domains in ("both", domain))
    return replace(
        plan, groups=kept, subjects=subjects or plan.subjects, test_seed=seed, domains=chosen, rates=rates
    )  # fmt: skip


def _run(plan: BenchPlan, folder: Path, processes: int, fresh: bool) -> list[Row]:
    import os
    from dataclasses import replace

    from tqdm import tqdm

    from .runner import model_digest, run_plan

    if fresh:
        for name in ("rows.csv", "plan.json"):
            (folder / name).unlink(missing_ok=True)
    plan = replace(plan, models=model_digest())
    with tqdm(desc=folder.name, unit="unit", dynamic_ncols=True, file=sys.stderr) as bar:

        def show(done: int, total: int, unit: Unit | None) -> None:
            bar.total = total
            bar.set_postfix_str("" if unit is None else f"{unit.method}, {unit.photos} photos", refresh=False)
            bar.update(done - bar.n)

        return run_plan(plan, folder, processes=processes or os.cpu_count() or 1, on_unit=show)


def _finish(plan: BenchPlan, rows: Sequence[Row], folder: Path, json: Path | None, pictures: int) -> None:
    from json import dumps

    from ..files.atomic import atomic_write
    from ..terminal import table
    from .costs import cost_table
    from .gallery import draw_strips
    from .report import json_fields, write_report
    from .runner import pocket_bench
    from .summary import summarise
    from .tables import bar_table, best_points, best_table

    points, summary = best_points(rows), summarise(rows)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(json, [dumps(json_fields(rows, summary, plan), indent=1, default=str).encode()])
    bench = pocket_bench()
    costs = cost_table(bench, sorted({row.method for row in rows}))
    strips = draw_strips(bench, plan, points, pictures) if pictures else []
    write_report(folder / "report.html", rows, points, summary, plan, _command(), strips, costs)
    typer.echo(f"{table(best_table(points))}\n\n{table(bar_table(summary))}\n\nThe report: {folder / 'report.html'}")


def _command() -> str:
    return " ".join(["python -m metalora_core", *sys.argv[1:]])
