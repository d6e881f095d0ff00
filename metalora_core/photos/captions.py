"""Training captions for the reference photos."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..checks import plain_line
from ..errors import InvalidOptions

CAPTION_LIMIT = 1000
"""Most characters of one caption; text encoders read far fewer."""

WORD_LIMIT = 60
"""Most characters of a trigger or class word."""

_FIELDS = ("trigger", "class")

_SPACED = r"[^\W\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
"""A character of a script that puts spaces between words: Thai, Burmese, Chinese and Japanese have none."""


def word_findings(trigger: str, class_word: str) -> list[str]:
    """What is wrong with a trigger and class word, one text each; empty if nothing is wrong."""
    trigger, class_word = trigger.strip(), class_word.strip()
    findings: list[str] = []
    if not trigger:
        findings.append("the trigger is empty; choose a rare word such as ohwx")
    if not class_word:
        findings.append("the class word is empty; say what the subject is, such as person or mug")
    if trigger and trigger.lower() == class_word.lower():
        findings.append(f"trigger and class word are both {trigger!r}; choose a rare trigger such as ohwx")
    return findings


def mentions(text: str, word: str) -> bool:
    """Whether a text has a word, or several, as whole words in any case; "person's" has "person", "woman" no "man"."""
    return bool(word.strip()) and _whole(word).search(text) is not None


def subject_words(trigger: str, class_word: str) -> str:
    """How prompts and captions call a subject: trigger and class word, each once."""
    return trigger if mentions(trigger, class_word) else f"{trigger} {class_word}".strip()


def with_subject(caption: str, trigger: str, class_word: str) -> str:
    """The caption with the subject in it: the trigger where it stands, before the class word, or both in front.

    Args:
        caption: One line.
        trigger: The rare word, which gets the spelling given here; a text encoder may distinguish "OHWX" from "ohwx".
        class_word: What the subject is.
    """
    if mentions(caption, trigger):
        return _whole(trigger).sub(lambda _: trigger, caption)
    words = subject_words(trigger, class_word)
    if not mentions(caption, class_word):
        return f"{words}, {caption}"
    # A trigger that holds the class word takes its place; any other is put before it.
    return _whole(class_word).sub(
        lambda found: words if mentions(trigger, class_word) else f"{trigger} {found[0]}".strip(), caption, count=1
    )


def _whole(word: str) -> re.Pattern[str]:
    """Finds a word in any case that no letter, digit or hyphen touches."""
    word = word.strip()
    before = rf"(?<!{_SPACED})(?<!-)" if re.match(_SPACED, word) else ""
    # An apostrophe ends a word only in a possessive: "can't" is not about a can.
    after = rf"(?!{_SPACED}|-{_SPACED}|['’](?!s\b){_SPACED})" if re.search(rf"{_SPACED}$", word) else ""
    return re.compile(before + r"\s+".join(map(re.escape, word.split())) + after, re.IGNORECASE)


def build_captions(lines: Sequence[str], *, trigger: str, class_word: str, count: int) -> tuple[str, ...]:
    """A caption for each photo, with the subject in it.

    Args:
        lines: One for all photos, or one per photo. ``{trigger}`` and ``{class}`` are filled in. An empty line, or
            none at all, means "photo of a TRIGGER CLASS".
        trigger: The rare word that calls the subject; may be empty.
        class_word: What the subject is, such as "person".
        count: Number of photos.

    Returns:
        One caption per photo.

    Raises:
        InvalidOptions: If a field is unknown, the class word is empty, or the numbers of lines and photos do not fit.
    """
    class_word, trigger = plain_line(class_word, WORD_LIMIT), plain_line(trigger, WORD_LIMIT)
    lines = list(lines) or [""]
    findings: list[str] = []
    if not class_word:
        findings.append('The class word is empty; write what the subject is, such as "person" or "mug".')
    unknown = sorted({field for line in lines for field in re.findall(r"\{([^{}]*)\}", line)} - set(_FIELDS))
    if unknown:
        known = ", ".join(f"{{{field}}}" for field in _FIELDS)
        findings.append(f"The caption has the unknown field {{{plain_line(unknown[0], 40)}}}; use {known}.")
    if len(lines) not in (1, count):
        findings.append(f"The caption has {len(lines)} lines for {count} photos; write one line, or one per photo.")
    if findings:
        raise InvalidOptions(" ".join(findings))
    lines = lines * count if len(lines) == 1 else lines
    return tuple(_fill(line, trigger, class_word) for line in lines)


def _fill(line: str, trigger: str, class_word: str) -> str:
    if not line.strip():
        return f"photo of a {subject_words(trigger, class_word)}"
    # One pass over the line, so that braces inside a word are text and never filled in themselves.
    values = {"trigger": trigger, "class": class_word}
    filled = plain_line(re.sub(r"\{(\w+)\}", lambda match: values[match[1]], line), CAPTION_LIMIT)
    # An empty field leaves its comma behind.
    filled = re.sub(r"(,\s*)+", ", ", re.sub(r"\s+,", ",", filled)).strip(" ,")
    return with_subject(filled, trigger, class_word)
