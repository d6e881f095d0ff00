"""A node pack for the soak test alone: forces errors, and says what a ComfyUI process holds."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import psutil
import torch
from aiohttp import web
from server import PromptServer

MORE_THAN_THERE_IS = 1 << 46  # bytes


class Fresh:
    """Hands a model on. With another number, everything that follows runs again instead of coming from the cache."""

    CATEGORY, FUNCTION, RETURN_TYPES = "soak", "run", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "number": ("INT", {"default": 0, "max": 1 << 30})}}

    def run(self, model: Any, number: int) -> tuple[Any]:
        return (model,)


class Greedy:
    """A model that asks for more memory than there is: in one call alone, or from that call on."""

    CATEGORY, FUNCTION, RETURN_TYPES = "soak", "run", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 1, "min": 1})
        return {"required": {"model": ("MODEL",), "call": number, "lasting": ("BOOLEAN", {"default": False})}}

    def run(self, model: Any, call: int, lasting: bool) -> tuple[Any]:
        from comfy.patcher_extension import WrappersMP

        calls, asked = 0, model.clone()

        def ask(executor: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call or (lasting and calls > call):
                torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8)
            return executor(*args, **kwargs)

        asked.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "greedy", ask)
        return (asked,)


class Failing:
    """A node of another pack that fails."""

    CATEGORY, FUNCTION, RETURN_TYPES = "soak", "run", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}}

    def run(self, images: Any) -> tuple[Any]:
        raise ValueError("forced")


NODE_CLASS_MAPPINGS = {"Soak_Fresh": Fresh, "Soak_Greedy": Greedy, "Soak_Failing": Failing}


def _alive(kind: type) -> list[Any]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


def _memory_kb(process: psutil.Process) -> int:
    """Memory of this process's own; a library's pages count or not, depending on who else has loaded it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return process.memory_info().rss // 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssAnon"))


def _digest(module: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@PromptServer.instance.routes.get("/soak/state")
async def state(request: web.Request) -> web.Response:
    """What the process holds while nothing runs; with ``digests``, also the weights of every base model in it."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    process, modules = psutil.Process(os.getpid()), _alive(torch.nn.Module)
    bases = [module for module in modules if isinstance(module, comfy.model_base.BaseModel)]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return web.json_response(
        {
            "memory_kb": _memory_kb(process),
            "handles": process.num_fds(),
            "threads": threading.active_count(),
            "hooks": sum(len(getattr(module, name, ())) for module in modules for name in hooks),
            "patchers": len(_alive(comfy.model_patcher.ModelPatcher)),
            "bases": len(bases),
            "loaded": len(comfy.model_management.current_loaded_models),
            "digests": sorted({_digest(base.diffusion_model) for base in bases}) if "digests" in request.query else [],
        }
    )
