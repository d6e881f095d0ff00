"""What is run: which methods, photos, steps, subjects and conditions, cut into units of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Literal

from ..errors import InvalidOptions
from ..pocket.world.factors import DOMAINS, SPLIT_BASE, SPLIT_SPAN, Split
from .conditions import CLEAN, CONDITIONS
from .methods.registry import (
    AUTO_RATE,
    BASE,
    CORE,
    META_COLD,
    META_OUTSIDE,
    META_RANDOM,
    META_WARM,
    PLAIN,
    method_named,
    trained_methods,
)

__all__ = ["FULL", "QUICK", "BenchPlan", "Group", "Unit", "trial_label"]

# Measured on one core, pocket model: one subject's training step, one evaluation of the model, decoding one picture.
_STEP_S, _EVALUATION_S, _DECODING_S = 0.019, 0.008, 0.01
_CORE_STEP_S = 0.07


@dataclass(frozen=True)
class Group:
    """Methods that share their photos, steps and conditions.

    Args:
        methods: Names.
        photos: Counts of reference photos.
        steps: Steps at which the subjects are sampled and scored; 0 is the start itself.
        conditions: Names.
        trial_rates: Learning rates to try instead of the tuned one, by method.
        most_subjects: Of each domain, if the plan has more; 0 for all of them.
    """

    methods: tuple[str, ...]
    photos: tuple[int, ...]
    steps: tuple[int, ...]
    conditions: tuple[str, ...] = (CLEAN.name,)
    trial_rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    most_subjects: int = 0


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work: some subjects, one method, one number of photos, all steps of one training.

    ``rate`` replaces the tuned learning rate; 0 leaves it.
    """

    method: str
    domain: str
    photos: int
    condition: str
    steps: tuple[int, ...]
    subjects: tuple[int, ...]
    rate: float = 0.0

    def cpu_seconds(self, plan: BenchPlan) -> float:
        """What it takes on one core of an ordinary desktop, to estimate how long a benchmark will run."""
        training = (_CORE_STEP_S if self.method == CORE else _STEP_S) * max(self.steps) * len(self.subjects)
        evaluations = plan.sampling_steps * (1 if plan.guidance == 1 else 2)
        pictures = len(self.steps) * len(self.subjects) * plan.prompts
        return training + pictures * (evaluations * _EVALUATION_S + _DECODING_S)

    @property
    def label(self) -> str:
        """The condition as it stands in rows: with the rate, where it is a trial."""
        return trial_label(self.condition, self.rate)


@dataclass(frozen=True)
class BenchPlan:
    """A whole benchmark.

    Args:
        groups: What is run.
        subjects: Of each domain.
        test_seed: Replaces the test subjects by others.
        split: "test"; tuning uses "validation"; "folder" for subjects that are folders of photos.
        domains: Of the subjects.
        prompts: Pictures of each subject at each point.
        sampling_steps: Of each picture.
        guidance: Classifier-free guidance of each picture; 1 is none.
        training_seed: Of starts, random choices and noise.
        rates: Learning rates, by method, number of photos and maybe domain: "plain_lora@1", "plain_lora@1@avatars".
        mirrored: Learn the mirror image of every photo too, whatever the method.
        at_once: Subjects that are trained and sampled side by side.
        models: Which files of weights are used, so that rows of others are not mixed in.
    """

    groups: tuple[Group, ...]
    subjects: int = 16
    test_seed: int = 0
    split: Split | Literal["folder"] = "test"
    domains: tuple[str, ...] = DOMAINS
    prompts: int = 6
    sampling_steps: int = 6
    guidance: float = 2.0
    training_seed: int = 0
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    mirrored: bool = True
    at_once: int = 8
    models: str = ""

    def check(self) -> None:
        """Raise ``InvalidOptions`` with all findings at once."""
        findings: list[str] = []
        if not 1 <= self.subjects <= 100_000:
            findings.append(f"subjects is {self.subjects}, expected 1 to 100,000")
        if self.prompts < 2 or self.sampling_steps < 1:
            findings.append("at least 2 prompts and 1 sampling step are needed")
        for group in self.groups:
            for name in group.methods:
                method_named(name)
            if not all(1 <= n <= MOST_PHOTOS for n in group.photos):
                findings.append(f"photos are {list(group.photos)}, expected 1 to {MOST_PHOTOS}")
            if not group.steps or min(group.steps) < 0:
                findings.append(f"steps are {list(group.steps)}, expected numbers from 0")
            findings += [f"unknown condition {name!r}" for name in group.conditions if name not in CONDITIONS]
        if findings:
            raise InvalidOptions("This benchmark cannot be run: " + "; ".join(dict.fromkeys(findings)) + ".")

    def units(self) -> Iterator[Unit]:
        """All pieces of work, those of the same subjects side by side, which saves rendering them again."""
        numbers = range(self.first_index, self.first_index + self.subjects)
        for domain in self.domains:
            for start in range(0, self.subjects, self.at_once):
                for group in self.groups:
                    last = min(start + self.at_once, group.most_subjects or self.subjects, self.subjects)
                    if start < last:
                        yield from _units(group, domain, tuple(numbers[start:last]))

    def cpu_seconds(self) -> float:
        """What all of it takes on one core of an ordinary desktop."""
        return sum(unit.cpu_seconds(self) for unit in self.units())

    @property
    def first_index(self) -> int:
        """Place of the first subject within its split."""
        return first_index(self.test_seed) if self.split == "test" else 0

    @property
    def first_number(self) -> int:
        """What is added to a subject's place in its split to get its number in rows."""
        return 0 if self.split == "folder" else SPLIT_BASE[self.split]

    @property
    def most_photos(self) -> int:
        """The most reference photos of any run."""
        return max(photos for group in self.groups for photos in group.photos)

    def rate_of(self, method: str, photos: int, domain: str = "") -> float:
        """Learning rate of a method: the one for the most photos that are not more than these ("plain_lora@4").

        Where the domain has one of its own ("plain_lora@4@avatars"), that one is taken.

        Raises:
            InvalidOptions: If none was tuned or given.
        """
        fitting: dict[tuple[int, bool], float] = {}
        for key, rate in self.rates.items():
            name, count, *own = key.split("@")
            if name == method and int(count) <= photos and own in ([], [domain]):
                fitting[int(count), bool(own)] = rate
        if not fitting:
            raise InvalidOptions(
                f"No learning rate for {method} with {photos} photos. Tune it: python -m metalora_core bench tune "
                f"--methods {method} --photos {photos}"
            )
        return fitting[max(fitting)]

    def digest(self) -> str:
        """SHA-256 of whatever decides a row but the choice of rows, so that a finished file can be extended."""
        own = {k: v for k, v in asdict(self).items() if k not in ("groups", "subjects", "domains")}
        return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()

    def described(self) -> dict[str, Any]:
        """For the report and the JSON file."""
        return asdict(self)


def trial_label(condition: str, rate: float) -> str:
    """Name of a condition in rows, "clean" or "clean@0.003"."""
    return f"{condition}@{rate:g}" if rate else condition


def _units(group: Group, domain: str, subjects: tuple[int, ...]) -> Iterator[Unit]:
    steps = tuple(sorted(set(group.steps)))
    for condition, photos, method in product(group.conditions, group.photos, group.methods):
        if not method_named(method).trained:
            if photos == group.photos[0]:
                yield Unit(method, domain, photos, condition, (0,), subjects)
            continue
        for rate in group.trial_rates.get(method, (0.0,)):
            yield Unit(method, domain, photos, condition, steps, subjects, rate)


_MAIN = (PLAIN, META_WARM, META_OUTSIDE, META_COLD, META_RANDOM, CORE)
_OTHERS = tuple(name for name in trained_methods() if name not in _MAIN)

QUICK = BenchPlan(
    groups=(
        Group((PLAIN, META_WARM), (1,), (2, 5, 10, 25, 50, 100)),
        Group((PLAIN, META_WARM), (4,), (10, 25, 50, 100)),
        Group((META_OUTSIDE, META_COLD, META_RANDOM, AUTO_RATE, BASE), (1,), (10, 25, 50, 100)),
        Group(_OTHERS, (1,), (50,), most_subjects=8),
    ),
    prompts=4,
)
"""About 22 minutes on two quiet cores with AVX2, reckoned from the speed of a longer run."""

_CHANGED = tuple(name for name in CONDITIONS if name != CLEAN.name)

FULL = BenchPlan(
    groups=(
        Group((PLAIN, META_WARM), (1, 4), (2, 5, 10, 25, 50, 100, 200)),
        Group((PLAIN, META_WARM), (2, 8), (10, 25, 50, 100, 200), most_subjects=32),
        Group((META_OUTSIDE, META_COLD, META_RANDOM, AUTO_RATE, BASE), (1,), (10, 25, 50, 100)),
        Group(_OTHERS, (1,), (10, 25, 50, 100), most_subjects=32),
        Group(_OTHERS, (4,), (50, 100), most_subjects=16),
        Group((CORE,), (1,), (10, 25, 50, 100), most_subjects=16),
        Group((PLAIN, META_WARM), (1,), (10, 50), _CHANGED, most_subjects=32),
    ),
    subjects=64,
    prompts=4,
)
"""All methods, numbers of photos and conditions; the methods of the main table on 64 subjects of each domain."""


MOST_PHOTOS = 8


# Room for the largest benchmark behind the first subject of any test seed. The first so many belong to the
# demonstration; its pictures were looked at while settings were chosen.
_MOST_SUBJECTS = 100_000


def first_index(test_seed: int) -> int:
    """Number of the first subject of a test seed within its split, behind those of the demonstration."""
    drawn = int.from_bytes(hashlib.sha256(f"test seed {test_seed}".encode()).digest()[:8], "big")
    return _MOST_SUBJECTS + drawn % (SPLIT_SPAN - 2 * _MOST_SUBJECTS)
