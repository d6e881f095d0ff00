"""The one door to the diffusers package, which is large and imported only when a model is needed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ..checks import optional


@contextmanager
def offline() -> Generator[None]:
    """No network access inside, whatever diffusers or transformers would like to fetch."""
    constants = optional("huggingface_hub.constants", "diffusers")

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def diffusers_class(name: str) -> Any:
    """A class of diffusers by name.

    Raises:
        MissingDependency: If diffusers is not installed or too old to have it.
    """
    return optional("diffusers", f"diffusers' {name}", name)
