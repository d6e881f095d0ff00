"""A run of the benchmark from the command line: methods and rates, the run itself, its tables and report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..checks import optional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..evaluation.plan import BenchPlan, Unit
    from ..evaluation.rows import Row
    from ..evaluation.subjects.world import World


def named_methods(methods: str) -> tuple[str, ...]:
    """Methods from a comma-separated list; all of them if it is empty."""
    from ..evaluation.methods.registry import METHODS, method_named

    return tuple(method_named(name.strip()).name for name in methods.split(",")) if methods else tuple(METHODS)


def runnable(methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods that can run on this machine; a note names one that cannot."""
    from ..evaluation.core_lora import why_not_run
    from ..evaluation.methods.registry import CORE

    if CORE in methods and why_not_run():
        typer.echo(f"{CORE} is skipped: {why_not_run()}.", err=True)
        return tuple(name for name in methods if name != CORE)
    return methods


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated whole numbers.

    Raises:
        InvalidOptions: If they are not.
    """
    from ..errors import InvalidOptions

    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise InvalidOptions(f"--{option} is {text!r}; give numbers separated by commas, such as 1,4.") from error


def usual_and_tuned_rates() -> dict[str, float]:
    """Tuned learning rates; a method that is not tuned yet gets its usual rate, and a note says so."""
    from ..evaluation.methods.registry import METHODS, trained_methods
    from ..evaluation.tuning import RATES_FILE, load_rates

    tuned = load_rates() if RATES_FILE.exists() else {}
    untuned = [name for name in trained_methods() if f"{name}@1" not in tuned]
    if untuned:
        typer.echo(f"Not tuned yet, using the usual rates: {', '.join(untuned)}. Tune them with: bench tune", err=True)
    return {**{f"{name}@1": METHODS[name].usual_rate for name in untuned}, **tuned}


def run(
    plan: BenchPlan, folder: Path, processes: int, fresh: bool, make_bench: Callable[[], World] | None = None
) -> list[Row]:
    """Run what is missing of a plan with a progress bar, on the pocket world unless another world is given."""
    import os
    from dataclasses import replace

    from ..evaluation.runner import model_digest, pocket_bench, run_plan

    if fresh:
        for name in ("rows.csv", "plan.json"):
            (folder / name).unlink(missing_ok=True)
    plan = plan if make_bench or plan.models else replace(plan, models=model_digest())
    processes = processes or os.cpu_count() or 1
    total = plan.cpu_seconds()
    typer.echo(
        f"{folder.name}: about {total / 60:.0f} CPU minutes on an ordinary desktop core, {total / 60 / processes:.0f} "
        f"minutes with {processes} processes, less what {folder} already contains.",
        err=True,
    )
    bars: Any = optional("tqdm", "The progress bar")
    with bars.tqdm(desc=folder.name, total=round(total), unit="s", dynamic_ncols=True, file=sys.stderr) as bar:

        def show(done_s: float, unit: Unit | None) -> None:
            bar.set_postfix_str("" if unit is None else f"{unit.method}, {unit.photos} photos", refresh=False)
            bar.update(round(done_s) - bar.n)

        return run_plan(plan, folder, processes=processes, make_bench=make_bench or pocket_bench, on_unit=show)


def finish(
    plan: BenchPlan,
    rows: Sequence[Row],
    folder: Path,
    json: Path | None,
    pictures: int,
    world: World | None = None,
) -> None:
    """Print the tables, write the report and, if asked, the JSON."""
    from json import dumps

    from ..evaluation.report.costs import cost_table
    from ..evaluation.report.gallery import draw_strips
    from ..evaluation.report.html import json_fields, write_report
    from ..evaluation.report.summary import summarise
    from ..evaluation.report.tables import bar_table, best_points, best_table, table
    from ..evaluation.runner import pocket_bench
    from ..evaluation.tuning import load_steps
    from ..files.atomic import atomic_write

    # The user's own subjects are all there are; the pocket world has others, on which steps were chosen.
    steps = load_steps() if world is None else {}
    points, summary = best_points(rows, steps), summarise(rows, steps=steps)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(json, [dumps(json_fields(rows, summary, plan), indent=1, default=str).encode()])
    bench = world or pocket_bench()
    costs = cost_table(bench, sorted({row.method for row in rows}))
    strips = draw_strips(bench, plan, points, pictures) if pictures else []
    write_report(folder / "report.html", rows, points, summary, plan, command_line(), strips, costs)
    typer.echo(f"{table(best_table(points))}\n\n{table(bar_table(summary))}\n\nThe report: {folder / 'report.html'}")


def command_line() -> str:
    """The command as typed, for the record."""
    return " ".join(["python -m metalora_core", *sys.argv[1:]])
