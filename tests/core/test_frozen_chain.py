"""Laws of the training form of the chain: it equals the plain algebra, forward and backward."""

from __future__ import annotations

import pytest
import torch
from core.test_functional import chain_add
from torch import Tensor

from metalora_core.chain import SlotLayout
from metalora_core.functional import add_rows, keeps_input, middle_of
from metalora_core.training.trained_vector import TrainedVector


def leaves(r_meta: int, inputs: int, dtype=torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 7), (2, 5, inputs), (r_meta, inputs), (3, r_meta), (7, 3))
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return tuple(x if i == 2 else x.requires_grad_() for i, x in enumerate(drawn))


def chained(base: Tensor, x: Tensor, down: Tensor, mid: Tensor, up: Tensor, scale: float) -> Tensor:
    return add_rows(base, middle_of(x, down, mid), up, scale)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("r_meta", "inputs"), [(4, 6), (1, 40)], ids=["keeps the input", "keeps the projection"])
def test_equals_the_plain_chain_with_its_gradients(scale: float, r_meta: int, inputs: int):
    base, x, down, mid, up = leaves(r_meta, inputs)
    assert keeps_input(down) == (r_meta == 4)
    trained = (base, x, mid, up)
    weights = torch.randn(base.shape, generator=torch.Generator().manual_seed(1), dtype=base.dtype)
    plain, ours = (f(base, x, down, mid, up, scale) for f in (chain_add, chained))
    torch.testing.assert_close(ours, plain)
    expected = torch.autograd.grad((plain * weights).sum(), trained)
    torch.testing.assert_close(torch.autograd.grad((ours * weights).sum(), trained), expected)


def test_a_wide_layer_keeps_only_its_projection():
    base, x, down, mid, up = leaves(1, 40)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        chained(base, x, down, mid, up, 1.0)
    assert x.numel() not in kept


def test_no_gradient_goes_to_what_is_frozen():
    base, x, down, mid, up = leaves(4, 6)
    out = chained(base.detach(), x.detach(), down, mid, up, 1.0)
    out.sum().backward()
    assert base.grad is None and x.grad is None
    assert mid.grad is not None and up.grad is not None


def test_gradients_below_half_precision_survive():
    layout = SlotLayout({"a": (2, 3)}, {"a": (4, 2)})
    vector = TrainedVector(layout, torch.ones(layout.total), torch.float16)
    loss = 3e-8 * vector.factors[0]["a"].float().sum()
    (loss * vector.loss_scale).backward()
    vector.gather_gradients()
    torch.testing.assert_close(vector.parameters[0].grad, torch.full((6,), 3e-8), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_vector_collects_the_gradients_of_its_leaves(dtype: torch.dtype):
    layout = SlotLayout({"a": (2, 3), "b": (1, 3)}, {"a": (4, 2), "b": (5, 1)})
    vector = TrainedVector(layout, torch.arange(layout.total, dtype=torch.float32), dtype)
    mids, ups = vector.factors
    loss = sum((kind[name].float() * weight).sum() for kind in (mids, ups) for name, weight in (("a", 2), ("b", 3)))
    for _ in range(2):
        loss.backward(retain_graph=True)
    vector.gather_gradients()
    gradients = torch.cat([p.grad for p in vector.parameters])
    in_order = [piece for kind in (mids, ups) for name, piece in kind.items()]
    expected = torch.cat([torch.full((p.numel(),), w) for p, w in zip(in_order, (4.0, 6.0, 4.0, 6.0), strict=True)])
    torch.testing.assert_close(gradients, expected)
    vector.flat.add_(1)
    vector.cast()
    torch.testing.assert_close(layout.pack(*vector.factors).float(), vector.flat.to(dtype).float())
    vector.zero_gradients()
    vector.gather_gradients()
    assert all(not bool(p.grad.any()) for p in vector.parameters)
