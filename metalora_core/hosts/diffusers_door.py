"""The one door to the diffusers package, which is large and imported only when a model is needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import MissingDependency


def diffusers_class(name: str) -> Any:
    """A class of diffusers by name.

    Raises:
        MissingDependency: If diffusers is not installed or too old to have it.
    """
    try:
        return getattr(import_module("diffusers"), name)
    except (ImportError, AttributeError) as error:
        raise MissingDependency(f"diffusers' {name}", "pip install -U diffusers transformers") from error
