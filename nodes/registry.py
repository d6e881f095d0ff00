"""All nodes of the pack, as ComfyUI takes them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import adapt, apply, evaluate, files, pocket, references, train_prior
from .bridge.folders import register_folders

GROUPS = (pocket, files, references, adapt, apply, evaluate, train_prior)


class MetaLoRAExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for group in GROUPS for node in group.NODES]
