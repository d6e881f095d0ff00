"""The report's figures, made with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...checks import optional
from ..curves import Curve, Key, curves_of, resample_weights
from ..front import Path
from ..methods.registry import BASE, META_COLD, META_OUTSIDE, META_WARM, METHODS, PLAIN
from ..rows import Row
from .tables import BestPoint

__all__ = ["FIGURES", "draw_figures"]

_COLOURS = {
    PLAIN: "#d1495b", META_WARM: "#00798c", META_COLD: "#66a182", META_OUTSIDE: "#8d6a9f", BASE: "#c4c8cc"
}  # fmt: skip
_OTHERS = ("#edae49", "#b08968", "#7d8597", "#e5989b", "#a3b18a", "#9d8189", "#4a4e69")
_MARKERS = {1: "o", 2: "^", 4: "s", 8: "D"}
_RESAMPLES = 400


def _colour(method: str) -> str:
    others = [name for name in METHODS if name not in _COLOURS]
    return _COLOURS.get(method) or _OTHERS[others.index(method) % len(_OTHERS)]


def _pyplot() -> Any:
    optional("matplotlib", "The report's plots").use("Agg")
    pyplot = optional("matplotlib.pyplot", "The report's plots")
    pyplot.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "figure.dpi": 130, "legend.frameon": False, "svg.hashsalt": "benchmark"}
    )  # fmt: skip
    return pyplot


def _panels(pyplot: Any, domains: Sequence[str], width: float = 5.4, height: float = 4.0) -> tuple[Any, list[Any]]:
    figure, axes = pyplot.subplots(1, len(domains), figsize=(width * len(domains), height), squeeze=False)
    for axis, domain in zip(axes[0], domains, strict=True):
        axis.set_title(domain)
    return figure, list(axes[0])


def _step_axis(axis: Any, label: str) -> None:
    axis.set(xscale="log", xlabel="training steps", ylabel=label)
    low, high = axis.get_xlim()
    axis.set_xticks([n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= n <= high])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()


def _domains(curves: Mapping[Key, Curve]) -> list[str]:
    return sorted({domain for _, domain, _ in curves})


def _learning(pyplot: Any, curves: Mapping[Key, Curve], points: Sequence[BestPoint]) -> Any:
    """Combined error over training steps, one photo."""
    figure, axes = _panels(pyplot, _domains(curves))
    for axis, domain in zip(axes, _domains(curves), strict=True):
        for (method, own, photos), curve in curves.items():
            if own == domain and photos == 1 and len(curve.steps) > 1:
                means = curve.resampled(resample_weights(len(curve.subjects), resamples=_RESAMPLES)).combined
                strong = method in (PLAIN, META_WARM)
                axis.plot(
                    curve.steps, means[0], "o-", color=_colour(method), label=METHODS[method].title, ms=4,
                    lw=2.2 if strong else 1.0, alpha=1.0 if strong else 0.75, zorder=3 if strong else 2,
                )  # fmt: skip
                if strong:
                    low, high = np.percentile(means, [2.5, 97.5], axis=0)
                    axis.fill_between(curve.steps, low, high, color=_colour(method), alpha=0.15, lw=0)
        _step_axis(axis, "combined error (lower is better)")
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _plane(pyplot: Any, curves: Mapping[Key, Curve], points: Sequence[BestPoint]) -> Any:
    """Identity score against prompt adherence along the training."""
    figure, axes = _panels(pyplot, _domains(curves))
    for axis, domain in zip(axes, _domains(curves), strict=True):
        for (method, own, photos), curve in curves.items():
            base = next((c for (name, its, _), c in curves.items() if (name, its) == (BASE, domain)), None)
            if base is not None and own == domain and method in (PLAIN, META_WARM) and photos in (1, 4):
                shared = [subject for subject in curve.subjects if subject in base.subjects]
                path = Path.of(curve.only(shared), base.only(shared), np.full((1, len(shared)), 1 / len(shared)))
                x, y = path.adherence[0], path.identity[0]
                label = f"{METHODS[method].title}, {photos} photo{'s' if photos > 1 else ''}"
                axis.plot(x, y, "-", color=_colour(method), marker=_MARKERS[photos], ms=5, label=label)
                for i in (0, len(x) - 1):
                    axis.annotate(
                        str(curve.steps[i]), (x[i], y[i]), fontsize=7, xytext=(4, 3), textcoords="offset points"
                    )
        axis.set(xlabel="prompt adherence (0 the photo again)", ylabel="identity score (0 the base model)")
    axes[0].legend(fontsize=8)
    return figure


def _bars(pyplot: Any, curves: Mapping[Key, Curve], points: Sequence[BestPoint]) -> Any:
    """Every method at its chosen step, one photo, with 95 % intervals over subjects."""
    figure, axes = _panels(pyplot, _domains(curves))
    for axis, domain in zip(axes, _domains(curves), strict=True):
        own = sorted((p for p in points if p.domain == domain and p.photos == 1), key=lambda p: -p.combined[0])
        reach = [[p.combined[0] - p.combined[1] for p in own], [p.combined[2] - p.combined[0] for p in own]]
        axis.barh(
            [f"{METHODS[p.method].title} ({p.steps})" for p in own], [p.combined[0] for p in own],
            xerr=np.maximum(reach, 0), color=[_colour(p.method) for p in own], error_kw={"lw": 1, "capsize": 2},
        )  # fmt: skip
        axis.set(xlabel="combined error (at so many steps)")
        axis.grid(axis="y", visible=False)
    return figure


def _copying(pyplot: Any, curves: Mapping[Key, Curve], points: Sequence[BestPoint]) -> Any:
    """How much of the one reference photo comes back where the prompt asks for something else."""
    figure, axes = _panels(pyplot, _domains(curves), height=3.4)
    for axis, domain in zip(axes, _domains(curves), strict=True):
        for method in (PLAIN, META_WARM):
            curve = curves.get((method, domain, 1))
            if curve is not None:
                means = curve.resampled(resample_weights(len(curve.subjects), resamples=_RESAMPLES)).scores["copying"]
                low, high = np.percentile(means, [2.5, 97.5], axis=0)
                axis.plot(curve.steps, means[0], "o-", color=_colour(method), ms=4, label=METHODS[method].title)
                axis.fill_between(curve.steps, low, high, color=_colour(method), alpha=0.15, lw=0)
        axis.axhline(0, color="black", lw=0.8)
        _step_axis(axis, "share copied (0 none, 1 all)")
    axes[0].legend(fontsize=8)
    return figure


def _photos(pyplot: Any, curves: Mapping[Key, Curve], points: Sequence[BestPoint]) -> Any:
    """The effect of more photos, each method at its chosen step."""
    figure, axes = _panels(pyplot, _domains(curves), height=3.4)
    for axis, domain in zip(axes, _domains(curves), strict=True):
        for method in METHODS:
            own = sorted((p for p in points if p.domain == domain and p.method == method), key=lambda p: p.photos)
            if len(own) > 1:
                values = np.array([p.combined for p in own])
                reach = np.maximum(np.abs(values[:, 1:] - values[:, :1]).T, 0)
                axis.errorbar(
                    [p.photos for p in own], values[:, 0], yerr=reach, color=_colour(method), marker="o", ms=4,
                    capsize=2, label=METHODS[method].title,
                )  # fmt: skip
        axis.set(xscale="log", xticks=[1, 2, 4, 8], xticklabels=["1", "2", "4", "8"])
        axis.set(xlabel="reference photos", ylabel="combined error")
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    return figure


_Figure = Callable[[Any, Mapping[Key, Curve], Sequence[BestPoint]], Any]
FIGURES: Mapping[str, tuple[str, _Figure]] = {
    "learning": ("Combined error while learning from one photo; bands are 95 % intervals over subjects.", _learning),
    "plane": (
        "The path of each training: higher is closer to the subject, further right to the prompt; true photos: 1, 1.",
        _plane,
    ),
    "methods": ("Every method at its chosen step (in brackets), one photo.", _bars),
    "copying": ("Copying of the reference photo's pose, light and background.", _copying),
    "photos": ("The effect of more photos.", _photos),
}
"""File name to caption and plot function."""


def draw_figures(rows: Sequence[Row], points: Sequence[BestPoint]) -> dict[str, bytes]:
    """Write every figure as a PNG.

    Raises:
        MissingDependency: If matplotlib is not installed.
    """
    import io

    pyplot, curves, drawn = _pyplot(), curves_of(rows), dict[str, bytes]()
    for name, (_, draw) in FIGURES.items():
        figure = draw(pyplot, curves, points)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        pyplot.close(figure)
        drawn[name] = buffer.getvalue()
    return drawn
