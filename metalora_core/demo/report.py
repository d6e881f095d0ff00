"""The demonstration's results as a picture, a table and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..evaluation.report.tables import table
from ..photos.pictures import to_pil
from .figure import Column, Panel, draw_figure
from .run import MethodResult
from .subjects import DemoSubject

ROWS_SHOWN = 4
_HEAD = ("method", "identity error", "prompt error", "steps", "seconds", "trained", "file")
_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


def demo_figure(runs: Sequence[tuple[DemoSubject, Sequence[MethodResult]]], steps: int) -> Image.Image:
    """One panel a subject, the first prompts as rows."""
    count = len(runs[0][0].training_set.images)
    title = f"Learned from {_WORDS.get(count, str(count))} photo{'s' if count > 1 else ''}"
    known = all(subject.truth is not None for subject, _ in runs)
    whose = "subjects that no training has seen" if known else "your own photos"
    subtitle = f"{whose}; the same {steps} steps and prompts for both methods. Errors: lower is better."
    return draw_figure(title, subtitle[0].upper() + subtitle[1:], [_panel(*run) for run in runs])


def _panel(subject: DemoSubject, results: Sequence[MethodResult]) -> Panel:
    rows = min(ROWS_SHOWN, len(subject.scenes))
    word = subject.training_set.class_word
    return Panel(
        heading=f"A {word}",
        note=f'prompts: "photo of a {subject.training_set.trigger} {word}, …"',
        photos=tuple(map(to_pil, subject.training_set.images[:rows])),
        prompts=tuple(scene.words(subject.domain) for scene in subject.scenes[:rows]),
        columns=tuple(
            Column(
                result.method, _note(result), tuple(map(to_pil, result.pictures[:rows])), result.method == "Meta-LoRA"
            )
            for result in results
        ),
    )


def _note(result: MethodResult) -> str:
    name = "identity floor" if result.method == "truth" else "identity error"
    other = "prompt floor" if result.method == "truth" else "prompt error"
    return f"{name} {result.identity_error:.3f}\n{other} {result.prompt_error:.3f}"


def demo_table(runs: Sequence[tuple[DemoSubject, Sequence[MethodResult]]]) -> str:
    """One table a subject, for people."""
    parts: list[str] = []
    for subject, results in runs:
        photos = len(subject.training_set.images)
        heading = f"A {subject.training_set.class_word}, {photos} photo{'s' if photos > 1 else ''}, "
        parts.append(heading + f"mean of {len(subject.scenes)} prompts")
        parts.append(table([_HEAD, *(_row(result) for result in results)]) + "\n")
    if any(subject.truth is not None for subject, _ in runs):
        parts.append("truth: true photos of the subject in the asked scenes, so what the readers themselves err.")
    return "\n".join(parts)


def _row(result: MethodResult) -> tuple[str, ...]:
    errors = (result.method, f"{result.identity_error:.4f}", f"{result.prompt_error:.4f}")
    if not result.steps:
        return (*errors, "–", "–", "–", "–")
    size = f"{result.file_bytes / 1024:,.0f} KB"
    return (*errors, str(result.steps), f"{result.seconds:.1f}", f"{result.parameters:,}", size)


def demo_fields(runs: Sequence[tuple[DemoSubject, Sequence[MethodResult]]]) -> list[dict[str, Any]]:
    """Every number of the tables, ready for JSON."""
    return [
        {
            "domain": subject.domain,
            "class_word": subject.training_set.class_word,
            "photos": len(subject.training_set.images),
            "prompts": len(subject.scenes),
            "method": result.method,
            "identity_error": result.identity_error,
            "prompt_error": result.prompt_error,
            "steps": result.steps,
            "seconds": round(result.seconds, 2),
            "parameters": result.parameters,
            "file_bytes": result.file_bytes,
        }
        for subject, results in runs
        for result in results
    ]
