"""Chooses rate and step of every method on validation subjects: the same number of rates, subjects and steps each.

The rate with the largest hypervolume is taken, and of its steps the one with the best balance of identity score and
prompt adherence. Values within 3 % are indistinguishable on so few subjects; among such, fewer steps win. Test subjects
are never used here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidOptions, UnreadableFile
from .conditions import CLEAN
from .curves import curves_of
from .front import Path as TrainingPath
from .front import balance
from .methods.registry import BASE, method_named, trained_methods
from .plan import BenchPlan, Group, trial_label
from .rows import Row
from .subjects.scores import as_good

__all__ = [
    "RATES_FILE",
    "Trial",
    "TuningOptions",
    "at_the_edge",
    "candidate_rates",
    "judge",
    "judge_trials",
    "load_rates",
    "load_steps",
    "rate_for_steps",
    "save_rates",
    "tuning_plan",
]

RATES_FILE = Path(__file__).parent / "tuned_rates.json"
_SPREAD = (1 / 9, 1 / 3, 1.0, 3.0)


@dataclass(frozen=True)
class TuningOptions:
    """The budget of every method.

    Args:
        methods: Names.
        photos: Numbers of photos to tune for.
        subjects: Validation subjects per domain.
        steps: At which the subjects are scored; the best one counts.
        prompts: Pictures of each subject at each point.
        sampling_steps: Of each picture.
    """

    methods: tuple[str, ...] = field(default_factory=trained_methods)
    photos: tuple[int, ...] = (1,)
    subjects: int = 8
    steps: tuple[int, ...] = (10, 25, 50, 100)
    prompts: int = 4
    sampling_steps: int = 6


@dataclass(frozen=True)
class Trial:
    """One rate of one method.

    Args:
        rate: Learning rate.
        hypervolume: Geometric mean over the domains.
        by_domain: Hypervolume in each domain.
        steps: The fewest whose balance is as good as the best (`as_good`), for each domain.
        by_step: The combined error at every step, for each domain.
    """

    rate: float
    hypervolume: float
    by_domain: Mapping[str, float] = field(default_factory=dict[str, float])
    steps: Mapping[str, int] = field(default_factory=dict[str, int])
    by_step: Mapping[str, Mapping[int, float]] = field(default_factory=dict[str, Mapping[int, float]])


def candidate_rates(method: str) -> list[float]:
    """Four rates around a method's usual one, each three times the one before."""
    return [float(f"{method_named(method).usual_rate * factor:.3g}") for factor in _SPREAD]


def judge(rows: Sequence[Row], method: str, photos: int, rate: float) -> Trial:
    """The result of one rate: the hypervolume in each domain, and the fewest steps with as good as the best balance.

    Raises:
        InvalidOptions: If the rows hold no such trial.
    """
    areas, steps, by_step = dict[str, float](), dict[str, int](), dict[str, Mapping[int, float]]()
    condition, untrained = trial_label(CLEAN.name, rate), curves_of(rows)
    for (name, domain, count), curve in curves_of(rows, condition).items():
        base = untrained.get((BASE, domain, 1))
        if (name, count) == (method, photos) and base is not None:
            path = TrainingPath.of(
                curve, base.only(curve.subjects), np.full((1, len(curve.subjects)), 1 / len(curve.subjects))
            )
            balances = balance(path.identity, path.adherence)[0]
            by_step[domain] = dict(zip(curve.steps, map(float, path.means.combined[0]), strict=True))
            areas[domain] = float(path.hypervolume[0])
            steps[domain] = next(s for s, b in zip(curve.steps, balances, strict=True) if as_good(balances.max(), b))
    if not areas:
        raise InvalidOptions(
            f"No rows of {method} with {photos} photos under {condition!r}, or none of the base model."
        )
    return Trial(rate, math.prod(areas.values()) ** (1 / len(areas)), areas, steps, by_step)


def tuning_plan(options: TuningOptions) -> BenchPlan:
    """Every rate of every method on the same validation subjects."""
    rates = {method: tuple(candidate_rates(method)) for method in options.methods}
    return BenchPlan(
        groups=(Group((BASE,), (1,), (0,)), Group(options.methods, options.photos, options.steps, trial_rates=rates)),
        subjects=options.subjects,
        split="validation",
        prompts=options.prompts,
        sampling_steps=options.sampling_steps,
    )


def judge_trials(rows: Sequence[Row], options: TuningOptions) -> dict[str, list[Trial]]:
    """The result of every rate: "method@photos" to its trials in the order of the rates."""
    return {
        f"{method}@{photos}": [judge(rows, method, photos, rate) for rate in candidate_rates(method)]
        for method in options.methods
        for photos in options.photos
    }


def at_the_edge(trials: Mapping[str, Sequence[Trial]]) -> list[str]:
    """Keys whose best rate is the lowest or highest that was tried: a better one may lie beyond.

    Args:
        trials: Those of each "method@photos", in the order of their rates.

    Returns:
        "method@photos" for all domains together, "method@photos@domain" for one.
    """
    chosen = {key: _best(tried) for key, tried in trials.items()}
    chosen |= {f"{key}@{d}": _best(tried, d) for key, tried in trials.items() for d in tried[0].by_domain}
    ends = {key: (tried[0], tried[-1]) for key, tried in trials.items()}
    return [key for key, best in chosen.items() if best in ends["@".join(key.split("@")[:2])]]


def _best(tried: Sequence[Trial], domain: str = "") -> Trial:
    """The rate of a domain, or of all together: of those as good as the best, the one that needs fewest steps."""
    areas = [trial.by_domain[domain] if domain else trial.hypervolume for trial in tried]
    steps = [trial.steps[domain] if domain else math.prod(trial.steps.values()) for trial in tried]
    good = [i for i, area in enumerate(areas) if as_good(max(areas), area)]
    return tried[min(good, key=lambda i: (steps[i], -areas[i]))]


def save_rates(
    trials: Mapping[str, Sequence[Trial]], options: TuningOptions, command: str, path: Path, models: str = ""
) -> None:
    """Write the chosen rates with every trial; other methods' entries stay.

    Args:
        trials: Those of each "method@photos".
        options: Their budget.
        command: That made them.
        path: File to write.
        models: Digest of the weights that they were tried with.
    """
    known = _read(path) if path.exists() else {"entries": {}}
    for key, tried in trials.items():
        domains = tried[0].by_domain
        known["entries"][key] = {
            "rate": _best(tried).rate,
            "rate_by_domain": {d: _best(tried, d).rate for d in domains},
            "steps_by_domain": {d: _best(tried, d).steps[d] for d in domains},
            "trials": [asdict(trial) for trial in tried],
            "budget": asdict(replace(options, methods=(), photos=())),
            "command": command,
            "models": models,
        }
    known["entries"] = dict(sorted(known["entries"].items()))
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def load_rates(path: Path = RATES_FILE) -> dict[str, float]:
    """The tuned rates: by method and photos ("plain_lora@1"), and by domain too ("plain_lora@1@avatars").

    Raises:
        UnreadableFile: If the file is missing or damaged.
    """
    rates: dict[str, float] = {}
    with _naming(path):
        for key, entry in _read(path)["entries"].items():
            rates[key] = float(entry["rate"])
            rates |= {f"{key}@{domain}": float(rate) for domain, rate in entry["rate_by_domain"].items()}
    return rates


def load_steps(path: Path = RATES_FILE) -> dict[str, int]:
    """The chosen steps, by method, photos and domain: "plain_lora@1@avatars".

    Raises:
        UnreadableFile: If the file is missing or damaged.
    """
    with _naming(path):
        return {
            f"{key}@{domain}": int(steps)
            for key, entry in _read(path)["entries"].items()
            for domain, steps in entry["steps_by_domain"].items()
        }


@contextmanager
def _naming(path: Path) -> Generator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableFile(
            f"{path} is not a table of tuned rates ({error!r}). Make it again with: bench tune"
        ) from error


def rate_for_steps(method: str, photos: int, domain: str, steps: int, path: Path = RATES_FILE) -> float:
    """The tried rate with a domain's lowest combined error after so many steps, or the number of steps nearest to it.

    Where a method stands at its best point its rate is that point's; where steps are given it is this one.

    Args:
        method: Name.
        photos: Of a subject; the trial with the most photos that are not more counts.
        domain: Of the subject.
        steps: That will be trained.
        path: Table of tuned rates.

    Raises:
        UnreadableFile: If the file is missing or damaged, or holds no such trial.
    """
    try:
        entries = _read(path)["entries"]
        counts = {int(key.split("@")[1]): key for key in entries if key.startswith(f"{method}@")}
        tried = entries[counts[max(count for count in counts if count <= photos)]]["trials"]
        nearest = min(tried[0]["by_step"][domain], key=lambda step: abs(math.log(int(step) / max(steps, 1))))
        return float(min(tried, key=lambda trial: trial["by_step"][domain][nearest])["rate"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UnreadableFile(
            f"{path} has no learning rate for {method} on {domain} ({error!r}). Tune it with: bench tune"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFile(
            f"{path} cannot be read ({error}). Make it with: python -m metalora_core bench tune"
        ) from error
