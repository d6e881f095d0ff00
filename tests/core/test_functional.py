"""Laws of the chain's algebra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metalora_core.errors import RankMismatch
from metalora_core.functional import (
    ConvGeometry,
    add_up,
    apply_mid,
    chain_delta,
    fold,
    fold_into_down,
    fold_into_up,
    project_down,
)


def chain_add(
    base: Tensor, x: Tensor, down: Tensor, mid: Tensor, up: Tensor, scale: float = 1.0, conv: ConvGeometry | None = None
) -> Tensor:
    """The chain beside its layer, step by step: ``base + scale · up(mid(meta_down(x)))``."""
    return add_up(base, apply_mid(project_down(x, down, conv), mid, conv), up, scale, conv)


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2}
ranks = st.integers(1, 6)
widths = st.integers(1, 9)


def factors(r_meta: int, r_mid: int, inner: tuple[int, ...], out: int, *batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [draw(r_meta, *inner), draw(*batch, r_mid, r_meta), draw(*batch, out, r_mid)]


@given(ranks, ranks, widths, widths, st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_chain_equals_merged_equals_folded(r_meta: int, r_mid: int, inner: int, out: int, scale: float, seed: int):
    down, mid, up = factors(r_meta, r_mid, (inner,), out, seed=seed)
    x, weight = torch.randn(2, 3, inner, dtype=torch.float64), torch.randn(out, inner, dtype=torch.float64)
    base = F.linear(x, weight)
    chain = chain_add(base, x, down, mid, up, scale)
    merged = F.linear(x, weight + chain_delta(down, mid, up, scale))
    folded_down, folded_up = fold(down, mid, up)
    folded = base + scale * F.linear(F.linear(x, folded_down), folded_up)
    assert folded_down.shape[0] == min(r_meta, r_mid)
    torch.testing.assert_close(chain, merged, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded, merged, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(up @ fold_into_down(down, mid), fold_into_up(mid, up) @ down, rtol=1e-10, atol=1e-10)


@given(st.floats(-2, 2), st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_scale_is_linear(first: float, second: float):
    down, mid, up = factors(4, 2, (5,), 3)
    x, base = torch.randn(7, 5, dtype=torch.float64), torch.zeros(7, 3, dtype=torch.float64)

    def added(scale: float) -> Tensor:
        return chain_add(base, x, down, mid, up, scale)

    torch.testing.assert_close(added(first) + added(second), added(first + second), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "stride, padding, dilation", [((1, 1), (1, 1), (1, 1)), ((2, 2), (0, 0), (1, 1)), ((1, 2), "valid", (2, 1))]
)
def test_convolution_chain_equals_merged(dtype: torch.dtype, stride, padding, dilation):
    down, mid, up = (f.to(dtype) / 3 for f in factors(4, 2, (3, 3, 3), 5))
    x, weight = torch.randn(2, 3, 8, 9).to(dtype), torch.randn(5, 3, 3, 3).to(dtype) / 5
    geometry = ConvGeometry(stride, padding, dilation)
    base = F.conv2d(x, weight, None, stride, padding, dilation)
    merged = F.conv2d(x, weight + chain_delta(down, mid, up, 0.5), None, stride, padding, dilation)
    chain = chain_add(base, x, down, mid, up, 0.5, geometry)
    torch.testing.assert_close(chain, merged, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("conv", [None, ConvGeometry((1, 1), (1, 1))])
def test_per_sample_factors_equal_one_run_per_subject(conv: ConvGeometry | None):
    inner = (6,) if conv is None else (6, 3, 3)
    down, mids, ups = factors(5, 2, inner, 4, 3)
    x = torch.randn(3, 7, 6, dtype=torch.float64) if conv is None else torch.randn(3, 6, 4, 4, dtype=torch.float64)
    base = torch.randn(3, 7, 4, dtype=torch.float64) if conv is None else torch.randn(3, 4, 4, 4, dtype=torch.float64)
    together = chain_add(base, x, down, mids, ups, 0.7, conv)
    alone = [chain_add(base[i : i + 1], x[i : i + 1], down, mids[i], ups[i], 0.7, conv) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    deltas = torch.stack([chain_delta(down, mids[i], ups[i]) for i in range(3)])
    torch.testing.assert_close(chain_delta(down, mids, ups), deltas)


def test_per_sample_factors_on_vectors():
    down, mids, ups = factors(5, 2, (6,), 4, 3)
    x, base = torch.randn(3, 6, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    wanted = torch.stack([chain_delta(down, mids[i], ups[i]) @ x[i] for i in range(3)])
    torch.testing.assert_close(chain_add(base, x, down, mids, ups), wanted)


def test_gradients_agree_with_the_merged_weight():
    down, mid, up = factors(4, 3, (5,), 6)
    leaves = [f.clone().requires_grad_() for f in (down, mid, up)]
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y.square().sum(), [x, *leaves])

    by_chain = gradients(chain_add(torch.zeros(2, 3, 6, dtype=torch.float64), x, *leaves, 0.3))
    by_merge = gradients(F.linear(x, chain_delta(*leaves, 0.3)))
    for a, b in zip(by_chain, by_merge, strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_meta_down_keeps_only_ranks_per_token():
    down, mid, up = (f.float() for f in factors(4, 2, (512,), 512))
    mid.requires_grad_()
    up.requires_grad_()
    x, kept = torch.randn(1, 100, 512), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        chain_add(torch.zeros(1, 100, 512), x, down, mid, up)
    per_token = [shape for shape in kept if 100 in shape]
    assert sum(shape.numel() for shape in per_token) == 100 * (4 + 2)


@pytest.mark.parametrize(
    "shapes", [((4, 5), (2, 3), (6, 2)), ((4, 5), (2, 4), (6, 3)), ((4,), (2, 4), (6, 2)), ((4, 5), (1, 2, 4), (6, 2))]
)
def test_wrong_ranks_are_refused(shapes: tuple[tuple[int, ...], ...]):
    with pytest.raises(RankMismatch, match="expected"):
        chain_delta(*(torch.zeros(shape) for shape in shapes))


def test_peft_agrees_with_the_fold():
    from peft import LoraConfig, inject_adapter_in_model

    down, mid, up = (f.float() for f in factors(8, 3, (5,), 6))
    model = torch.nn.Sequential(torch.nn.Linear(5, 6))
    x = torch.randn(4, 5)
    chain = chain_add(model(x), x, down, mid, up, 0.5)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=1.5, target_modules=["0"]), model)
    folded_down, folded_up = fold(down, mid, up)
    state = dict(model.named_parameters())
    state["0.lora_A.default.weight"].data.copy_(folded_down)
    state["0.lora_B.default.weight"].data.copy_(folded_up)
    torch.testing.assert_close(model(x), chain, rtol=1e-5, atol=1e-5)
