"""The benchmark's tables: the ratios, every method at its best point, and the cuts by what the photo shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ..conditions import CLEAN
from ..curves import Curve, Resampled, curves_of, interval, resample_weights
from ..front import Path, chosen_step
from ..methods.registry import BASE, META_WARM, METHODS, PLAIN
from ..rows import Row
from ..subjects.scores import combined_error
from .hindsight import LINES
from .ratios import Line, Ratio
from .summary import BAR

__all__ = [
    "BestPoint",
    "bar_table",
    "best_points",
    "best_table",
    "cut_table",
    "hindsight_table",
    "repeat_table",
    "target_table",
]

Table = list[tuple[str, ...]]
Spread = tuple[float, float, float]
"""Value, lower and upper end of its 95 % interval."""


@dataclass(frozen=True)
class BestPoint:
    """A method at its chosen step.

    Args:
        method: Name.
        domain: Of the subjects.
        photos: Reference photos.
        steps: The step.
        subjects: How many the means are over.
        combined: Geometric mean of the two errors below.
        identity: Identity error.
        prompt: Prompt error.
        copying: Of the reference.
        diversity: Of the pictures.
        seconds: Of the training up to there, a subject.
        score: Identity score; NaN if the base model was not drawn.
        adherence: Prompt adherence.
        hypervolume: Of the front over all steps.
        copy_angle: Where between truth and photo the pictures are.
        drift: Change of pictures of others.
    """

    method: str
    domain: str
    photos: int
    steps: int
    subjects: int
    combined: Spread
    identity: Spread
    prompt: Spread
    copying: Spread
    diversity: float
    seconds: float
    score: Spread
    adherence: Spread
    hypervolume: Spread
    copy_angle: float
    drift: float


def best_points(rows: Sequence[Row], steps: Mapping[str, int] = MappingProxyType({})) -> list[BestPoint]:
    """Every method at its chosen step, by domain and number of photos.

    Args:
        rows: Of a benchmark.
        steps: Chosen on other subjects; a method without one is shown at the step with its best balance, and if the
            base model was not drawn at that with its lowest combined error.
    """
    curves = curves_of(rows)
    bases = {domain: curve for (method, domain, _), curve in curves.items() if method == BASE}
    return [
        _best(*key, curve, bases.get(key[1]), chosen_step(steps, key[0], key[2], key[1]))
        for key, curve in curves.items()
    ]


def _best(method: str, domain: str, photos: int, curve: Curve, base: Curve | None, step: int) -> BestPoint:
    if base is not None:
        base = base.only([subject for subject in curve.subjects if subject in base.subjects])
        curve = curve.only(base.subjects)
    path = Path.of(curve, base, resample_weights(len(curve.subjects)), step)
    means, index = path.means, int(path.chosen[0])
    spreads = {name: interval(values[:, index]) for name, values in means.scores.items()}
    return BestPoint(
        method,
        domain,
        photos,
        curve.steps[index],
        len(curve.subjects),
        combined=interval(means.combined[:, index]),
        identity=spreads["identity_error"],
        prompt=spreads["prompt_error"],
        copying=spreads["copying"],
        diversity=spreads["diversity"][0],
        seconds=spreads["seconds"][0],
        score=interval(path.identity[:, index]),
        adherence=interval(path.adherence[:, index]),
        hypervolume=interval(path.hypervolume),
        copy_angle=spreads["copy_angle"][0],
        drift=spreads["drift"][0],
    )


def _spread(values: Spread, digits: int = 4) -> str:
    return f"{values[0]:.{digits}f} [{values[1]:.{digits}f}, {values[2]:.{digits}f}]"


def bar_table(summary: Mapping[str, Ratio]) -> Table:
    """Ratio, interval, goal and verdict of every line of the main table."""
    return _ratio_table(summary, BAR)


def hindsight_table(summary: Mapping[str, Ratio]) -> Table:
    """The main table of earlier releases."""
    return _ratio_table(summary, LINES)


def _ratio_table(summary: Mapping[str, Ratio], lines: Mapping[str, Line]) -> Table:
    table: Table = [("ratio, Meta-LoRA warm to plain LoRA", "value [95 %]", "goal", "met", "by domain", "subjects")]
    for name, line in lines.items():
        found = summary.get(name)
        if found is None:
            table.append((line.text, "not run", "", "", "", "0"))
            continue
        met = found.value >= line.goal if line.more_is_better else found.value <= line.goal
        spread = _spread((found.value, found.low, found.high), 2)
        domains = ", ".join(f"{domain} {value:.2f}" for domain, value in found.by_domain.items())
        goal = f"{'≥' if line.more_is_better else '≤'} {line.goal:g}"
        table.append((line.text, spread, goal, "yes" if met else "no", domains, str(found.subjects)))
    return table


def best_table(points: Sequence[BestPoint]) -> Table:
    """Every method at its chosen step, the largest hypervolume first within a domain and number of photos."""
    table: Table = [
        ("method", "domain", "photos", "steps", "hypervolume [95 %]", "identity score", "prompt adherence",
         "combined error", "identity error", "prompt error", "copying", "copy angle", "drift", "diversity", "subjects")
    ]  # fmt: skip
    for p in sorted(points, key=lambda p: (p.domain, p.photos, -np.nan_to_num(p.hypervolume[0]), p.combined[0])):
        scores = [_spread(p.hypervolume, 3), _spread(p.score, 2), _spread(p.adherence, 2), _spread(p.combined)]
        errors = [f"{p.identity[0]:.4f}", f"{p.prompt[0]:.4f}", f"{p.copying[0]:.2f}", f"{p.copy_angle:.2f}"]
        ends = [f"{p.drift:.3f}", f"{p.diversity:.2f}", str(p.subjects)]
        table.append((METHODS[p.method].title, p.domain, str(p.photos), str(p.steps), *scores, *errors, *ends))
    return table


def target_table(rows: Sequence[Row]) -> Table:
    """Steps and seconds until a method is no worse than plain LoRA's best with as many photos.

    The seconds come from a clock and differ from run to run; they are one subject's share of a training side by side.
    """
    table: Table = [("method", "domain", "photos", "steps to plain LoRA's best", "seconds", "subjects")]
    curves = curves_of(rows)
    for (method, domain, photos), curve in curves.items():
        plain = curves.get((PLAIN, domain, photos))
        if plain is not None:
            target = float(_means(plain).combined.min())
            reached = np.flatnonzero(_means(curve).combined[0] <= target)
            found = ("never", "–")
            if len(reached):
                seconds = float(curve.scores["seconds"][reached[0]].mean())
                found = (str(curve.steps[reached[0]]), f"{seconds:.1f}")
            table.append((METHODS[method].title, domain, str(photos), *found, str(len(curve.subjects))))
    return table


def _means(curve: Curve) -> Resampled:
    return curve.resampled(np.full((1, len(curve.subjects)), 1 / len(curve.subjects)))


_WORDS = ("turn", "tilt", "light", "background", "expression")


def cut_table(rows: Sequence[Row], points: Sequence[BestPoint]) -> Table:
    """One photo, each method at its best point, cut by what that photo shows."""
    steps = {(p.method, p.domain): p.steps for p in points if p.photos == 1 and p.method in (PLAIN, META_WARM)}
    table: Table = [("domain", "photo", "plain LoRA", "Meta-LoRA, warm", "subjects")]
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.condition == CLEAN.name and row.photos == 1 and steps.get((row.method, row.domain)) == row.steps:
            words = zip(_WORDS, row.reference.split("|") if row.reference else (), strict=bool(row.reference))
            wanted = ("turn", "tilt", "light") if row.domain == "products" else ("turn", "tilt", "light", "expression")
            cuts = [f"{kind}: {word}" for kind, word in words if kind in wanted]
            for cut in [*cuts, *_distance_cut(row)]:
                groups.setdefault((row.domain, cut), {}).setdefault(row.method, []).append(row)
    for (domain, cut), found in sorted(groups.items()):
        if {PLAIN, META_WARM} <= set(found):
            table.append((domain, cut, *(_mean_combined(found[m]) for m in (PLAIN, META_WARM)), str(len(found[PLAIN]))))
    return table


def _distance_cut(row: Row) -> list[str]:
    if row.domain_distance < 0:
        return []
    return ["closer to the domain" if row.domain_distance < 50 else "further from the domain"]


def _mean_combined(rows: Sequence[Row]) -> str:
    identity, prompt = (np.mean([getattr(row, name) for row in rows]) for name in ("identity_error", "prompt_error"))
    return f"{combined_error(identity, prompt):.4f}"


def repeat_table(rows: Sequence[Row]) -> Table:
    """Combined error under other seeds, another photo of the same subject, and photos of bad quality."""
    table: Table = [("condition", "method", "domain", "steps", "combined error", "mean change a subject", "subjects")]
    clean = {(r.method, r.domain, r.photos, r.steps, r.subject): r for r in rows if r.condition == CLEAN.name}
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        if row.condition != CLEAN.name:
            groups.setdefault((row.condition, row.method, row.domain, row.steps), []).append(row)
    for (condition, method, domain, steps), found in sorted(groups.items()):
        pairs = [(r, clean.get((r.method, r.domain, r.photos, r.steps, r.subject))) for r in found]
        changes = [abs(r.identity_error - c.identity_error) for r, c in pairs if c is not None]
        change = f"{np.mean(changes):.4f}" if changes else "–"
        title = METHODS[method].title
        table.append((condition, title, domain, str(steps), _mean_combined(found), change, str(len(found))))
    return table


def table(rows: list[tuple[str, ...]]) -> str:
    """Lay out rows of cells in columns; the first row is the head, numbers are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])
