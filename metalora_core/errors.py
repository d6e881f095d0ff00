"""What can go wrong, one class per thing a user can do about it."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConsentRefused",
    "IncompatibleBaseModel",
    "InvalidOptions",
    "MetaLoRAError",
    "MissingDependency",
    "RankMismatch",
    "TrainingCancelled",
    "TrainingDiverged",
    "UnreadableFile",
    "UnusableReferences",
]


class MetaLoRAError(Exception):
    """Base of every error of this library; the text says what was found, what was expected and what to do."""


class IncompatibleBaseModel(MetaLoRAError):
    """A prior or an identity was made for another base model than the connected one."""


class RankMismatch(MetaLoRAError):
    """The shapes of meta_down, mid and up do not form a chain."""


class UnusableReferences(MetaLoRAError):
    """The reference photos cannot be learned from."""


class UnreadableFile(MetaLoRAError):
    """A file is missing, malformed, oversized, truncated or not what its name says."""


class ConsentRefused(MetaLoRAError):
    """A consent record is missing, expired or does not permit the asked use."""


class InvalidOptions(MetaLoRAError):
    """A setting is out of its range or contradicts another one."""


class MissingDependency(MetaLoRAError):
    """An optional package is not installed.

    Args:
        feature: What was asked for, in the user's words.
        pip_line: The exact line that installs what is missing.
    """

    def __init__(self, feature: str, pip_line: str) -> None:
        super().__init__(f"{feature} needs a package that is not installed. Install it with: {pip_line}")
        self.feature = feature
        self.pip_line = pip_line


class TrainingDiverged(MetaLoRAError):
    """The loss or a factor became NaN or infinite.

    Args:
        message: What happened and what to do.
        step: Steps that were done when it was noticed.
        last_good_step: Step of the last state in which everything was finite.
        last_good: That state (an identity for an adaptation), or None.
    """

    def __init__(self, message: str, step: int = 0, last_good_step: int = 0, last_good: Any = None) -> None:
        super().__init__(message)
        self.step = step
        self.last_good_step = last_good_step
        self.last_good = last_good


class TrainingCancelled(MetaLoRAError):
    """The user stopped a training; its checkpoint, if one was asked for, continues it."""
