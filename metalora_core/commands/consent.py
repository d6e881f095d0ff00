"""``consent``: list, edit and revoke consent records, and find what was made under them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..provenance.consent import ConsentRecord
    from ..provenance.permission import Permissions

consent_app = typer.Typer(help="List, edit and revoke consent records.", no_args_is_help=True)

RecordFile = Annotated[Path, typer.Argument(help="The record: a .consent.json file beside the identities.")]


@consent_app.command("list")
def list_records(folder: options.IdentityFolder, json: options.Json = False) -> None:
    """List the records of a folder: what each permits, until when, and whether it still holds."""
    from .permission import permissions_near
    from .terminal import answer

    known = permissions_near(folder / "consents")
    found = [_told(known, record) for record in known.stores[0].list()]
    lines = [f"{one['id'][:12]}  {_line(one)}" for one in found]
    answer({"records": found}, "\n".join(lines) or "There is no record.", json)


@consent_app.command()
def files(record: RecordFile, json: options.Json = False) -> None:
    """List the identities, LoRAs and priors that were made under a record, here and elsewhere."""
    from ..provenance.consent_store import read_record
    from ..provenance.subject_files import kept_under
    from .permission import permissions_near
    from .terminal import answer

    read = read_record(record)
    kept = kept_under(permissions_near(record), {read.id: read})
    lines = [f"{file.kind}  {file.path}" for file in kept.files]
    lines += [f"elsewhere  {place}: no longer where it was written" for place in kept.elsewhere]
    fields = {"files": [vars(file) for file in kept.files], "elsewhere": kept.elsewhere}
    answer(fields, "\n".join(lines), json)


@consent_app.command()
def revoke(
    record: RecordFile,
    reason: Annotated[str, typer.Option(help="Why, for the journal.")] = "",
    json: options.Json = False,
) -> None:
    """End a permission for good. Everything that was made under it is refused from now on."""
    from ..provenance.consent_store import REVOKED, read_record
    from ..provenance.subject_files import kept_under
    from .permission import noted, permissions_near
    from .terminal import answer

    read, known = read_record(record), permissions_near(record)
    known.stores[0].revoke(read.id, reason)
    noted(known, REVOKED, consent=read.id)
    kept = kept_under(known, {read.id: read})
    made = [str(file.path) for file in kept.files if file.kind != "record"]
    text = f"Revoked: {read.summary}. Files made under it, which are refused here; delete copies elsewhere:"
    lines = [text, *made, *kept.elsewhere] if made or kept.elsewhere else [f"Revoked: {read.summary}."]
    answer({"id": read.id, "files": made, "elsewhere": kept.elsewhere}, "\n".join(lines), json)


@consent_app.command()
def edit(
    record: RecordFile,
    permitted_uses: Annotated[str, typer.Option(help="What is permitted from now on, separated by commas.")] = "",
    expires: Annotated[str, typer.Option(help='Last day, such as 2027-12-31; "none" for no end.')] = "",
    licence: Annotated[str, typer.Option(help="Licence or contract behind it.")] = "",
    evidence: Annotated[
        str, typer.Option(help="A signed form, of which the hash is kept, or words that say where it is.")
    ] = "",
    channels: Annotated[str, typer.Option(help='Where pictures may appear, such as "website, print".')] = "",
    registry_id: Annotated[str, typer.Option(help="Id of the permission in a public consent registry.")] = "",
    recorded_by: Annotated[str, typer.Option(help="Who enters this; the moment is kept with it.")] = "",
    json: options.Json = False,
) -> None:
    """Change the terms of a record from now on; what was learned under it stays tied to it."""
    from ..provenance.consent import record_consent
    from ..provenance.consent_store import EDITED, read_record
    from .permission import noted, permissions_near
    from .terminal import answer

    read, known = read_record(record), permissions_near(record)
    terms = {name: getattr(known.in_force(read.id), name) for name in type(read).model_fields}
    for name in ("format", "format_version", "id"):
        terms.pop(name)
    texts = {"licence": licence, "channels": channels, "registry_id": registry_id, "recorded_by": recorded_by}
    changes: dict[str, Any] = {name: text for name, text in texts.items() if text}
    if evidence:
        changes["evidence"] = _evidence(evidence)
    if recorded_by:
        changes["recorded_at"] = datetime.now(timezone.utc)
    if permitted_uses:
        changes["purposes"] = [word.strip() for word in permitted_uses.split(",") if word.strip()]
    if expires:
        changes["expires"] = _end_of(expires)
    new = record_consent(**(terms | changes))
    known.stores[0].edit(read.id, new)
    noted(known, EDITED, consent=read.id, holds_now=new.id)
    answer({"id": read.id, "holds_now": new.id}, f"From now on: {new.summary}.", json)


def _evidence(text: str) -> str:
    from ..provenance.consent import evidence_of

    # Not Path.is_file, which raises for words that are too long for a name.
    return evidence_of(Path(text)) if isfile(text) else text


def _end_of(text: str) -> datetime | None:
    from ..errors import InvalidOptions

    if text == "none":
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc) + timedelta(days=1)
    except ValueError as error:
        raise InvalidOptions(f"--expires {text!r} is not a day. Write it as 2027-12-31, or none.") from error


def _line(told: dict[str, Any]) -> str:
    own = ("id", "summary", "refused", "holds_now")
    more = [f"{name.replace('_', ' ')}: {value}" for name, value in told.items() if name not in own]
    return "  ".join(filter(None, [told["summary"], *more, told["refused"]]))


def _told(known: Permissions, record: ConsentRecord) -> dict[str, Any]:
    from ..provenance.consent import SINCE_VERSION_2

    standing = known.stores[0].standing(record.id)
    fields = record.model_dump(mode="json", include=set(SINCE_VERSION_2))
    more = {name: value for name, value in fields.items() if value}
    return {
        "id": record.id, "summary": record.summary, "refused": standing.refused, "holds_now": standing.record_id, **more
    }  # fmt: skip
