"""What can go wrong, one class per thing a user can do about it."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConsentRefused",
    "DamagedFile",
    "HostChanged",
    "IncompatibleBaseModel",
    "InvalidOptions",
    "MetaLoRAError",
    "MissingDependency",
    "OutOfMemory",
    "RankMismatch",
    "TrainingCancelled",
    "TrainingDiverged",
    "UnreadableFile",
    "UnusableReferences",
    "is_out_of_memory",
]


class MetaLoRAError(Exception):
    """Base of every error of this library; the text says what was found, what was expected and what to do."""


class IncompatibleBaseModel(MetaLoRAError):
    """A prior or an identity was made for a base model other than the connected one."""


class HostChanged(MetaLoRAError):
    """The program that runs the model computes differently from what this library expects."""


class RankMismatch(MetaLoRAError):
    """The shapes of meta_down, mid and up do not form a chain."""


class UnusableReferences(MetaLoRAError):
    """The reference photos are not usable."""


class UnreadableFile(MetaLoRAError):
    """A file is missing, malformed, oversized, truncated or not what its name says."""


class DamagedFile(UnreadableFile):
    """A file is truncated, or was changed after it was written."""


class ConsentRefused(MetaLoRAError):
    """A consent record is missing, expired or does not permit the requested use."""


class InvalidOptions(MetaLoRAError):
    """A setting is out of range or contradicts another one."""


class MissingDependency(MetaLoRAError):
    """An optional package is not installed.

    Args:
        feature: What was requested, in the user's words.
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
    """The user stopped a training; it resumes from its checkpoint, if there is one."""


class OutOfMemory(MetaLoRAError):
    """A step does not fit into memory, even with every saving."""


def is_compile_failure(error: BaseException) -> bool:
    """Whether an error comes from torch's compiler: no C++ compiler, no Triton, or a model that it cannot take.

    Recognised by where the error's class was defined, since the compiler is not loaded before it is used; that it does
    not support this Python is a plain RuntimeError.
    """
    if isinstance(error, RuntimeError) and "torch.compile" in str(error):
        return True
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


# Of CUDA, of the machine's allocator on Linux and on Windows, of cuBLAS.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the card or the machine is out of memory.

    Recognised by name and text, since torch has several such errors and a plain RuntimeError for the machine's own
    memory.
    """
    if isinstance(error, (MemoryError, OutOfMemory)) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
