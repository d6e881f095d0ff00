"""The demonstration over many test subjects, as a table.

    python benchmarks/demo_table.py [--subjects 16] [--steps 100] [--processes 2] [--json FILE]

Nothing is chosen here: every setting is the demonstration's own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

PHOTOS = (1, 4)
PROMPTS = 12


def run_subject(domain: str, index: int, photos: int, steps: int) -> list[dict[str, Any]]:
    """Rows of one test subject, one for each method."""
    import torch

    from metalora_core.demo.report import demo_fields
    from metalora_core.demo.run import compare
    from metalora_core.evaluation.subjects.pocket import demo_subject
    from metalora_core.pocket import load_pocket_host, load_pocket_prior, load_readers

    torch.set_num_threads(1)
    subject = demo_subject(domain, index, photos, PROMPTS, load_readers())
    results = compare(load_pocket_host(), load_pocket_prior(domain), subject, steps=steps)
    return [row | {"subject": index} for row in demo_fields([(subject, results)])]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the subjects, with the standard error of each error."""
    lines = [
        "| domain | photos | method | identity error | prompt error | seconds | trained | file | subjects |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for domain, photos, method in dict.fromkeys((r["domain"], r["photos"], r["method"]) for r in rows):
        own = [r for r in rows if (r["domain"], r["photos"], r["method"]) == (domain, photos, method)]
        errors = [_mean(own, name) for name in ("identity_error", "prompt_error")]
        cost = ["–", "–", "–"]
        if own[0]["steps"]:
            seconds = statistics.median(r["seconds"] for r in own)
            cost = [f"{seconds:.1f}", f"{own[0]['parameters']:,}", f"{own[0]['file_bytes'] / 1024:,.0f} KB"]
        lines.append(f"| {domain} | {photos} | {method} | {' | '.join([*errors, *cost])} | {len(own)} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    values = [r[name] for r in rows]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    cases = [(d, i, n, chosen.steps) for d in ("avatars", "products") for n in PHOTOS for i in range(chosen.subjects)]
    with ProcessPoolExecutor(chosen.processes) as pool:
        rows = [row for found in pool.map(run_subject, *zip(*cases, strict=True)) for row in found]
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
