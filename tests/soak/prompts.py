"""What the clients of the soak test do: graphs, and how each of them has to end."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

import graphs
from comfy_server import ComfyServer, failure
from graphs import Graph, node

TIMEOUT_S = 300
DONE, FAILED, REFUSED, CANCELLED, STUCK = "done", "failed", "refused", "cancelled", "stuck"
ENDLESS = 10_000  # steps


def with_fresh(graph: Graph, number: int) -> Graph:
    """The graph with every node that takes the pocket model directly run again."""
    fresh = node("Soak_Fresh", model=["pocket", 0], number=number)
    return {**_given(graph, ["fresh", 0]), "fresh": fresh}


def _given(graph: Graph, model: list[Any]) -> Graph:
    def other(inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: model if value == ["pocket", 0] else value for name, value in inputs.items()}

    return {name: {**one, "inputs": other(one["inputs"])} for name, one in graph.items()}


def base_picture() -> Graph:
    """A picture of the base model alone."""
    return {**graphs.pocket(), **graphs.pictures(["pocket", 0])}


def greedy(random: Random, *, lasting: bool) -> Graph:
    """An adaptation that runs out of memory within its steps: once, or whatever it tries."""
    graph = {**graphs.pocket(), **graphs.learned(seed=random.randrange(1 << 30))}
    asked = node("Soak_Greedy", model=["pocket", 0], call=random.randrange(3, 8), lasting=lasting)
    adapted = {name: one for name, one in graph.items() if name == "identity"}
    graph |= {**_given(adapted, ["greedy", 0]), "greedy": asked}
    return graph | graphs.pictures(["model", 0]) | {"model": graphs.applied(["pocket", 0], ["identity", 0])}


def failing(random: Random) -> Graph:
    """Another pack's node fails after this pack's have run."""
    graph = graphs.adapt_and_generate()
    graph["failing"] = node("Soak_Failing", images=["decoded", 0])
    graph["shown"] = node("PreviewImage", images=["failing", 0])
    return with_fresh(graph, random.randrange(1 << 20))


def unusable(random: Random) -> Graph:
    """Photos that this pack refuses: black ones."""
    graph = {**graphs.pocket(), **graphs.learned(seed=random.randrange(1 << 30)), **graphs.pictures(["model", 0])}
    graph["black"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    graph["references"]["inputs"]["images"] = ["black", 0]
    return graph | {"model": graphs.applied(["pocket", 0], ["identity", 0])}


def missing(random: Random) -> Graph:
    """An identity that is not there."""
    graph = graphs.load_saved()
    graph["identity"]["inputs"]["identity_name"] = f"people/nobody{random.randrange(1000)}.safetensors"
    return graph


def learning(random: Random) -> Graph:
    """A subject that nobody has learned yet, and its picture."""
    seed = random.randrange(1 << 30)
    learned = graphs.learned(seed=seed, steps=random.randrange(2, 8))
    return graphs.adapt_and_generate() | learned


def endless(random: Random) -> Graph:
    """A training that nobody waits for."""
    return graphs.adapt_and_generate() | graphs.learned(seed=random.randrange(1 << 30), steps=ENDLESS)


def _again(graph: Callable[[], Graph]) -> Callable[[Random], Graph]:
    return lambda random: with_fresh(graph(), random.randrange(1 << 20))


def _plain(graph: Callable[[], Graph]) -> Callable[[Random], Graph]:
    return lambda random: graph()


ENDS: dict[str, tuple[Callable[[Random], Graph], str, int]] = {
    "learn and draw": (learning, DONE, 5),
    "learned before": (_again(graphs.adapt_and_generate), DONE, 2),
    "two identities": (_again(graphs.two_identities), DONE, 2),
    "load and draw": (_again(graphs.load_saved), DONE, 3),
    "load the LoRA": (_again(graphs.load_exported), DONE, 2),
    "save and export": (_plain(graphs.export), DONE, 1),
    "evaluate": (_again(graphs.evaluate), DONE, 1),
    "catalogue": (_again(graphs.catalogue), DONE, 1),
    "meta-train": (_plain(graphs.meta_train), DONE, 1),
    "another pack fails": (failing, FAILED, 2),
    "unusable photos": (unusable, FAILED, 1),
    "missing file": (missing, REFUSED, 1),
    "memory once": (lambda random: greedy(random, lasting=False), DONE, 1),
    "no memory": (lambda random: greedy(random, lasting=True), FAILED, 1),
    "cancel while running": (endless, CANCELLED, 3),
    "cancel while waiting": (learning, CANCELLED, 1),
}  # fmt: skip
"""By name: the graph, how it has to end, and how often it is taken among the others."""


def end_of(server: ComfyServer, client: str, kind: str, random: Random) -> tuple[str, str]:
    """Run a prompt of a kind to its end: how it ended, and in which words."""
    status, answer = server.post("prompt", {"prompt": ENDS[kind][0](random), "client_id": client})
    if status != 200:
        return REFUSED, str(answer)[:300]
    prompt = answer["prompt_id"]
    if kind == "cancel while waiting":
        server.post("queue", {"delete": [prompt]})
    until, cancel_at = time.monotonic() + TIMEOUT_S, time.monotonic() + random.uniform(0.2, 3)
    while time.monotonic() < until:
        time.sleep(0.1)
        entry = server.get(f"history/{prompt}").get(prompt, {})
        if messages := entry.get("status", {}).get("messages"):
            return _ending(entry, messages)
        queue = server.get("queue")
        if prompt not in str(queue) and prompt not in server.get(f"history/{prompt}"):
            return CANCELLED, "before it ran"
        if kind == "cancel while running" and time.monotonic() > cancel_at:
            server.post("interrupt", {"prompt_id": prompt})
    return STUCK, f"{kind} did not end in {TIMEOUT_S} s"


def _ending(entry: dict[str, Any], messages: list[Any]) -> tuple[str, str]:
    if any(kind == "execution_interrupted" for kind, _ in messages):
        return CANCELLED, ""
    error = failure(entry)
    return (FAILED, error) if error else (DONE, "")
