"""Runs a plan: units in parallel processes, rows to a file as they finish, finished units never again."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidOptions, UnreadableFile
from .plan import BenchPlan, Unit
from .rows import Row, append_rows, read_rows
from .subjects.pocket import Bench
from .subjects.world import LearnedSubject, World

if TYPE_CHECKING:
    from torch import Tensor

    from ..files.prior import Prior
    from ..model.host import Host
    from ..training.starts import ChainStart


__all__ = ["Bench", "missing_units", "model_digest", "pocket_bench", "run_plan", "run_unit"]


def pocket_bench() -> Bench:
    """The shipped pocket world."""
    import torch

    from ..pocket import load_pocket_host, load_pocket_prior, load_readers
    from ..pocket.world.factors import DOMAINS

    torch.set_num_threads(1)
    return Bench(load_pocket_host(), {domain: load_pocket_prior(domain) for domain in DOMAINS}, load_readers())


def run_unit(bench: World, plan: BenchPlan, unit: Unit) -> list[Row]:
    """Train the subjects of a unit, sample and score them at each of its steps."""
    from .conditions import CONDITIONS
    from .core_lora import drawn_by_comfyui
    from .methods.registry import CORE, method_named

    subjects = bench.subjects(plan, unit.domain, unit.subjects, unit.condition)
    prior = _prior(bench, unit.domain, method_named(unit.method).other_prior)
    distances = [_distance(prior, subject.photos.images[0]) for subject in subjects]
    extra = plan.training_seed + 1_000_003 * CONDITIONS[unit.condition].seed
    seeds = [extra + subject.number for subject in subjects]
    if unit.method == CORE:
        points = drawn_by_comfyui(bench.host, plan, unit, subjects, seeds)
    else:
        points = _drawn_by_us(bench.host, prior, plan, unit, subjects, seeds)
    rows: list[Row] = []
    untouched = _untouched(bench.host, prior, plan, subjects, seeds)
    for step, seconds, pictures in points:
        for i, (subject, drawn, taken, distance) in enumerate(zip(subjects, pictures, seconds, distances, strict=True)):
            own, others = drawn.split([len(subject.prompts), len(subject.others)])
            scores = subject.score(own, unit.photos)
            rows.append(
                Row(
                    unit.method, unit.domain, unit.photos, unit.label, step, subject.number,
                    scores.identity_error, scores.prompt_error, scores.copying, scores.diversity, taken,
                    scores.identity_floor, scores.prompt_floor, subject.words, distance,
                    scores.photo_prompt_error, scores.copy_angle, float((others - untouched[i]).square().mean().sqrt()),
                )
            )  # fmt: skip
    return rows


def _drawn_by_us(
    host: Host, prior: Prior, plan: BenchPlan, unit: Unit, subjects: Sequence[LearnedSubject], seeds: Sequence[int]
) -> Iterator[tuple[int, Sequence[float], Tensor]]:
    """Step, seconds of each subject and pictures (subjects, prompts, 3, H, W), for every step of the unit."""
    from ..training.adaptation_options import AdaptationOptions
    from .methods.cohort import train_cohort
    from .methods.registry import chain_of, method_named

    start = chain_of(unit.method, host, prior, plan.training_seed)
    finds = method_named(unit.method).finds_rate
    rate = unit.rate or (plan.rate_of(unit.method, unit.photos, unit.domain) if max(unit.steps) and not finds else 0.0)
    # The rate stays constant after the warm-up, so that one training holds the results of all shorter ones.
    options = AdaptationOptions(
        steps=max(*unit.steps, 1), learning_rate="auto" if finds else rate, final_rate=1.0, flip=plan.mirrored
    )
    photos = [subject.photos.part(0, unit.photos) for subject in subjects]
    for snapshot in train_cohort(host, start, photos, options, unit.steps, seeds):
        pictures = _drawn(host, start, snapshot.flats, plan, subjects, seeds)
        yield snapshot.step, [snapshot.seconds] * len(subjects), pictures


def _drawn(
    host: Host, start: ChainStart, flats: Tensor, plan: BenchPlan, subjects: Sequence[LearnedSubject],
    seeds: Sequence[int],
) -> Tensor:  # fmt: skip
    from .methods.cohort import draw_pictures

    return draw_pictures(
        host, start, flats, [(*subject.prompts, *subject.others) for subject in subjects],
        size_px=subjects[0].size_px, steps=plan.sampling_steps, guidance=plan.guidance, seeds=seeds,
    )  # fmt: skip


def _untouched(
    host: Host, prior: Prior, plan: BenchPlan, subjects: Sequence[LearnedSubject], seeds: Sequence[int]
) -> Tensor:
    """Pictures of others by the base model alone, from the noise that every method's are drawn from."""
    from .methods.registry import BASE, chain_of

    start = chain_of(BASE, host, prior, plan.training_seed)
    drawn = _drawn(host, start, start.flat.expand(len(subjects), -1), plan, subjects, seeds)
    return drawn[:, -len(subjects[0].others) :]


def _prior(bench: World, domain: str, other: bool) -> Prior:
    if not other:
        return bench.priors[domain]
    return next(prior for name, prior in bench.priors.items() if name != domain)


def _distance(prior: Prior, photo: Tensor) -> float:
    from ..references.domain import FeatureStatistics, domain_distance

    statistics: object = prior.features
    if not isinstance(statistics, FeatureStatistics):
        return -1.0
    return domain_distance(photo[None], statistics)[0].percentile


def missing_units(plan: BenchPlan, rows: Sequence[Row]) -> list[Unit]:
    """Units of which a row is missing; the others are done."""
    done = {(row.method, row.domain, row.photos, row.condition, row.steps, row.subject) for row in rows}

    def finished(unit: Unit) -> bool:
        kind = (unit.method, unit.domain, unit.photos, unit.label)
        return all((*kind, step, plan.first_number + i) in done for step in unit.steps for i in unit.subjects)

    return [unit for unit in plan.units() if not finished(unit)]


def run_plan(
    plan: BenchPlan,
    folder: Path,
    *,
    processes: int,
    make_bench: Callable[[], World] = pocket_bench,
    on_unit: Callable[[float, Unit | None], None] | None = None,
) -> list[Row]:
    """Run what is missing of a plan.

    Args:
        plan: What to run.
        folder: Holds ``rows.csv`` and ``plan.json``; an interrupted run resumes here.
        processes: Working side by side, each with one thread.
        make_bench: Loads models; called once in every process, so it must be importable.
        on_unit: Called with the CPU seconds that the work so far was estimated at, and the unit that was just done.

    Returns:
        The plan's rows, sorted; rows of the file that the plan does not ask for are left out.

    Raises:
        InvalidOptions: If the plan cannot work, or the folder belongs to another plan.
    """
    plan.check()
    _claim(plan, folder)
    path = folder / "rows.csv"
    units = missing_units(plan, read_rows(path))
    done_s = plan.cpu_seconds() - sum(unit.cpu_seconds(plan) for unit in units)
    if on_unit is not None:
        on_unit(done_s, None)
    for unit, rows in _results(plan, units, processes, make_bench):
        append_rows(path, rows)
        done_s += unit.cpu_seconds(plan)
        if on_unit is not None:
            on_unit(done_s, unit)
    return _asked(plan, read_rows(path))


def _claim(plan: BenchPlan, folder: Path) -> None:
    """Remember in the folder what its rows mean, or refuse rows that mean something else."""
    path, digest = folder / "plan.json", plan.digest()
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("digest")
        except (ValueError, AttributeError) as error:
            raise UnreadableFile(f"{path} is damaged ({error}). Delete {folder} to start over.") from error
        if found != digest:
            raise InvalidOptions(
                f"{folder} contains rows of a benchmark with other settings (test seed, rates, prompts, sampling "
                "steps, mirrored photos or models). Choose another --output, or pass --fresh to start over."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"digest": digest, "plan": plan.described()}, indent=1, default=str), encoding="utf-8")


def _asked(plan: BenchPlan, rows: Sequence[Row]) -> list[Row]:
    asked = {
        (unit.method, unit.domain, unit.photos, unit.label, step, plan.first_number + i)
        for unit in plan.units()
        for step in unit.steps
        for i in unit.subjects
    }
    found = {(r.method, r.domain, r.photos, r.condition, r.steps, r.subject): r for r in rows}
    return sorted(row for key, row in found.items() if key in asked)


def _results(
    plan: BenchPlan, units: Sequence[Unit], processes: int, make_bench: Callable[[], World]
) -> Iterator[tuple[Unit, list[Row]]]:
    if not units:
        return
    if processes <= 1:
        bench = make_bench()
        for unit in units:
            yield unit, run_unit(bench, plan, unit)
        return
    with _workers(min(processes, len(units)), make_bench) as pool:
        futures = {pool.submit(_work, plan, unit): unit for unit in units}
        for future in as_completed(futures):
            yield futures[future], future.result()


@contextmanager
def _workers(processes: int, make_bench: Callable[[], World]) -> Generator[ProcessPoolExecutor]:
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (make_bench,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_bench: list[World] = []


def _begin(make_bench: Callable[[], World]) -> None:
    import signal
    from threading import Thread

    # Ctrl-C is the parent's: it stops handing out work and lets the running units end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _bench[:] = [make_bench()]


def _end_with_parent() -> None:
    """If the parent is killed, nobody is left to take the rows."""
    import os
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(plan: BenchPlan, unit: Unit) -> list[Row]:
    return run_unit(_bench[0], plan, unit)


def model_digest() -> str:
    """SHA-256 over the shipped weights, so that rows of other weights are never mixed with these."""
    import hashlib

    from ..pocket.load import WEIGHTS

    digest = hashlib.sha256()
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
