"""The range of each setting, which packages are there, and how untrusted text is made harmless."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .errors import InvalidOptions, MissingDependency

__all__ = [
    "COUNT",
    "NOT_NEGATIVE",
    "POSITIVE",
    "RANK",
    "SEED",
    "SHARE",
    "WHOLE",
    "Range",
    "optional",
    "plain_line",
    "refuse",
    "visible",
]


@dataclass(frozen=True)
class Range:
    """Values that a number may have; NaN and infinity are in none.

    Args:
        least: Smallest value.
        most: Largest value.
        whole: Only whole numbers.
        above: The smallest value itself is too small.
        below: The largest value itself is too large.
    """

    least: float
    most: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether the value is a number of this range."""
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            return False
        high_enough = value > self.least if self.above else value >= self.least
        return high_enough and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        """The range in words, such as "a whole number of at least 1"."""
        kind = "a whole number" if self.whole else "a finite number"
        low = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
        high = f" and {'below' if self.below else 'at most'} {self.most:g}" if math.isfinite(self.most) else ""
        return f"{kind} {low}{high}"

    def findings(self, options: object, *names: str) -> list[str]:
        """What is wrong with these fields of an options object, one text each; empty if nothing is wrong."""
        values: Mapping[str, Any] = {name: getattr(options, name) for name in names}
        return [f"{name} is {value!r}; expected {self}" for name, value in values.items() if not self.holds(value)]


COUNT = Range(1, 10**9, whole=True)
WHOLE = Range(0, 10**9, whole=True)
# No layer of a known model is wider; more would only take memory.
RANK = Range(1, 65_536, whole=True)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
SEED = Range(-(2**63), 2**64 - 1, whole=True)


def seed_after(seed: int, count: int) -> int:
    """The seed that comes a number of seeds later; after the largest comes 0."""
    later = seed + count
    return later if later < 2**64 else later - 2**64


def refuse(what: str, findings: list[str]) -> None:
    """Raise ``InvalidOptions`` with all findings at once; nothing if there are none.

    Args:
        what: What the options are for, such as "this adaptation".
        findings: One text each, without a full stop.
    """
    if findings:
        raise InvalidOptions(f"The options of {what} are not valid: {'; '.join(findings)}.")


_PIP_LINES = {
    "bitsandbytes": "pip install bitsandbytes",
    "c2pa": "pip install c2pa-python",
    "cryptography": "pip install c2pa-python",
    "diffusers": "pip install -U diffusers transformers",
    "huggingface_hub": "pip install huggingface_hub",
    "matplotlib": "pip install matplotlib",
    "peft": "pip install peft",
    "pi_heif": "pip install pi-heif",
    "pynvml": "pip install nvidia-ml-py",
    "prodigyopt": "pip install prodigyopt",
    "schedulefree": "pip install schedulefree",
    "tqdm": "pip install tqdm",
    "transformers": "pip install -U transformers",
    "typer": "pip install typer tqdm",
}
"""What is imported only through ``optional``: packages that ComfyUI's nodes do not need."""


def optional(module: str, feature: str, name: str = "") -> Any:
    """Import a module, or one name of it, of a package that not every installation has.

    Args:
        module: Its name, such as "diffusers.loaders".
        feature: What needs it, in the user's words, as the subject of a sentence.
        name: A class or function of the module; empty for the module itself.

    Raises:
        MissingDependency: If the package is missing or too old; the text has the command that installs it.
    """
    try:
        found = import_module(module)
        return getattr(found, name) if name else found
    except (ImportError, AttributeError) as error:
        raise MissingDependency(feature, _PIP_LINES[module.split(".")[0]]) from error


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """The text with a space for every control, formatting and unassigned character, line breaks among them."""
    return "".join(" " if unicodedata.category(mark) in _HIDDEN else mark for mark in text)


def table_cell(text: str) -> str:
    """The text for a table file: an apostrophe comes before what a spreadsheet would compute as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


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
