"""Training captions for the reference photos."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..checks import plain_line
from ..errors import InvalidOptions

DEFAULT_TEMPLATE = "photo of a {trigger} {class}, {details}"

CAPTION_LIMIT = 1000
"""Most characters of one caption; text encoders read far fewer."""

WORD_LIMIT = 60
"""Most characters of a trigger or class word."""

_FIELDS = ("trigger", "class", "details")


def word_findings(trigger: str, class_word: str) -> list[str]:
    """What is wrong with the words that shall call a subject, one text each; empty if nothing is."""
    trigger, class_word = trigger.strip(), class_word.strip()
    findings: list[str] = []
    if not trigger:
        findings.append("the trigger is empty; choose a rare word such as ohwx")
    if not class_word:
        findings.append("the class word is empty; say what the subject is, such as person or mug")
    if trigger and trigger.lower() == class_word.lower():
        findings.append(f"trigger and class word are both {trigger!r}; choose a rare trigger such as ohwx")
    return findings


def build_captions(
    template: str, *, trigger: str, class_word: str, count: int, details: Sequence[str] = ()
) -> tuple[str, ...]:
    """Fill in a caption for each photo.

    Args:
        template: One line for all photos, or one line per photo. ``{trigger}``, ``{class}`` and ``{details}`` are
            filled in; the class word is added in front where a line names neither it nor the trigger. Empty lines
            are left out, an empty template means ``DEFAULT_TEMPLATE``.
        trigger: The rare word that calls the subject; may be empty.
        class_word: What the subject is, such as "person".
        count: Number of photos.
        details: What is to be seen in each photo beside the subject, one text per photo; what is told here is not
            learned as a part of the subject.

    Returns:
        One caption per photo.

    Raises:
        InvalidOptions: If a field is unknown, the class word is empty, or the numbers of lines, details and photos
            do not fit.
    """
    class_word, trigger = plain_line(class_word, WORD_LIMIT), plain_line(trigger, WORD_LIMIT)
    lines = [line for line in template.splitlines() if line.strip()] or [DEFAULT_TEMPLATE]
    findings: list[str] = []
    if not class_word:
        findings.append('The class word is empty; write what the subject is, such as "person" or "mug".')
    unknown = sorted({field for line in lines for field in re.findall(r"\{([^{}]*)\}", line)} - set(_FIELDS))
    if unknown:
        known = ", ".join(f"{{{field}}}" for field in _FIELDS)
        findings.append(f"The caption has the unknown field {{{plain_line(unknown[0], 40)}}}; {known} can be used.")
    if len(lines) not in (1, count):
        findings.append(f"The caption has {len(lines)} lines for {count} photos; write one line, or one per photo.")
    if details and len(details) != count:
        findings.append(f"There are {len(details)} detail texts for {count} photos; give one per photo, or none.")
    if findings:
        raise InvalidOptions(" ".join(findings))
    lines = lines * count if len(lines) == 1 else lines
    told = list(details) or [""] * count
    return tuple(_fill(line, trigger, class_word, detail) for line, detail in zip(lines, told, strict=True))


def class_caption(template: str, class_word: str) -> str:
    """The caption without the subject: what prior preservation and the "before" picture ask for.

    Raises:
        InvalidOptions: As ``build_captions``.
    """
    first_line = next((line for line in template.splitlines() if line.strip()), "")
    return build_captions(first_line, trigger="", class_word=class_word, count=1)[0]


def _fill(line: str, trigger: str, class_word: str, detail: str) -> str:
    if "{class}" not in line and "{trigger}" not in line and class_word not in line:
        line = f"{{trigger}} {{class}}, {line}"
    # One pass over the template, so that braces inside a word are text and never filled in themselves.
    values = {"trigger": trigger, "class": class_word, "details": plain_line(detail, CAPTION_LIMIT)}
    filled = plain_line(re.sub(r"\{(\w+)\}", lambda match: values[match[1]], line), CAPTION_LIMIT)
    # An empty field leaves its comma behind.
    filled = re.sub(r"\s+,", ",", filled)
    return re.sub(r"(,\s*)+", ", ", filled).strip(" ,")
