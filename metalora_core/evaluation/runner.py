"""Runs a plan: units in parallel processes, rows to a file as they are finished, finished units never again."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidOptions, UnreadableFile
from .plan import BenchPlan, Unit
from .rows import Row, append_rows, read_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ..files.prior import Prior
    from ..host import Host
    from ..pocket.factors import Domain
    from ..pocket.readers import Readers

__all__ = ["Bench", "missing_units", "model_digest", "pocket_bench", "run_plan", "run_unit"]


@dataclass(frozen=True)
class Bench:
    """What the runs need.

    Args:
        host: The base model.
        priors: Of each domain.
        readers: Score the pictures.
    """

    host: Host
    priors: dict[Domain, Prior]
    readers: Readers


def pocket_bench() -> Bench:
    """The shipped pocket world."""
    import torch

    from ..pocket import load_pocket_host, load_pocket_prior, load_readers
    from ..pocket.factors import DOMAINS

    torch.set_num_threads(1)
    return Bench(load_pocket_host(), {domain: load_pocket_prior(domain) for domain in DOMAINS}, load_readers())


def run_unit(bench: Bench, plan: BenchPlan, unit: Unit) -> list[Row]:
    """Learn the subjects of a unit, draw and score them at each of its steps."""
    from ..adaptation_options import AdaptationOptions
    from .cohort import draw_pictures, train_cohort
    from .conditions import CONDITIONS
    from .methods import method_named
    from .subjects import pocket_subject, reference_words

    method, condition = method_named(unit.method), CONDITIONS[unit.condition]
    most = plan.most_photos
    subjects = [pocket_subject(unit.domain, plan.split, i, plan.prompts, most, condition) for i in unit.subjects]
    prior = _prior(bench, unit.domain, method.other_prior)
    start = method.start(bench.host, prior, plan.training_seed)
    rate = unit.rate or plan.rate_of(unit.method, unit.photos)
    # The rate stays constant after the warm-up, so that one training holds the results of all shorter ones.
    options = AdaptationOptions(
        steps=max(*unit.steps, 1), mid_learning_rate=rate, up_learning_rate=rate, final_rate=1.0
    )
    photos = [subject.training_set(unit.photos) for subject in subjects]
    seed = plan.training_seed + 1_000_003 * condition.seed
    seeds = [seed + subject.subject.seed for subject in subjects]
    distances = [_distance(prior, subject.photos[0]) for subject in subjects]
    rows: list[Row] = []
    for snapshot in train_cohort(bench.host, start, photos, options, unit.steps, seeds):
        pictures = draw_pictures(
            bench.host, start, snapshot.flats, [s.prompts for s in subjects],
            size_px=subjects[0].photos.shape[-1], steps=plan.sampling_steps, guidance=plan.guidance, seed=seeds[0],
        )  # fmt: skip
        for subject, own, distance in zip(subjects, pictures, distances, strict=True):
            scores = subject.score(own, unit.photos, bench.readers.by_domain[unit.domain])
            rows.append(
                Row(
                    unit.method, unit.domain, unit.photos, unit.label, snapshot.step, subject.subject.seed,
                    scores.identity_error, scores.prompt_error, scores.copying, scores.diversity, snapshot.seconds,
                    scores.identity_floor, scores.prompt_floor, reference_words(subject.photo_scenes), distance,
                )
            )  # fmt: skip
    return rows


def _prior(bench: Bench, domain: Domain, other: bool) -> Prior:
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
    from ..pocket.factors import SPLIT_BASE

    done = {(row.method, row.domain, row.photos, row.condition, row.steps, row.subject) for row in rows}
    base = SPLIT_BASE[plan.split]

    def finished(unit: Unit) -> bool:
        kind = (unit.method, unit.domain, unit.photos, unit.label)
        return all((*kind, step, base + i) in done for step in unit.steps for i in unit.subjects)

    return [unit for unit in plan.units() if not finished(unit)]


def run_plan(
    plan: BenchPlan,
    folder: Path,
    *,
    processes: int,
    make_bench: Callable[[], Bench] = pocket_bench,
    on_unit: Callable[[int, int, Unit | None], None] | None = None,
) -> list[Row]:
    """Run what is missing of a plan.

    Args:
        plan: What to run.
        folder: Holds ``rows.csv`` and ``plan.json``; an interrupted run goes on here.
        processes: Working side by side, each with one thread.
        make_bench: Loads models; called once in every process, so it must be importable.
        on_unit: Called with units done, units in all and the unit that was just done.

    Returns:
        The plan's rows, sorted; rows of the file that the plan does not ask for are left out.

    Raises:
        InvalidOptions: If the plan cannot work, or the folder belongs to another plan.
    """
    plan.check()
    _claim(plan, folder)
    path = folder / "rows.csv"
    units = missing_units(plan, read_rows(path))
    total = sum(1 for _ in plan.units())
    if on_unit is not None:
        on_unit(total - len(units), total, None)
    for done, (unit, rows) in enumerate(_results(plan, units, processes, make_bench), start=total - len(units) + 1):
        append_rows(path, rows)
        if on_unit is not None:
            on_unit(done, total, unit)
    return _asked(plan, read_rows(path))


def _claim(plan: BenchPlan, folder: Path) -> None:
    """Remember in the folder what its rows mean, or refuse rows that mean something else."""
    path, digest = folder / "plan.json", plan.digest()
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("digest")
        except (ValueError, AttributeError) as error:
            raise UnreadableFile(f"{path} is damaged ({error}). Remove {folder} to start again.") from error
        if found != digest:
            raise InvalidOptions(
                f"{folder} holds rows of a benchmark with other settings (test seed, rates, prompts, sampling steps or "
                "models). Give another --output, or --fresh to start again."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"digest": digest, "plan": plan.described()}, indent=1, default=str), encoding="utf-8")


def _asked(plan: BenchPlan, rows: Sequence[Row]) -> list[Row]:
    from ..pocket.factors import SPLIT_BASE

    base = SPLIT_BASE[plan.split]
    asked = {
        (unit.method, unit.domain, unit.photos, unit.label, step, base + i)
        for unit in plan.units()
        for step in unit.steps
        for i in unit.subjects
    }
    found = {(r.method, r.domain, r.photos, r.condition, r.steps, r.subject): r for r in rows}
    return sorted(row for key, row in found.items() if key in asked)


def _results(
    plan: BenchPlan, units: Sequence[Unit], processes: int, make_bench: Callable[[], Bench]
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
def _workers(processes: int, make_bench: Callable[[], Bench]) -> Generator[ProcessPoolExecutor]:
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (make_bench,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_bench: list[Bench] = []


def _begin(make_bench: Callable[[], Bench]) -> None:
    import signal

    # Ctrl-C is the parent's: it stops handing out work and lets the running units end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bench[:] = [make_bench()]


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
