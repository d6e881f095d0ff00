"""Walks through every family of every ComfyUI: `make families`, and a short form for the suite.

Run as a program it starts a process of each ComfyUI; `run` is what runs in one.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
MARK = "ROW "
COSINE = 0.99999
AGREEMENT = 1e-4
SCRIPT = f"sys.path[1:1] = [{str(TESTS)!r}, {str(TESTS / 'nodes')!r}]\nfrom families import walk\nwalk.run(ARGUMENTS)\n"


def run(arguments: Sequence[str]) -> None:
    """Inside a ComfyUI: try families, or formats, and print a row each.

    Args:
        arguments: "families" or "formats", then names; none for all.
    """
    import comfy.k_diffusion.sampling as samplers

    samplers.trange = lambda count, **_: range(count)
    logging.disable(logging.WARNING)
    what, *names = arguments
    if what == "formats":
        from families import formats

        for row in formats.rows(names):
            print(MARK + json.dumps(row), flush=True)
        return
    from families import building

    print(MARK + json.dumps({"unknown": building.unknown()}), flush=True)
    for name, family in building.families().items():
        if building.tried(family) and (not names or name in names):
            print(MARK + json.dumps(_row(family)), flush=True)


def _row(family: Any) -> dict[str, Any]:
    import comfy.model_management
    from families.columns import COLUMNS, Case

    began, row, errors = time.monotonic(), dict[str, Any](), dict[str, str]()
    case = attempt(errors, "build", lambda: Case.of(family))
    for column in COLUMNS if case is not None else ():
        row[column.__name__] = attempt(errors, column.__name__, lambda column=column: column(case))
    comfy.model_management.unload_all_models()
    return {"family": family.name, **row, "errors": errors, "seconds": round(time.monotonic() - began, 1)}


def attempt(errors: dict[str, str], name: str, call: Callable[[], Any]) -> Any:
    """What a call gives, or None with the error written down."""
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 - ComfyUI's interruption is no Exception; all are reported
        place = traceback.extract_tb(error.__traceback__)[-1]
        errors[name] = f"{type(error).__name__}: {str(error)[:300]} [{Path(place.filename).name}:{place.lineno}]"
        return None


def passed(row: dict[str, Any]) -> bool:
    """Whether every column of a family's row is a yes."""
    flags = ("without_prior", "meta_train", "adapt", "two_caption_lengths", "apply", "removal", "export", "preview")
    agreed, gradient = row.get("agrees_with_sampler"), row.get("gradient_cosine_min")
    numbers = agreed is not None and agreed <= AGREEMENT and gradient is not None and gradient >= COSINE
    return numbers and all(row.get(flag) is True for flag in flags)


def rows_of(folder: Path, arguments: Sequence[str], timeout_s: float) -> list[dict[str, Any]]:
    """What a process of one ComfyUI prints."""
    from comfy_host import run_in_comfyui

    done = run_in_comfyui(folder, SCRIPT, arguments, timeout_s=timeout_s)
    rows = [json.loads(line[len(MARK) :]) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode:
        raise RuntimeError(f"{folder.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--names", nargs="*", default=[], help="families; all without it")
    parser.add_argument("--no-formats", action="store_true", help="leave out quantised bases")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from comfy_host import find_comfyuis, skip_reason

    found: dict[str, list[Any]] = {"rows": [], "formats": [], "unknown": []}
    for folder in find_comfyuis():
        for row in rows_of(folder, ["families", *options.names], timeout_s=7200):
            found["unknown"] += row.get("unknown", [])
            if "family" in row:
                found["rows"].append({"comfyui": folder.name, "yes": passed(row), **row})
        if not options.no_formats:
            formats = rows_of(folder, ["formats", *options.names], timeout_s=7200)
            found["formats"] += [{"comfyui": folder.name, **row} for row in formats]
    if not found["rows"]:
        print(skip_reason(), file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return _told(found)


def _told(found: dict[str, list[Any]]) -> int:
    failed = [row for row in (*found["rows"], *found["formats"]) if not row["yes"]]
    for row in failed:
        print(f"{row['comfyui']} {row['family']} {row.get('format', '')}: {row.get('errors') or row}")
    for name in found["unknown"]:
        print(f"{name}: ComfyUI knows this family, families.toml and not_tried.toml do not")
    for part in ("rows", "formats"):
        print(f"{part}: {sum(row['yes'] for row in found[part])} of {len(found[part])} yes")
    return 1 if failed or found["unknown"] else 0


if __name__ == "__main__":
    sys.exit(main())
