"""Forward and backward passes of a long training, compiled, and in bfloat16 where that is fast.

For a small model on a CPU, most of a pass is not the products but the operations between them; compiling fuses these.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["compiled_pass", "fast_pass", "fast_products", "hooks_guarded"]

_RECOMPILE_LIMIT = (
    64  # every run in a process brings its own chains, and the compiler's default of 8 would soon be used up
)


@contextmanager
def hooks_guarded() -> Generator[None]:
    """Make the compiler check that a module has the same chains before it reuses a graph.

    By itself it checks everything but hooks, and would keep using the chains of an earlier injection.
    """
    import torch._dynamo.config as settings

    limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    changed: dict[str, Any] = {"skip_nnmodule_hook_guards": False, limit: _RECOMPILE_LIMIT}
    with cast(Any, settings).patch(**changed):
        yield


def compiled_pass(function: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    """Compile a function that calls a model, at its first call.

    Worth it for many passes of one shape: the first takes a minute or more and needs a C++ compiler.

    Args:
        function: Tensors, or dictionaries of them, to one tensor.
        options: Of torch's compiler.
    """
    compiled: Any = torch.compile(function, dynamic=False, options=options)

    def call(*inputs: Any) -> Tensor:
        with hooks_guarded():
            return compiled(*inputs)

    return call


def fast_pass(function: Callable[..., Tensor], device_type: str = "cpu") -> Callable[..., Tensor]:
    """As `compiled_pass`, with `fast_products`; the result is float32.

    Gradients agree with the plain pass to bfloat16's three digits.

    Args:
        function: Tensors, or dictionaries of them, to one tensor.
        device_type: Where it runs, "cpu" or "cuda".
    """
    # Fused attention is slow backwards for short sequences; the pattern matcher would fuse the plain one again.
    compiled = compiled_pass(function, pattern_matcher=False)

    def call(*inputs: Any) -> Tensor:
        with fast_products(device_type), sdpa_kernel(SDPBackend.MATH):
            return compiled(*inputs).float()

    return call


def fast_products(device_type: str = "cpu") -> torch.autocast:
    """Products are computed in bfloat16 inside, unless a processor has no instructions for them.

    With AMX they take a fifth to a tenth of float32's time; a processor that only imitates them takes eight times it.

    Args:
        device_type: Where they are computed, "cpu" or "cuda".
    """
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # an older torch cannot be asked
    asked: list[Callable[[], bool]] = [getattr(torch.cpu, name, bool) for name in names]
    return torch.autocast(device_type, torch.bfloat16, enabled=device_type != "cpu" or any(has() for has in asked))
