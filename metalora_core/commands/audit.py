"""``audit``: read the nodes' audit log and verify that it was not changed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..provenance.audit_entry import Detail
    from ..provenance.audit_log import AuditVerdict


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
    from .permission import permissions_near
    from .terminal import answer

    if not log.is_file():
        raise UnreadableFile(f"There is no audit log at {log}. The nodes write it into models/metalora_identities.")
    kept = AuditLog(log, permissions_near(log).installation)
    verdict = kept.verify(head or None)
    entries = list(islice(kept.entries(), verdict.entries))
    lines = [f"{entry.moment}  {entry.event}  {_words(entry.details)}" for entry in entries]
    fields = {name: getattr(verdict, name) for name in ("intact", "head", "problem", "gaps", "unverified")}
    answer(
        {**fields, "entries": [vars(entry) for entry in entries]}, "\n".join([*lines, _found(verdict)]).strip(), json
    )
    if not verdict.intact:
        if json:
            raise typer.Exit(1)
        raise UnreadableFile(f"{log} was changed. {verdict.problem}")


def _found(verdict: AuditVerdict) -> str:
    if not verdict.intact:
        return f"The first {verdict.entries} entries are sound."
    lines = [f"{verdict.entries} entries, intact. Head: {verdict.head}"]
    if verdict.gaps:
        lines.append(f"Entries were lost; what is known about it: entries {', '.join(map(str, verdict.gaps))}.")
    if verdict.unverified:
        lines.append(f"{verdict.unverified} entries are not signed with this installation's key.")
    return "\n".join(lines)


def _words(details: Mapping[str, Detail]) -> str:
    return ", ".join(f"{key} {value}" for key, value in details.items() if value not in (None, ""))
