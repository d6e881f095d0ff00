"""All nodes of the pack, as ComfyUI takes them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import adapt, adapt_many, apply, credentials, evaluate, files, pocket, references, train_prior
from .bridge.folders import register_folders
from .bridge.routes import add_routes

GROUPS = (pocket, files, references, adapt, adapt_many, apply, credentials, evaluate, train_prior)


class MetaLoRAExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Older hosts never call on_load, and the schemas list what is in the folders.
        register_folders()
        add_routes()
        return [node for group in GROUPS for node in group.NODES]
