"""``audit``: read the nodes' audit log and verify that it was not changed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..provenance.audit_log import Detail


def audit(
    log: Annotated[Path, typer.Argument(help="audit.jsonl in ComfyUI's models/metalora_identities.")],
    head: Annotated[
        str, typer.Option(help="The head that an earlier check printed: shows whether entries were cut off since.")
    ] = "",
    json: options.Json = False,
) -> None:
    """List what was permitted, learned, saved and exported, and check that no entry was changed or left out."""
    from ..errors import UnreadableFile
    from ..provenance.audit_log import AuditLog
    from .terminal import answer

    if not log.is_file():
        raise UnreadableFile(f"There is no audit log at {log}. The nodes write it into models/metalora_identities.")
    verdict = AuditLog(log).verify(head or None)
    entries = list(islice(AuditLog(log).entries(), verdict.entries))
    lines = [f"{entry.moment}  {entry.event}  {_words(entry.details)}" for entry in entries]
    fields = {"intact": verdict.intact, "head": verdict.head, "problem": verdict.problem}
    found = f"{verdict.entries} entries, intact. Head: {verdict.head}"
    answer(
        {**fields, "entries": [vars(entry) for entry in entries]},
        "\n".join([*lines, found if verdict.intact else f"The first {verdict.entries} entries are sound."]),
        json,
    )
    if not verdict.intact:
        if json:
            raise typer.Exit(1)
        raise UnreadableFile(f"{log} was changed. {verdict.problem}")


def _words(details: Mapping[str, Detail]) -> str:
    return ", ".join(f"{key} {value}" for key, value in details.items() if value not in (None, ""))
