"""What the page asks of the server: how much unfinished runs take on the disk, and to delete them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ...metalora_core.files.sweep import LeftBehind, find_left_behind, sweep
from .folders import IDENTITIES, PRIORS, roots_of

if TYPE_CHECKING:
    from aiohttp import web

UNFINISHED = "/metalora/unfinished"


def add_routes() -> None:
    """Add the pack's routes to ComfyUI's server, if one is running."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    async def unfinished(request: web.Request) -> web.Response:
        work = sweep if request.method == "DELETE" else find_left_behind
        return web.json_response(_told(await asyncio.to_thread(work, [*roots_of(PRIORS), *roots_of(IDENTITIES)], 0)))

    # ComfyUI itself refuses requests of other origins.
    server.routes.get(UNFINISHED)(unfinished)
    server.routes.delete(UNFINISHED)(unfinished)


def _told(found: list[LeftBehind]) -> dict[str, int]:
    return {"files": len(found), "bytes": sum(one.size_bytes for one in found)}
