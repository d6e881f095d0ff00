"""Target choice, schedules and the three objectives."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalora_core.errors import InvalidOptions
from metalora_core.model.families import default_patterns
from metalora_core.model.objective import (
    EpsObjective,
    FlowObjective,
    MixedObjective,
    StratifiedTimesteps,
    VObjective,
    scaled_linear_alphas,
)
from metalora_core.model.targets import Part, Target, choose_targets, fingerprint, rank_for
from metalora_core.training.schedule import warmup_cosine, warmup_linear
from metalora_core.training.seeds import step_generator

OBJECTIVES = [
    FlowObjective(),
    FlowObjective("logit_normal", 3.0),
    EpsObjective(scaled_linear_alphas()),
    VObjective(scaled_linear_alphas()),
]


def target(name: str, *shape: int) -> Target:
    return Target(name, shape, (Part(name, 0, shape[0]),))


FLUX = tuple(
    target(name, 4, 3)
    for name in ("double_blocks.0.img_attn.qkv", "double_blocks.0.txt_mlp.2", "single_blocks.3.linear1", "img_in")
)


def test_choice_by_pattern_keeps_order_and_error_lists_what_there_is():
    assert [t.name for t in choose_targets(FLUX, default_patterns("flux"))] == [t.name for t in FLUX[:3]]
    assert [t.name for t in choose_targets(FLUX, ("*",), ("double*",))] == ["single_blocks.3.linear1", "img_in"]
    with pytest.raises(InvalidOptions, match=r"double_blocks\.0\.img_attn\.qkv"):
        choose_targets(FLUX, ("transformer_blocks.*",))


def test_rank_by_first_matching_pattern():
    assert rank_for("single_blocks.3.linear1", 8, {"single*": 4, "*": 2}) == 4
    assert rank_for("img_in", 8, {"single*": 4}) == 8
    with pytest.raises(InvalidOptions, match="at least 1"):
        rank_for("img_in", 0)


@given(st.permutations(FLUX))
def test_fingerprint_ignores_order_and_sees_shapes(order: list[Target]):
    assert fingerprint(order) == fingerprint(FLUX)
    assert fingerprint([*order[1:], target(order[0].name, 4, 5)]) != fingerprint(FLUX)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_clean_and_noise_ends_and_recovery_of_the_picture(objective):
    x0, noise = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    t = objective.timesteps_from_uniform(torch.tensor([0.1, 0.4, 0.6, 0.9]))
    x_t, wanted = objective.make_noisy(x0, noise, t), objective.target(x0, noise, t)
    if objective.name == "flow":
        recovered = x_t - t.view(-1, 1, 1, 1) * wanted
    else:
        a = objective.alphas_cumprod[t.long()].view(-1, 1, 1, 1)
        recovered = (
            (x_t - (1 - a).sqrt() * wanted) / a.sqrt()
            if objective.name == "eps"
            else a.sqrt() * x_t - (1 - a).sqrt() * wanted
        )
    torch.testing.assert_close(recovered, x0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_sampled_timesteps_are_in_range_and_follow_the_generator(objective):
    top = 1.0 if objective.name == "flow" else 999.0
    draws = [objective.sample_timesteps(500, step_generator(3, "t"), torch.device("cpu")) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].min() >= 0 and draws[0].max() <= top
    ends = objective.timesteps_from_uniform(torch.tensor([0.0, 1.0]))
    assert ends.isfinite().all() and ends[0] >= 0 and ends[1] <= top


@given(st.integers(1, 8), st.integers(0, 1000), st.integers(8, 200))
@settings(max_examples=40, deadline=None)
def test_stratified_timesteps_leave_no_gap(batch: int, seed: int, samples: int):
    strata = StratifiedTimesteps(FlowObjective(), batch, seed)
    t = torch.cat([strata.at(step) for step in range(-(-samples // batch))])[:samples].sort().values
    edges = torch.cat([torch.zeros(1), t, torch.ones(1)])
    # The golden-ratio sequence's largest gap stays within 2.62 / n; independent draws would leave about ln(n) / n.
    assert edges.diff().max() < 2.7 / samples + 1e-5
    assert torch.equal(strata.at(3), StratifiedTimesteps(FlowObjective(), batch, seed).at(3))


@given(st.integers(1, 500), st.integers(0, 50), st.floats(0, 1))
def test_schedule_warms_up_then_falls_to_the_floor(steps: int, warmup: int, floor: float):
    rates = [warmup_cosine(step, steps, warmup, floor) for step in range(steps)]
    assert all(floor * (step >= warmup) - 1e-9 <= rate <= 1 + 1e-9 for step, rate in enumerate(rates))
    tail = rates[warmup:]
    assert tail == sorted(tail, reverse=True)
    assert rates[:warmup] == sorted(rates[:warmup])


def test_step_generators_differ_by_seed_purpose_and_step():
    draws = {
        float(torch.rand(1, generator=step_generator(*key)))
        for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    }
    assert len(draws) == 4


def test_the_rate_is_held_and_then_falls_in_a_straight_line():
    rates = [warmup_linear(step, 20, 2, 0.5, 0.1) for step in range(21)]
    assert rates[:2] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert rates[2:11] == [1.0] * 9
    falls = {round(a - b, 9) for a, b in pairwise(rates[10:])}
    assert falls == {0.09} and rates[-1] == pytest.approx(0.1)


def test_flow_and_v_are_mixes_of_picture_and_noise():
    flow, v = FlowObjective(), VObjective(scaled_linear_alphas())
    alphas = scaled_linear_alphas().double()
    mixes = {
        flow: lambda t: torch.stack([1 - t, t, 0 * t - 1, 0 * t + 1]),
        v: lambda t: torch.stack(
            [
                alphas[t.long()].sqrt(),
                (1 - alphas[t.long()]).sqrt(),
                -(1 - alphas[t.long()]).sqrt(),
                alphas[t.long()].sqrt(),
            ]
        ),
    }
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    for objective, rates in mixes.items():
        mixed = MixedObjective(rates, quantile=lambda u: u)
        t = torch.tensor([0.1, 0.5, 0.9]) * (1 if objective is flow else 999)
        noisy, target = mixed.make_noisy(latents, noise, t), mixed.target(latents, noise, t)
        torch.testing.assert_close(noisy, objective.make_noisy(latents, noise, t))
        torch.testing.assert_close(target, objective.target(latents, noise, t))
        picture, found = mixed.picture_and_noise(noisy, target, t)
        torch.testing.assert_close(picture, latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found, noise, rtol=1e-4, atol=1e-4)
