"""Compiled passes in bfloat16: the same numbers to three digits, and nothing of it left behind."""

from __future__ import annotations

import shutil

import pytest
import torch

from metalora_core.fast_pass import fast_pass
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.pocket.base_model import make_base_model

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "c++", "clang++")),
    reason="no C++ compiler, which torch.compile needs",
)


@needs_compiler
def test_a_fast_pass_agrees_with_the_plain_one_and_so_do_its_gradients():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(32, 32), torch.randn(4, 7, 32)

    def attend(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(layer(x), x, x)

    def result(function) -> tuple[torch.Tensor, torch.Tensor]:
        given = x.clone().requires_grad_()
        out = function(given)
        out.square().sum().backward()
        assert given.grad is not None
        return out.detach(), given.grad

    for plain, fast in zip(result(attend), result(fast_pass(attend)), strict=True):
        assert fast.dtype == torch.float32
        assert float((plain - fast).norm() / plain.norm()) < 2e-2


def test_a_host_is_as_before_after_a_fast_training():
    host = DiffusersHost(make_base_model())
    plain = host.denoise
    with pytest.raises(RuntimeError, match="enough"), host.fast_training():
        assert host.denoise is not plain
        raise RuntimeError("enough")
    assert host.denoise is plain
