"""The command line: ``python -m metalora_core COMMAND``.

Exit codes: 0 done, 1 an explained error, 2 wrong usage, 130 interrupted. Results go to standard output, progress and
errors to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

from . import terminal
from .adapt import adapt
from .adapt_many import adapt_many
from .audit import audit
from .consent import consent_app
from .demo import demo
from .export import export
from .generate import generate
from .inspect import inspect
from .meta_train import meta_train
from .provenance import provenance_app
from .report import report
from .subject import subject_app
from .sweep import sweep

# Groups of commands whose packages load torch: (module, name of its Typer app), imported when asked for.
_LATER = {
    "prior": ("metalora_core.commands.quick_prior", "prior_app"),
    "pocket": ("metalora_core.commands.pocket", "pocket_app"),
    "bench": ("metalora_core.commands.bench", "bench_app"),
}


class LazyGroup(TyperGroup):
    """A command group that imports heavy sub-commands only when they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, those of the heavy groups last."""
        return [*super().list_commands(ctx), *(name for name, (module, _) in _LATER.items() if _exists(module))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name in _LATER and _exists(_LATER[cmd_name][0]):
            module, attribute = _LATER[cmd_name]
            command = typer.main.get_command(getattr(import_module(module), attribute))
            command.name = cmd_name
            return command
        return super().get_command(ctx, cmd_name)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


app = typer.Typer(
    cls=LazyGroup,
    help="Meta-LoRA: learn a person or a product from one to eight photos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(adapt)
app.command()(adapt_many)
app.command()(generate)
app.command()(export)
app.command()(inspect)
app.command()(meta_train)
app.command()(audit)
app.command()(report)
app.command()(sweep)
app.add_typer(consent_app, name="consent")
app.add_typer(subject_app, name="subject")
app.add_typer(provenance_app, name="provenance")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the program with its exit code.

    Args:
        arguments: Words after the program's name; None takes this process's own.

    Raises:
        SystemExit: Always, with the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(terminal.run(lambda: app(words, prog_name="metalora_core"), as_json="--json" in words))
