"""How an installation stands: which identities and runs have a permission, and which permissions end soon."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from ..checks import plain_line, table_cell
from ..errors import ConsentRefused, UnreadableFile
from .audit_entry import AuditEntry
from .effort import Prices, cost_table
from .permission import IDENTITY_APPLIED, IDENTITY_EXPORTED, IDENTITY_LEARNED, REFUSED, Permissions
from .saved_identities import ConsentStates
from .subject_files import identity_records

Table: TypeAlias = list[tuple[str, ...]]
_RUNS = (IDENTITY_LEARNED, IDENTITY_APPLIED, IDENTITY_EXPORTED)


@dataclass(frozen=True)
class StandingReport:
    """Tables of texts, each with its head as the first row.

    Attributes:
        figures: Name and value.
        identities: File, class word, consent, its state, photos, steps, scores.
        ending: Records that end soon: subject, id, last moment.
        costs: Time, energy and cost of what was learned, by device.
        log_problem: What is wrong with the audit log; empty if it is intact.
    """

    figures: Table
    identities: Table
    ending: Table
    costs: Table
    log_problem: str = ""


def as_csv(table: Table) -> str:
    """A table, one row a line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[table_cell(cell) for cell in row] for row in table])
    return text.getvalue()


def standing_report(known: Permissions, now: datetime, soon_days: int, prices: Prices) -> StandingReport:
    """Count what the records, the identities and the audit log say now.

    Args:
        known: The records beside the identities.
        now: The present moment, with time zone.
        soon_days: Records that end within so many days are listed.
        prices: What the user pays.

    Raises:
        InvalidOptions: If a price is not a number, or negative.
    """
    prices.check()
    states = ConsentStates(known, now)
    identities: Table = [("identity", "class word", "consent", "state", "photos", "steps", "scores")]
    for store in known.stores:
        for path, fields in identity_records(store.folder):
            if fields.get("format") != "metalora.identity" or path.name.startswith("."):
                continue
            consent = fields.get("consent_id") or None
            identities.append(_row(path.relative_to(store.folder), fields, consent, states.of(consent)[0]))
    entries, verdict = _readable(known), known.log.verify()
    runs, with_record, refused = _runs(entries)
    counts = Counter(row[3] for row in identities[1:])
    figures: Table = [
        ("figure", "value"),
        *((f"identities, {state}", str(count)) for state, count in sorted(counts.items())),
        ("runs: learned, applied, exported", str(runs)),
        ("runs with a valid record", f"{with_record} ({100 * with_record / runs:.0f} %)" if runs else "none yet"),
        ("refused", str(refused)),
        ("audit log", "intact" if verdict.intact else "changed"),
    ]
    costs = list(cost_table(entries, prices))
    return StandingReport(figures, identities, _ending(known, now, soon_days), costs, verdict.problem)


def _row(path: Path, fields: dict[str, object], consent: str | None, state: str) -> tuple[str, ...]:
    photos, metrics = fields.get("photo_hashes"), fields.get("metrics")
    scores = metrics if isinstance(metrics, dict) else {}
    told = "; ".join(f"{name} {value:.3g}" for name, value in scores.items() if isinstance(value, float))
    texts = (path.as_posix(), fields.get("class_word", ""), (consent or "")[:12], state)
    counted = len(photos) if isinstance(photos, list) else 0
    return tuple(plain_line(str(text), 300) for text in (*texts, counted, fields.get("steps", ""), told))


def _readable(known: Permissions) -> list[AuditEntry]:
    """The log's entries up to the first that cannot be read, which the verification reports."""
    found: list[AuditEntry] = []
    with suppress(UnreadableFile):
        found.extend(known.log.entries())
    return found


def _runs(entries: Iterable[AuditEntry]) -> tuple[int, int, int]:
    """Runs, those with a record, and refusals; a run with a record was permitted, or it would have been refused."""
    counts = Counter[str]()
    for entry in entries:
        counts["run"] += entry.event in _RUNS
        counts["with"] += entry.event in _RUNS and entry.details.get("consent") is not None
        counts["refused"] += entry.event == REFUSED
    return counts["run"], counts["with"], counts["refused"]


def _ending(known: Permissions, now: datetime, days: int) -> Table:
    found: list[tuple[datetime, str, str]] = []
    for record in (one for store in known.stores for one in store.list()):
        try:
            holds = known.in_force(record.id)
        except (ConsentRefused, UnreadableFile):
            continue
        if holds.expires is not None and now <= holds.expires <= now + timedelta(days=days):
            found.append((holds.expires, record.subject, record.id[:12]))
    rows = ((subject, consent, moment.date().isoformat()) for moment, subject, consent in sorted(found))
    return [("subject", "consent", "ends"), *rows]


def page_parts(report: StandingReport) -> Sequence[tuple[str, Table]]:
    """Headings and tables, in order."""
    return (
        ("Figures", report.figures),
        ("Records that end soon", report.ending),
        ("What learning took", report.costs),
        ("Identities", report.identities),
    )
