"""Hundreds of mixed prompts in one real ComfyUI server, and what is left of them in it: ``make soak``.

Three clients learn, draw, load, save, export and evaluate at the same time, cancel, reload their pages, and meet errors
and a lack of memory. After each round the same two pictures are drawn, and the server says what it holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(TESTS), str(TESTS / "integration"), str(Path(__file__).resolve().parent)]
import graphs  # noqa: E402 - beside this file
import prompts as mixed  # noqa: E402
from comfy_host import find_comfyuis, skip_reason  # noqa: E402
from comfy_server import ComfyServer  # noqa: E402
from page import Page  # noqa: E402

CLIENTS, MOST_A_ROUND, PICTURES = 3, 6, 2
LAST = 400
"""Prompts over which the growth of the memory is measured; the ones before fill caches."""


@dataclass
class Soak:
    """What happened so far.

    Attributes:
        server: The running server.
        ended: Prompts by kind and how they ended.
        findings: Prompts that ended otherwise than they have to.
        pictures: By name, the bits of each time it was drawn.
        states: What the server held after a number of prompts.
        prompts: Done so far.
    """

    server: ComfyServer
    ended: Counter[str] = field(default_factory=Counter[str])
    findings: list[str] = field(default_factory=list[str])
    pictures: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    states: list[tuple[int, dict[str, Any]]] = field(default_factory=list[tuple[int, dict[str, Any]]])
    prompts: int = 0

    def client(self, page: Page, count: int, random: Random) -> None:
        """One client's prompts of a round."""
        kinds, weights = list(mixed.ENDS), [one[2] for one in mixed.ENDS.values()]
        for kind in random.choices(kinds, weights, k=count):
            if random.random() < 0.2:
                page.reload()
                self.ended["page reloaded"] += 1
            try:
                end, words = mixed.end_of(self.server, page.name, kind, random)
            except OSError as error:
                end, words = mixed.STUCK, repr(error)
            self.ended[f"{kind}: {end}"] += 1
            self.prompts += 1
            # A prompt may be through before it is cancelled.
            if end != mixed.ENDS[kind][1] and (mixed.ENDS[kind][1], end) != (mixed.CANCELLED, mixed.DONE):
                self.findings.append(f"{kind}: {end} {words}")

    def round(self, pages: list[Page], count: int, seed: str) -> None:
        """All clients side by side, then the two pictures and the server's state."""
        threads = [
            threading.Thread(target=self.client, args=(page, count, Random(f"{seed} {page.name}"))) for page in pages
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, graph in (("base", mixed.base_picture()), ("identity", graphs.load_saved())):
            self.draw(name, graph)
        self.states.append((self.prompts, self.server.get("soak/state")))

    def draw(self, name: str, graph: dict[str, Any]) -> None:
        """Draw a picture again and keep its bits."""
        from PIL import Image

        outputs = self.server.run(mixed.with_fresh(graph, self.prompts + 1_000_000))
        saved = outputs["saved"]["images"][0]
        with Image.open(self.server.base / "output" / saved["subfolder"] / saved["filename"]) as picture:
            self.pictures.setdefault(name, []).append(hashlib.sha256(picture.tobytes()).hexdigest())
        self.prompts += 1

    def digests(self) -> list[str]:
        """The weights of every base model in the server, without any patches on them."""
        self.server.post("free", {"unload_models": True})
        time.sleep(2)
        return self.server.get("soak/state?digests=1")["digests"]

    def fields(self, before: list[str], after: list[str]) -> dict[str, Any]:
        """The result for people and machines."""
        (_, first), (_, last) = self.states[0], self.states[-1]
        late = [(done, state["memory_kb"]) for done, state in self.states if done > self.prompts - LAST]
        changed = {name: sum(one != bits[0] for one in bits) for name, bits in self.pictures.items()}
        return {
            "prompts": self.prompts,
            "stuck": sum(count for name, count in self.ended.items() if name.endswith(mixed.STUCK)),
            "ended_otherwise": len(self.findings),
            "base_changed": changed["base"] + len(set(after) - set(before)),
            "identity_pictures_changed": changed["identity"],
            "handles_leaked": max(0, last["handles"] - first["handles"]),
            "threads_leaked": max(0, last["threads"] - first["threads"]),
            "hooks_left": max(0, last["hooks"] - first["hooks"]),
            "memory_slope_kb_per_prompt": round(_slope(late), 1),
            "memory_kb": [state["memory_kb"] for _, state in self.states],
            "first_state": first,
            "last_state": last,
            "ended": dict(sorted(self.ended.items())),
            "findings": self.findings[:20],
        }


def _slope(points: list[tuple[int, int]]) -> float:
    """Of the line with the least squares."""
    if len(points) < 2:
        return 0.0
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def _soak(comfyui: Path, base: Path, prompts: int, seed: int) -> dict[str, Any]:
    began = time.monotonic()
    server = ComfyServer(comfyui, base)
    (base / "custom_nodes" / "soak_probe").symlink_to(Path(__file__).resolve().parent / "probe")
    with server:
        soak = Soak(server)
        server.run(graphs.export())
        soak.draw("base", mixed.base_picture())
        before = soak.digests()
        pages = [Page(server, f"client{number}") for number in range(CLIENTS)]
        while soak.prompts < prompts:
            count = max(1, min(MOST_A_ROUND, (prompts - soak.prompts - PICTURES) // CLIENTS))
            soak.round(pages, count, f"{seed} {soak.prompts}")
            print(f"{soak.prompts} prompts: {soak.states[-1][1]}", file=sys.stderr, flush=True)
        after = soak.digests()
    return {**soak.fields(before, after), "seconds": round(time.monotonic() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="same seed, same prompts in the same order for each client")
    parser.add_argument("--json", type=Path, help="file for the result")
    asked = parser.parse_args()
    found = find_comfyuis()
    if not found:
        sys.exit(skip_reason())
    base = Path(tempfile.mkdtemp(prefix="metalora_soak_"))
    try:
        result = _soak(found[0], base, asked.prompts, asked.seed)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    text = json.dumps(result, indent=2)
    print(text, flush=True)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    wrong = (
        "stuck",
        "ended_otherwise",
        "base_changed",
        "identity_pictures_changed",
        "handles_leaked",
        "threads_leaked",
        "hooks_left",
    )
    sys.exit(any(result[name] for name in wrong))


if __name__ == "__main__":
    main()
