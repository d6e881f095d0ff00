"""Writes every example: python -m docs.example_graphs.write; with --check it only says what is out of date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .graph import Graph
from .large import adapt_flux, adapt_klein, adapt_z_image
from .learning import adapt_and_generate, adapt_many, meta_train, quick_prior
from .using import catalogue, evaluate, export, two_identities

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "example_workflows"
PROMPTS = ROOT / "tests" / "example_prompts"
LARGE = (adapt_klein, adapt_z_image, adapt_flux)
EXAMPLES = (
    *(adapt_and_generate, *LARGE, two_identities, meta_train, evaluate, export, catalogue, quick_prior, adapt_many),
)


def files() -> dict[Path, str]:
    """Path and text of every file: the graph for the page, and the prompt for the server's tests."""
    texts: dict[Path, str] = {}
    for make in EXAMPLES:
        graph: Graph = make()
        texts[PAGES / f"{graph.name}.json"] = json.dumps(graph.to_page(), ensure_ascii=False, indent=1) + "\n"
        texts[PROMPTS / f"{graph.name}.json"] = json.dumps(graph.to_api(), ensure_ascii=False, indent=1) + "\n"
    return texts


def main() -> None:
    """Write or check."""
    texts = files()
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        sys.exit(f"out of date: {', '.join(str(path.relative_to(ROOT)) for path in stale)}" if stale else 0)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path], encoding="utf-8")


if __name__ == "__main__":
    main()
