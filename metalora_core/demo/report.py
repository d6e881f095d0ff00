"""The demonstration's results as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation.report.tables import table
from ..evaluation.subjects.world import LearnedSubject
from .run import MethodResult

_HEAD = ("method", "identity error", "prompt error", "steps", "seconds", "trained", "file")


def demo_table(runs: Sequence[tuple[LearnedSubject, Sequence[MethodResult]]]) -> str:
    """One table a subject, for people."""
    parts: list[str] = []
    for subject, results in runs:
        photos = len(subject.photos.images)
        heading = f"A {subject.photos.class_word}, {photos} photo{'s' if photos > 1 else ''}, "
        parts.append(heading + f"mean of {len(subject.prompts)} prompts")
        parts.append(table([_HEAD, *(_row(result) for result in results)]) + "\n")
    if any(len(subject.truth) for subject, _ in runs):
        parts.append("truth: true photos of the subject in the asked scenes, so the scorers' own errors.")
    return "\n".join(parts)


def _row(result: MethodResult) -> tuple[str, ...]:
    errors = (result.method, f"{result.identity_error:.4f}", f"{result.prompt_error:.4f}")
    if not result.steps:
        return (*errors, "–", "–", "–", "–")
    size = f"{result.file_bytes / 1024:,.0f} KB"
    return (*errors, str(result.steps), f"{result.seconds:.1f}", f"{result.parameters:,}", size)


def demo_fields(runs: Sequence[tuple[LearnedSubject, Sequence[MethodResult]]]) -> list[dict[str, Any]]:
    """Every number of the tables, ready for JSON."""
    return [
        {
            "domain": subject.domain,
            "class_word": subject.photos.class_word,
            "photos": len(subject.photos.images),
            "prompts": len(subject.prompts),
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
