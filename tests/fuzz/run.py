"""A long search for files that a reader neither takes nor refuses in words: ``make fuzz``.

With atheris, which the Makefile installs where it can, the search is guided by the lines of the readers that a file
reaches; without it, whole files are broken at random.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

sys.path[1:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
try:
    import atheris
except ImportError:
    atheris = None
if atheris is not None:
    with atheris.instrument_imports(
        include=["metalora_core.files", "metalora_core.provenance", "metalora_core.photos"]
    ):
        from fuzz.readers import READERS, broken, read
else:
    from fuzz.readers import READERS, broken, read

DIFFERENT_ERRORS = 20


class Search:
    """What was tried so far, over all readers.

    Args:
        folder: Where the files are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.cases, self.taken = folder, 0, 0
        self.slowest_s, self.slowest_reader = 0.0, ""
        self.errors: dict[str, str] = {}

    def try_file(self, name: str, data: bytes) -> None:
        """Give one file to one reader, and keep what it does beside taking or refusing it."""
        began, path = time.monotonic(), self.folder / f"f{READERS[name].suffix}"
        try:
            self.taken += read(READERS[name], path, data)
        except Exception as error:  # noqa: BLE001 - whatever is not documented is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            finding = f"{name}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            if finding not in self.errors and len(self.errors) < DIFFERENT_ERRORS:
                self.errors[finding] = str(error)[:200]
                kept = Path(tempfile.gettempdir()) / f"fuzz_{len(self.errors)}{READERS[name].suffix}"
                kept.write_bytes(data)
                print(f"{finding}: {error!s:.200}\n  kept as {kept}", file=sys.stderr)
        took = time.monotonic() - began
        self.cases += 1
        if self.cases % 50_000 == 0:
            print(f"{self.cases:,} cases, {len(self.errors)} undocumented errors", file=sys.stderr)
        if took > self.slowest_s:
            self.slowest_s, self.slowest_reader = took, name

    def fields(self) -> dict[str, Any]:
        """The result for people and machines."""
        return {
            "cases": self.cases,
            "files_taken": self.taken,
            "undocumented_errors": len(self.errors),
            "slowest_s": round(self.slowest_s, 3),
            "slowest_reader": self.slowest_reader,
            "largest_memory_mb": round(_largest_memory_mb()),
            "errors": self.errors,
        }


def _largest_memory_mb() -> float:
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _search_at_random(search: Search, names: list[str], cases: int, seed: int) -> None:
    random = Random(seed)
    while search.cases < cases:
        name = names[search.cases % len(names)]
        search.try_file(name, broken(READERS[name], random))


def _search_guided(search: Search, names: list[str], cases: int, seed: int, finish: Callable[[], None]) -> None:
    """The first byte of a case says which reader it is for. Atheris never returns, so `finish` ends the process."""
    corpus = search.folder / "corpus"
    corpus.mkdir()
    for index, name in enumerate(names):
        for number, whole in enumerate(READERS[name].seeds()):
            (corpus / f"{index}_{number}").write_bytes(bytes([index]) + whole)

    def change(data: bytes, most: int, number: int) -> bytes:
        index = data[0] % len(names) if data else number % len(names)
        if number % 2 and data:
            return bytes([index]) + atheris.Mutate(data[1:], most - 1)
        return (bytes([index]) + broken(READERS[names[index]], Random(number), data[1:] or None))[:most]

    def one(data: bytes) -> None:
        if data:
            search.try_file(names[data[0] % len(names)], data[1:])
        if search.cases >= cases:
            finish()

    words = [
        "fuzz",
        str(corpus),
        f"-seed={seed + 1}",
        "-max_len=262144",
        "-rss_limit_mb=4096",
        "-timeout=60",
        "-verbosity=0",
    ]
    atheris.Setup(words, one, custom_mutator=change)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="files to try, over all readers")
    parser.add_argument("--reader", action="append", choices=sorted(READERS), help="one of them; all if left out")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files, where atheris is not used")
    parser.add_argument("--at-random", action="store_true", help="without atheris")
    parser.add_argument("--json", type=Path, help="file for the result")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    names, guided = asked.reader or list(READERS), atheris is not None and not asked.at_random
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    search = Search(place)

    def finish() -> None:
        text = json.dumps({**search.fields(), "guided": guided}, indent=2)
        print(text, flush=True)
        if asked.json:
            asked.json.write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(place)
        os._exit(bool(search.errors))

    if guided:
        _search_guided(search, names, asked.cases, asked.seed, finish)
    _search_at_random(search, names, asked.cases, asked.seed)
    finish()


if __name__ == "__main__":
    main()
