"""The benchmark's report: one HTML file that holds everything, and the JSON for machines."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..plan import BenchPlan
from ..rows import Row
from .gallery import Strip, strip_png
from .plots import FIGURES, draw_figures
from .ratios import Ratio
from .tables import BestPoint, bar_table, best_table, cut_table, hindsight_table, repeat_table, target_table

__all__ = ["html_page", "json_fields", "section", "write_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-weight: 600; } h2 { margin-top: 2.2em; border-bottom: 1px solid #ddd; font-weight: 600; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: 3px 10px; text-align: right; }
th { border-bottom: 2px solid #555; } tr:nth-child(even) td { background: #f6f6f4; }
td:first-child, th:first-child { text-align: left; } img { max-width: 100%; }
pre { background: #f6f6f4; padding: .8em; overflow-x: auto; } figcaption { color: #555; font-size: 13px; }
.scroll { overflow-x: auto; } .yes { color: #00796b; font-weight: 600; } .no { color: #b3261e; font-weight: 600; }
"""


def json_fields(rows: Sequence[Row], summary: Mapping[str, Ratio], plan: BenchPlan) -> dict[str, Any]:
    """What ``--json`` holds: ``rows`` of the benchmark proper, ``summary``, and the rows under other conditions.

    ``summary`` has every ratio as a number, and beside it ``<name>_interval`` (95 %), ``<name>_subjects`` and
    ``<name>_by_domain``.
    """
    flat: dict[str, Any] = {}
    for name, ratio in summary.items():
        flat[name] = ratio.value
        flat[f"{name}_interval"] = [ratio.low, ratio.high]
        flat[f"{name}_subjects"] = ratio.subjects
        flat[f"{name}_by_domain"] = dict(ratio.by_domain)
    return {
        "summary": flat,
        "rows": [asdict(row) for row in rows if row.condition == "clean"],
        "condition_rows": [asdict(row) for row in rows if row.condition != "clean"],
        "plan": plan.described(),
    }


def write_report(
    path: Path,
    rows: Sequence[Row],
    points: Sequence[BestPoint],
    summary: Mapping[str, Ratio],
    plan: BenchPlan,
    command: str,
    strips: Sequence[Strip] = (),
    costs: Sequence[tuple[str, ...]] = (),
) -> None:
    """Write the report; figures and strips are also written beside it as PNG files.

    Args:
        path: HTML file.
        rows: All rows of the plan.
        points: From `best_points`.
        summary: From `summarise`.
        plan: What was run.
        command: That was typed.
        strips: Pictures to show.
        costs: Table of trained parameters and file sizes.

    Raises:
        MissingDependency: If matplotlib is not installed.
    """
    pictures = draw_figures(rows, points)
    strip_pictures = {f"pictures_{i:02d}": strip_png(strip) for i, strip in enumerate(strips)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, data in {**pictures, **strip_pictures}.items():
        path.with_name(f"{name}.png").write_bytes(data)
    parts = [
        "<h1>Identity benchmark</h1>",
        f"<p>{_facts(rows, plan)}</p><pre>{html.escape(command)}</pre>",
        f"<h2>Meta-LoRA against plain LoRA</h2>{_table(bar_table(summary))}{_note(plan)}",
        *(_figure(pictures[name], caption) for name, (caption, _) in FIGURES.items()),
        "<h2>Pictures</h2>",
        *(_figure(data, "") for data in strip_pictures.values()),
        f"<h2>Every method at its chosen step</h2>{_table(best_table(points))}",
        f"<h2>As earlier releases compared: best steps chosen in hindsight</h2>{_table(hindsight_table(summary))}",
        section("Time to plain LoRA's best", target_table(rows)),
        section("What a subject costs", costs),
        section("By what the photo shows (combined error, one photo)", cut_table(rows, points)),
        section("With other seeds, other photos and degraded photos", repeat_table(rows)),
        f"<h2>Settings</h2><pre>{html.escape(json.dumps(plan.described(), indent=1, default=str))}</pre>",
    ]
    path.write_text(html_page("Identity benchmark", "".join(parts)), encoding="utf-8")


_POCKET_ERRORS = """Errors are mean squared errors of the factors that a scorer network reads off a picture, above
its error on true photos of the same scenes. Identity error is against who the subject is, prompt error against what
was asked; the combined error is their geometric mean. Copying is how much of the reference photo's pose, light and
background comes back."""
_FOLDER_ERRORS = """Identity error is one minus the cosine of a picture's embedding to those of held-out photos, above
what these have among themselves; prompt error is one minus the probability of a picture's own prompt among
all prompts; the combined error is their geometric mean. Copying is how much closer a picture is to the photos that were
learned from than to the held-out photos."""
_NOTE = """Identity score is 0 for the untrained base model and 1 for true photos of the subject; prompt adherence is 0
for the photo again and 1 for true photos of what was asked. Hypervolume is the area below the front of both over all
steps. The base model's own row shows its adherence and errors. Copy angle is -1 for a true photo of what was
asked and 1 for the photo again; drift is how far pictures that do not ask for the subject move. Intervals are 95 % over
subjects, which are resampled together for both methods of a ratio."""
_CHOSEN = "Steps and rates were chosen on validation subjects, never on these."
_UNCHOSEN = (
    "Each method is shown at the step with the best balance of both scores, chosen in hindsight on these subjects."
)


def _note(plan: BenchPlan) -> str:
    errors, chosen = (_FOLDER_ERRORS, _UNCHOSEN) if plan.split == "folder" else (_POCKET_ERRORS, _CHOSEN)
    return f"<p>{errors} {_NOTE} {chosen}</p>"


def _facts(rows: Sequence[Row], plan: BenchPlan) -> str:
    count = len({(row.domain, row.subject) for row in rows})
    whose = f"{plan.split} subjects of the pocket world"
    if plan.split == "folder":
        whose = "subjects, one folder of photos each"
    return html.escape(
        f"{count} {whose} ({', '.join(plan.domains)}), test seed {plan.test_seed}, {plan.prompts} prompts each, "
        f"{plan.sampling_steps} sampling steps, {len(rows)} rows."
    )


def html_page(title: str, body: str) -> str:
    """A whole page in one file, from its title in plain text and its body in HTML."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return f"{head}<style>{_STYLE}</style><body>{body}</body></html>\n"


def section(title: str, table: Sequence[tuple[str, ...]]) -> str:
    """A heading and a table as HTML, the first row as its head; empty without other rows."""
    return f"<h2>{title}</h2>{_table(table)}" if len(table) > 1 else ""


def _table(table: Sequence[tuple[str, ...]]) -> str:
    def cell(text: str) -> str:
        kind = f' class="{text}"' if text in ("yes", "no") else ""
        return f"<td{kind}>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(text)}</th>" for text in table[0])
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in table[1:])
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _figure(data: bytes, caption: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<figure><img src="data:image/png;base64,{encoded}"><figcaption>{caption}</figcaption></figure>'
