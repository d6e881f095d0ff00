"""What the page asks of the server: the library of identities, and what unfinished runs take on the disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from ...metalora_core.errors import InvalidOptions, MetaLoRAError, UnreadableFile
from ...metalora_core.files.sweep import LeftBehind, find_left_behind, sweep
from . import library
from .folders import IDENTITIES, PRIORS, roots_of

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.Response]]

UNFINISHED = "/metalora/unfinished"
LIBRARY = "/metalora/identities"
BODY_BYTES_AT_MOST = 8192
"""Of a request: two file names with room to spare."""


def add_routes() -> None:
    """Add the pack's routes to ComfyUI's server, if one is running."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    # ComfyUI itself refuses requests of other origins.
    for method, path, handler in (
        ("GET", UNFINISHED, _unfinished),
        ("DELETE", UNFINISHED, _unfinished),
        ("GET", LIBRARY, _identities),
        ("GET", f"{LIBRARY}/thumbnail", _thumbnail),
        ("POST", f"{LIBRARY}/rename", _changing(library.rename, "name", "new_name")),
        ("POST", f"{LIBRARY}/delete", _changing(library.delete, "name")),
        ("POST", f"{LIBRARY}/restore", _changing(library.restore, "undo")),
    ):
        server.routes.route(method, path)(handler)


async def _unfinished(request: web.Request) -> web.Response:
    from aiohttp import web

    work = sweep if request.method == "DELETE" else find_left_behind
    return web.json_response(_told(await asyncio.to_thread(work, [*roots_of(PRIORS), *roots_of(IDENTITIES)], 0)))


def _told(found: list[LeftBehind]) -> dict[str, int]:
    return {"files": len(found), "bytes": sum(one.size_bytes for one in found)}


async def _identities(_: web.Request) -> web.Response:
    from aiohttp import web

    return web.json_response({"identities": await asyncio.to_thread(library.library)})


async def _thumbnail(request: web.Request) -> web.Response:
    from aiohttp import web

    try:
        jpeg = await asyncio.to_thread(library.thumbnail, request.query.get("name", ""))
    except MetaLoRAError as error:
        return _refused(error)
    # A file that somebody sent may hold anything: no browser may take it for something else.
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return web.Response(status=200 if jpeg else 404, body=jpeg, content_type="image/jpeg", headers=headers)


def _changing(change: Callable[..., str], *fields: str) -> Handler:
    """A route that takes texts as JSON and answers with the name that the change gave."""

    async def changed(request: web.Request) -> web.Response:
        from aiohttp import web

        try:
            texts = await _texts(request, fields)
            return web.json_response({"name": await asyncio.to_thread(change, *texts)})
        except MetaLoRAError as error:
            return _refused(error)

    return changed


async def _texts(request: web.Request, fields: tuple[str, ...]) -> list[str]:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > BODY_BYTES_AT_MOST:
            raise InvalidOptions(f"The request has more than {BODY_BYTES_AT_MOST} bytes.")
    try:
        given: Any = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    texts = [cast("dict[str, Any]", given).get(name) for name in fields] if isinstance(given, dict) else [None]
    found = [text for text in texts if isinstance(text, str) and "\0" not in text]
    if len(found) < len(fields):
        raise InvalidOptions(f"The request is not a JSON object with the texts {', '.join(fields)}.")
    return found


def _refused(error: MetaLoRAError) -> web.Response:
    from aiohttp import web

    return web.json_response({"error": str(error)}, status=404 if isinstance(error, UnreadableFile) else 400)
