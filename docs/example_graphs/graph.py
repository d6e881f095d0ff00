"""A workflow in a few lines: nodes in columns, columns in groups; written as a page graph and as an API prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

TITLE_PX, GAP_PX, GROUP_GAP_PX, MARGIN_PX = 30, 40, 60, 24
SLOT_PX, WIDGET_PX, TEXT_PX, PICTURE_PX, FOOT_PX = 20, 28, 130, 300, 40
SHOWING_PICTURES = {
    *("SaveImage", "PreviewImage", "LossGraphNode", "LoadImage"),
    *("MetaLoRA_AdaptIdentity", "MetaLoRA_PrepareReferences", "MetaLoRA_EvaluateIdentity"),
    "MetaLoRA_SaveImageWithCredentials",
}
SHOWING_TEXT = {
    *("PreviewAny", "MetaLoRA_AdaptIdentity", "MetaLoRA_MetaTrainPrior", "MetaLoRA_RecordConsent"),
    *("MetaLoRA_ApplyIdentity", "MetaLoRA_SaveIdentity", "MetaLoRA_ExportLoRA", "MetaLoRA_PrepareReferences"),
    *("MetaLoRA_EvaluateIdentity", "MetaLoRA_QuickPrior", "MetaLoRA_AdaptMany", "MetaLoRA_SaveImageWithCredentials"),
}
OPTIONAL_SHAPE = 7
MUTED = 2


@lru_cache(maxsize=1)
def node_types() -> dict[str, Any]:
    """Sockets, widgets and outputs of every node type that the examples use, as ComfyUI reported them."""
    return json.loads((Path(__file__).parent / "node_types.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class File:
    """A model file that a loader asks for: its folder below ``models``, its name, and the address of its folder."""

    directory: str
    name: str
    at: str

    def to_page(self) -> dict[str, str]:
        """What the page lists of a file that is missing."""
        return {"name": self.name, "url": f"{self.at}/{self.name}", "directory": self.directory}


@dataclass(frozen=True)
class Output:
    """One output of a node, to be given to another node's input."""

    node: Node
    slot: int

    @property
    def type(self) -> str:
        return self.node.kind["outputs"][self.slot]["type"]


@dataclass(eq=False)
class Node:
    """A node at its place in the graph."""

    id: int
    type: str
    inputs: dict[str, Any]
    left: int
    top: int
    width: int
    height: int
    title: str = ""
    collapsed: bool = False
    muted: bool = False

    @property
    def kind(self) -> dict[str, Any]:
        return node_types()[self.type]

    def __getitem__(self, name: str) -> Output:
        names = [output["name"] for output in self.kind["outputs"]]
        return Output(self, names.index(name))

    @property
    def is_note(self) -> bool:
        return self.type == "MarkdownNote"

    def widget_values(self) -> list[Any]:
        """Values in the page's order, with those that the page adds itself."""
        values: list[Any] = []
        for widget in self.kind["widgets"]:
            given = self.inputs.get(widget["name"], widget["default"])
            values.append(widget["default"] if isinstance(given, Output) else _plain(given))
            values += widget.get("followed_by", [])
        return values


@dataclass(eq=False)
class Graph:
    """A workflow under construction. Groups stand beside each other; in a group, nodes stand in columns."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    top: int = 0
    column_top: int = 0
    column_width: int = 0

    @contextmanager
    def group(self, title: str, colour: str = "#3f789e", *, top: int = 0) -> Iterator[None]:
        """Start a group right of the last one; it is drawn round the nodes added inside."""
        first = len(self.nodes)
        if self.nodes:
            self.left = max(node.left + node.width for node in self.nodes) + GROUP_GAP_PX
        self.top, self.column_top, self.column_width = top, top, 0
        yield
        inside = self.nodes[first:]
        left, above = min(n.left for n in inside) - MARGIN_PX // 2, top - TITLE_PX - MARGIN_PX - 10
        right = max(n.left + n.width for n in inside) + MARGIN_PX // 2
        below = max(n.top + (0 if n.collapsed else n.height) for n in inside) + MARGIN_PX
        bounds = [left, above, right - left, below - above]
        number = len(self.groups) + 1
        self.groups.append(
            {"id": number, "title": title, "bounding": bounds, "color": colour, "font_size": 22, "flags": {}}
        )

    def column(self) -> None:
        """Go on in a new column of the same group."""
        self.left += self.column_width + GAP_PX
        self.top, self.column_width = self.column_top, 0

    def add(
        self, type_: str, *, title: str = "", wide: int = 320, tall: int = 0, collapsed: bool = False,
        muted: bool = False, **inputs: Any,
    ) -> Node:  # fmt: skip
        """Add a node below the last one of the column; wide and tall are its size on the page."""
        kind = node_types()[type_]
        known = {slot["name"] for slot in [*kind["sockets"], *kind["widgets"]]}
        if unknown := set(inputs) - known:
            raise KeyError(f"{type_} has no input {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        # The page adds a line to the foot of a loader whose file is missing.
        tall = tall or _height(type_, kind) + FOOT_PX * any(isinstance(value, File) for value in inputs.values())
        node = Node(len(self.nodes) + 1, type_, inputs, self.left, self.top, wide, tall, title, collapsed, muted)
        self.nodes.append(node)
        self.top += (0 if collapsed else tall) + TITLE_PX + (8 if collapsed else GAP_PX // 2)
        self.column_width = max(self.column_width, wide)
        return node

    def note(self, text: str, *, tall: int = 160) -> None:
        """Add a note in Markdown."""
        self.add("MarkdownNote", tall=tall, text=text.strip(), title="Note")

    def links(self) -> list[list[Any]]:
        """Every connection as [id, from node, from slot, to node, to slot, type]."""
        links: list[list[Any]] = []
        for node in self.nodes:
            for slot, socket in enumerate(_inputs_in_order(node.kind)):
                source = node.inputs.get(socket["name"])
                if isinstance(source, Output):
                    links.append([len(links) + 1, source.node.id, source.slot, node.id, slot, source.type])
        return links

    def to_api(self) -> dict[str, Any]:
        """The prompt that the page sends to the server."""
        prompt: dict[str, Any] = {}
        for node in self.nodes:
            if node.is_note or node.muted:
                continue
            values = {w["name"]: w["default"] for w in node.kind["widgets"]} | node.inputs
            inputs = {
                name: [str(value.node.id), value.slot] if isinstance(value, Output) else _plain(value)
                for name, value in values.items()
                if not (isinstance(value, Output) and value.node.muted)
            }
            prompt[str(node.id)] = {"class_type": node.type, "inputs": inputs}
        return prompt

    def to_page(self) -> dict[str, Any]:
        """The graph that the page opens."""
        links = self.links()
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": [_page_node(node, links, order) for order, node in enumerate(self.nodes)],
            "links": links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [60, 120]}},
            "version": 0.4,
        }


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, File) else value


def _height(type_: str, kind: dict[str, Any]) -> int:
    # Nodes 2.0 puts the pack's name and a button for advanced inputs at a node's foot.
    height = 12 + FOOT_PX * type_.startswith("MetaLoRA_") + SLOT_PX * max(len(kind["sockets"]), len(kind["outputs"]))
    tall = [widget.get("multiline") or widget["type"] == "METALORA_PHOTOS" for widget in kind["widgets"]]
    height += sum(TEXT_PX if text else WIDGET_PX for text in tall)
    height += WIDGET_PX * sum(len(widget.get("followed_by", [])) for widget in kind["widgets"])
    return height + PICTURE_PX * (type_ in SHOWING_PICTURES) + TEXT_PX * (type_ in SHOWING_TEXT)


def _inputs_in_order(kind: dict[str, Any]) -> list[dict[str, Any]]:
    return [*kind["sockets"], *kind["widgets"]]


def _page_node(node: Node, links: list[list[Any]], order: int) -> dict[str, Any]:
    incoming = {link[4]: link[0] for link in links if link[3] == node.id}
    inputs: list[dict[str, Any]] = []
    for slot, socket in enumerate(_inputs_in_order(node.kind)):
        entry: dict[str, Any] = {"name": socket["name"], "type": socket["type"], "link": incoming.get(slot)}
        if slot >= len(node.kind["sockets"]):
            entry["widget"] = {"name": socket["name"]}
        elif socket.get("optional"):
            entry["shape"] = OPTIONAL_SHAPE
        inputs.append(entry)
    outputs = [
        {**output, "links": [link[0] for link in links if link[1:3] == [node.id, slot]] or None}
        for slot, output in enumerate(node.kind["outputs"])
    ]
    page: dict[str, Any] = {
        "id": node.id,
        "type": node.type,
        "pos": [node.left, node.top],
        "size": [node.width, node.height],
        "flags": {"collapsed": True} if node.collapsed else {},
        "order": order,
        "mode": MUTED if node.muted else 0,
        "inputs": [] if node.is_note else inputs,
        "outputs": outputs,
        "properties": {} if node.is_note else _properties(node),
        "widgets_values": node.widget_values(),
    }
    if node.title:
        page["title"] = node.title
    if node.is_note:
        page |= {"color": "#432", "bgcolor": "#653"}
    return page


def _properties(node: Node) -> dict[str, Any]:
    origin = "meta-lora" if node.type.startswith("MetaLoRA_") else "comfy-core"
    files = [value.to_page() for value in node.inputs.values() if isinstance(value, File)]
    return {"cnr_id": origin, "Node name for S&R": node.type} | ({"models": files} if files else {})
