"""``python -m metalora_core bench``: compare Meta-LoRA with other methods, and choose their settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .bench_folder import folder
from .bench_run import command_line, finish, named_methods, numbers, run, runnable, usual_and_tuned_rates

if TYPE_CHECKING:
    from ..evaluation.plan import BenchPlan

bench_app = typer.Typer(
    help="Compare the methods on subjects that nothing was trained or tuned on.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

bench_app.command("folder")(folder)

_OUTPUT = Path("output/bench")
Processes = Annotated[int, typer.Option(help="Parallel processes, one thread each; 0 for one per core.", min=0)]
Output = Annotated[Path, typer.Option(help="Folder for rows and report; an interrupted run resumes there.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over: delete the rows in the folder.")]
Domains = Annotated[Literal["both", "avatars", "products"], typer.Option(help="Domains of the subjects.")]


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="All methods, 64 subjects per domain: over an hour.")] = False,
    test_seed: Annotated[int, typer.Option(help="Each number gives other test subjects.", min=0)] = 0,
    subjects: Annotated[int, typer.Option(help="Subjects per domain; 0 for 16, or 64 with --full.", min=0)] = 0,
    json: Annotated[str, typer.Option(help="Also write rows and summary to this JSON file.")] = "",
    output: Output = _OUTPUT,
    processes: Processes = 0,
    domains: Domains = "both",
    methods: Annotated[str, typer.Option(help="Only these methods, by name, separated by commas.")] = "",
    pictures: Annotated[int, typer.Option(help="Subjects per domain to show in the report.", min=0)] = 3,
    fresh: Fresh = False,
) -> None:
    """Run the benchmark, print its tables, write ``report.html``."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import replace

    from ..evaluation.plan import FULL, QUICK
    from ..evaluation.runner import model_digest

    shipped = replace(FULL if full else QUICK, models=model_digest())
    plan = _cut(shipped, test_seed, subjects, domains, methods, usual_and_tuned_rates())
    folder = output / f"{'full' if full else 'quick'}-seed{test_seed}"
    rows = run(plan, folder, processes, fresh)
    finish(plan, rows, folder, Path(json) if json else None, pictures)


@bench_app.command()
def tune(
    methods: Annotated[str, typer.Option(help="Methods by name, separated by commas; empty for all.")] = "",
    photos: Annotated[str, typer.Option(help="Numbers of photos, separated by commas.")] = "1",
    subjects: Annotated[int, typer.Option(help="Validation subjects per domain.", min=1)] = 8,
    output: Output = _OUTPUT,
    processes: Processes = 0,
    fresh: Fresh = False,
) -> None:
    """Choose each method's learning rate and step on validation subjects and write them to tuned_rates.json."""
    from ..evaluation.methods.registry import trained_methods
    from ..evaluation.runner import model_digest
    from ..evaluation.tuning import RATES_FILE, TuningOptions, at_the_edge, judge_trials, save_rates, tuning_plan

    chosen = named_methods(methods) if methods else trained_methods()
    options = TuningOptions(runnable(chosen), numbers(photos, "photos"), subjects)
    trials = judge_trials(run(tuning_plan(options), output / "tuning", processes, fresh), options)
    for key, tried in trials.items():
        for trial in tried:
            where = ", ".join(
                f"{d} {area:.3f}, best balance at {trial.steps[d]} steps" for d, area in trial.by_domain.items()
            )
            typer.echo(f"{key} rate {trial.rate:g}: hypervolume {trial.hypervolume:.3f} ({where})")
    save_rates(trials, options, command_line(), RATES_FILE, model_digest())
    for key in at_the_edge(trials):
        typer.echo(
            f"{key}: the best rate is the highest or lowest one tried; there may be a better one beyond it.", err=True
        )
    typer.echo(f"Written to {RATES_FILE}")


@bench_app.command()
def preset(
    subjects: Annotated[int, typer.Option(help="Validation subjects per domain.", min=1)] = 16,
    output: Output = _OUTPUT,
    processes: Processes = 0,
    fresh: Fresh = False,
) -> None:
    """Choose the steps for each number of photos on validation subjects and write step_preset.json."""
    from ..evaluation.preset import preset_plan, save_preset
    from ..pocket import load_pocket_prior
    from ..training.step_preset import PRESET_FILE

    plan = preset_plan(usual_and_tuned_rates(), subjects)
    base = load_pocket_prior("avatars").metadata.base_fingerprint
    record = save_preset(plan, run(plan, output / "preset", processes, fresh), command_line(), base)
    for photos, entry in record["photos"].items():
        typer.echo(f"{photos} photos: {entry['steps']} steps at rate {entry['learning_rate']:g}")
    typer.echo(f"Written to {PRESET_FILE}")


@bench_app.command()
def sampler(
    subjects: Annotated[int, typer.Option(help="Validation subjects per domain.", min=1)] = 8,
    output: Output = _OUTPUT,
    processes: Processes = 0,
    fresh: Fresh = False,
) -> None:
    """Show on validation subjects how few sampling steps give the same scores as many."""
    from ..evaluation.methods.registry import BASE, META_WARM, PLAIN
    from ..evaluation.plan import BenchPlan, Group
    from ..evaluation.report.tables import best_points, best_table, table

    for steps in (4, 6, 8, 12, 20):
        groups = Group((BASE,), (1,), (0,)), Group((PLAIN, META_WARM), (1,), (10, 50))
        plan = BenchPlan(groups, subjects, split="validation", sampling_steps=steps, rates=usual_and_tuned_rates())
        rows = run(plan, output / f"sampler-{steps}", processes, fresh)
        typer.echo(f"\n{steps} sampling steps\n{table(best_table(best_points(rows)))}")


def _cut(plan: BenchPlan, seed: int, subjects: int, domains: str, methods: str, rates: dict[str, float]) -> BenchPlan:
    from dataclasses import replace

    from ..errors import InvalidOptions
    from ..evaluation.methods.registry import BASE

    wanted = runnable(named_methods(methods))
    # Scores count from the base model, whatever is asked for.
    groups = [replace(g, methods=tuple(m for m in g.methods if m in wanted or m == BASE)) for g in plan.groups]
    kept = tuple(group for group in groups if group.methods)
    if not any(set(group.methods) - {BASE} for group in kept):
        raise InvalidOptions(f"This benchmark runs none of {methods}; remove --methods, or add --full.")
    chosen = tuple(domain for domain in plan.domains if domains in ("both", domain))
    return replace(
        plan, groups=kept, subjects=subjects or plan.subjects, test_seed=seed, domains=chosen, rates=rates
    )  # fmt: skip
