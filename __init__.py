"""Meta-LoRA for ComfyUI: what ComfyUI looks for in a custom node pack. Nothing is imported before ComfyUI asks."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """Give ComfyUI the pack's nodes."""
    import logging

    try:
        from .nodes.registry import MetaLoRAExtension

        return MetaLoRAExtension()
    except Exception:
        # ComfyUI reports a failing entry point in one line without a traceback.
        logging.getLogger(__name__).exception("Meta-LoRA could not be loaded.")
        raise
