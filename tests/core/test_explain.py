"""Laws of an explanation: shares add up, silence loses nothing, everything lost is all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from core.test_evaluation_cohort import photos, toy_prior
from core.toy_host import ToyHost

from metalora_core.adaptation import adapt
from metalora_core.evaluation.explain import block_of, explain_identity, explanation_png, layer_shares
from metalora_core.files.identity import Identity, IdentityLayer, chain_factors
from metalora_core.files.prior import Prior
from metalora_core.training.adaptation_options import AdaptationOptions


@pytest.fixture(scope="module")
def learned() -> tuple[ToyHost, Prior, Identity]:
    host = ToyHost()
    prior = toy_prior(host)
    return host, prior, adapt(host, prior, photos(1), AdaptationOptions(steps=3)).identity


def only(identity: Identity, name: str) -> Identity:
    layers = {
        n: layer if n == name else IdentityLayer(layer.mid, torch.zeros_like(layer.up))
        for n, layer in identity.layers.items()
    }
    return replace(identity, layers=layers)


def test_shares_are_those_of_the_deltas_themselves(learned: tuple[ToyHost, Prior, Identity]) -> None:
    _, prior, identity = learned
    chains = chain_factors(identity, prior)
    squares = {name: float(chain.delta().double().square().sum()) for name, chain in chains.items()}
    shares = layer_shares(chains)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares == pytest.approx({name: square / sum(squares.values()) for name, square in squares.items()}, rel=1e-4)


def test_a_block_that_carries_everything_is_lost_whole_and_a_silent_one_not_at_all(
    learned: tuple[ToyHost, Prior, Identity],
) -> None:
    host, prior, identity = learned
    found = explain_identity(host, only(identity, "conv"), prior, size_px=8)
    assert found.lost_without["conv"] == pytest.approx(1)
    assert found.lost_without["attn"] == 0
    assert found.by_layer["conv"] == pytest.approx(1)
    assert all(change > 0 for change in found.by_level.values())


def test_an_empty_identity_changes_nothing(learned: tuple[ToyHost, Prior, Identity]) -> None:
    host, prior, identity = learned
    found = explain_identity(host, only(identity, "none"), prior, size_px=8)
    assert set(found.by_level.values()) == set(found.by_layer.values()) == set(found.lost_without.values()) == {0.0}
    assert "lost without it" in found.text()


def test_explaining_leaves_the_model_as_it_was(learned: tuple[ToyHost, Prior, Identity]) -> None:
    host, prior, identity = learned
    before = {name: value.clone() for name, value in host.model.state_dict().items()}
    once, again = (explain_identity(host, identity, prior, size_px=8) for _ in range(2))
    assert once == again
    assert all(torch.equal(value, before[name]) for name, value in host.model.state_dict().items())
    assert not any(module._forward_hooks for module in host.model.modules())


def test_blocks_are_what_a_number_counts() -> None:
    assert block_of("double_blocks.1.img_attn.qkv") == "double_blocks.1"
    assert block_of("input_blocks.4.1.transformer_blocks.0.attn1.to_q") == "input_blocks.4"
    assert block_of("conv") == "conv"


def test_the_picture_is_a_png(learned: tuple[ToyHost, Prior, Identity]) -> None:
    pytest.importorskip("matplotlib")
    host, prior, identity = learned
    assert explanation_png(explain_identity(host, identity, prior, size_px=8)).startswith(b"\x89PNG")
