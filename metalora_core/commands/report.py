"""``report``: which identities and runs have a permission, as a page and a table."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from . import options


def report(
    folder: options.IdentityFolder,
    output: Annotated[Path, typer.Option(help="Page to write; the table goes beside it.")] = Path("report.html"),
    soon: Annotated[int, typer.Option(help="List records that end within so many days.", min=0)] = 30,
    json: options.Json = False,
) -> None:
    """Report identities by the state of their consent, runs with a valid record, and records that end soon."""
    from html import escape

    from ..evaluation.report.html import html_page, section
    from ..files.atomic import atomic_write
    from ..provenance.standing_report import page_parts, standing_report
    from .loading import require_output
    from .permission import permissions_near
    from .terminal import answer

    csv_path = output.with_suffix(".csv")
    require_output(output, ".html")
    require_output(csv_path, ".csv")
    now = datetime.now(timezone.utc)
    found = standing_report(permissions_near(folder / "consents"), now, soon)
    parts = "".join(section(title, table) for title, table in page_parts(found))
    body = f"<h1>Consent report, {now:%Y-%m-%d}</h1><p>{escape(found.log_problem)}</p>{parts}"
    atomic_write(output, [html_page("Consent report", body).encode()])
    atomic_write(csv_path, [found.csv().encode()])
    lines = [f"{name}: {value}" for name, value in found.figures[1:]]
    fields = {
        "figures": {row[0]: row[1] for row in found.figures[1:]},
        "ending": found.ending[1:],
        "log_problem": found.log_problem,
    }
    answer({**fields, "path": str(output), "csv": str(csv_path)}, "\n".join([*lines, f"{output}, {csv_path}"]), json)
