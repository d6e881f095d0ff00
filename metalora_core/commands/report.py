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
    price_per_kwh: Annotated[float, typer.Option(help="What a kilowatt-hour costs, in your currency.")] = 0.0,
    price_per_hour: Annotated[float, typer.Option(help="What an hour of the machine costs.")] = 0.0,
    watts: Annotated[
        float, typer.Option(help="Power to assume where the device did not count its energy; marked as an estimate.")
    ] = 0.0,
    json: options.Json = False,
) -> None:
    """Report identities by the state of their consent, records that end soon, and what learning took and cost."""
    from html import escape

    from ..evaluation.report.html import html_page, section
    from ..files.atomic import atomic_write
    from ..provenance.effort import HEAD, Prices
    from ..provenance.standing_report import as_csv, page_parts, standing_report
    from .loading import require_output
    from .permission import permissions_near
    from .terminal import answer

    csv_path, costs_path = output.with_suffix(".csv"), output.with_name(f"{output.stem}_costs.csv")
    require_output(output, ".html")
    for table in (csv_path, costs_path):
        require_output(table, ".csv")
    now = datetime.now(timezone.utc)
    found = standing_report(
        permissions_near(folder / "consents"), now, soon, Prices(price_per_kwh, price_per_hour, watts)
    )
    parts = "".join(section(title, table) for title, table in page_parts(found))
    body = f"<h1>Consent report, {now:%Y-%m-%d}</h1><p>{escape(found.log_problem)}</p>{parts}"
    atomic_write(output, [html_page("Consent report", body).encode()])
    atomic_write(csv_path, [as_csv(found.identities).encode()])
    atomic_write(costs_path, [as_csv(found.costs).encode()])
    costs = found.costs[1:]
    lines = [f"{name}: {value}" for name, value in found.figures[1:]]
    lines += ["; ".join(f"{name} {value}" for name, value in zip(HEAD, row, strict=True) if value) for row in costs]
    fields = {
        "figures": {row[0]: row[1] for row in found.figures[1:]},
        "ending": found.ending[1:],
        "costs": [dict(zip(HEAD, row, strict=True)) for row in costs],
        "log_problem": found.log_problem,
    }
    paths = {"path": str(output), "csv": str(csv_path), "costs_csv": str(costs_path)}
    answer({**fields, **paths}, "\n".join([*lines, ", ".join(paths.values())]), json)
