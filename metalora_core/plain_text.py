"""Text from files and widgets, made harmless: one line, bounded, nothing that hides or reverses it."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """The text with a space for every control, formatting and unassigned character, line breaks among them."""
    return "".join(" " if unicodedata.category(mark) in _HIDDEN else mark for mark in text)


def plain_line(text: str, limit: int) -> str:
    """Clean a text from an untrusted source.

    Control, formatting and unassigned characters (line breaks, escape sequences, marks that reverse the reading
    direction) become spaces, runs of white space become one space, and what is too long is cut with an ellipsis.

    Args:
        text: Any text.
        limit: Most characters of the result, at least 1.
    """
    # The cut before the clean-up bounds the work as well as the result.
    line = " ".join(visible(text[: 8 * limit + 64]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
