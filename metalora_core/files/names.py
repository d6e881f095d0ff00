"""Which names a file may have on every system, so that it can be shared and never ends up where nobody looks for it."""

from __future__ import annotations

from ..checks import plain_line
from ..errors import InvalidOptions

LONGEST_BYTES = 200
"""Of one part of a name, so that its checkpoint's longer name fits too; most systems take 255 bytes."""

_FORBIDDEN = frozenset('<>:"|?*\\/')
_PORTS = (f"{port}{number}" for port in ("com", "lpt") for number in range(10))
_DEVICES = frozenset({"con", "prn", "aux", "nul", *_PORTS})


def name_finding(part: str) -> str:
    """What is wrong with one part of a path as a name on Windows, macOS or Linux; empty if nothing is."""
    if not part.strip(". "):
        return "is empty"
    if any(not mark.isprintable() for mark in part):
        return "has a character that cannot be seen"
    if wrong := sorted(_FORBIDDEN.intersection(part)):
        return f"has {' '.join(wrong)} in it, which not every system takes"
    if part.startswith("."):
        return "starts with a dot, which hides it"
    if part.endswith((".", " ")):
        return "ends in a dot or a space, which Windows leaves out"
    if part.split(".")[0].strip().lower() in _DEVICES:
        return "is the name of a device on Windows"
    if len(part.encode()) > LONGEST_BYTES:
        return f"takes {len(part.encode())} bytes; at most {LONGEST_BYTES} are accepted"
    return ""


def checked_name(name: str, suffix: str) -> str:
    """A file name as somebody typed it, with what is meant put right and what no system could hold refused.

    Backslashes become slashes, white space around the parts goes, and the ending is there once.

    Args:
        name: Subfolders with a slash; ".." is left to whoever knows the folder.
        suffix: The ending, such as ".safetensors".

    Raises:
        InvalidOptions: If a part is empty, hidden, too long or a name that some system cannot hold.
    """
    text = name.strip().replace("\\", "/")
    *folders, last = [part.strip() for part in text.split("/")]
    stem = last[: -len(suffix)].rstrip() if last.lower().endswith(suffix) else last
    parts = [part for part in folders if part not in ("", ".")]
    for part in ([""] if text.startswith("/") else []) + [*parts, stem]:
        if part != ".." and (finding := name_finding(part)):
            raise InvalidOptions(
                f"The file name {plain_line(name, 80)!r} cannot be used: {plain_line(part, 40)!r} {finding}. Give it "
                "another name, subfolders with a slash."
            )
    return "/".join([*parts, f"{stem}{suffix}"])
