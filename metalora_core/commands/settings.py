"""``--set NAME=VALUE``: every setting of a training, including those without an option of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..errors import InvalidOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

Settings = Annotated[
    list[str],
    typer.Option("--set", help="Any other setting as NAME=VALUE, may be repeated; --set help=1 lists the names."),
]


def with_settings(options: Options, texts: Sequence[str]) -> Options:
    """The options with some of them set from the command line.

    Args:
        options: Frozen dataclass of a training's settings.
        texts: ``name=value`` each; a value is JSON (``0.1``, ``true``, ``["*attn*"]``, ``{"*mlp*": 4}``) or plain text.

    Raises:
        InvalidOptions: If a name is unknown or a value is of another kind; the message lists what there is.
    """
    from pydantic import TypeAdapter, ValidationError

    usual = asdict(options)
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in usual or not equals:
            known = ", ".join(f"{field.name}={usual[field.name]!r}" for field in fields(options))
            raise InvalidOptions(f"--set {text}: give NAME=VALUE with one of these names (and usual values): {known}.")
        given[name] = _value(value)
    try:
        return TypeAdapter(type(options)).validate_python({**usual, **given})
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidOptions(f"--set has values that are not valid: {found}.") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
