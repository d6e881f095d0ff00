"""Which values a setting may have, and how one outside is told: one wording for every kind of run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidOptions

__all__ = ["COUNT", "NOT_NEGATIVE", "POSITIVE", "RANK", "SEED", "SHARE", "WHOLE", "Range", "refuse"]


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
        """What is wrong with these fields of an options object, one text each; empty if nothing is."""
        values: Mapping[str, Any] = {name: getattr(options, name) for name in names}
        return [f"{name} is {value!r}, {self} is needed" for name, value in values.items() if not self.holds(value)]


COUNT = Range(1, 10**9, whole=True)
WHOLE = Range(0, 10**9, whole=True)
# No layer of a known model is wider; more would only take memory.
RANK = Range(1, 65_536, whole=True)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
SEED = Range(-(2**63), 2**63 - 1, whole=True)


def refuse(what: str, findings: list[str]) -> None:
    """Raise ``InvalidOptions`` with all findings at once; nothing if there are none.

    Args:
        what: Whose options they are, such as "this adaptation".
        findings: One text each, without a full stop.
    """
    if findings:
        raise InvalidOptions(f"The options of {what} cannot work: {'; '.join(findings)}.")
