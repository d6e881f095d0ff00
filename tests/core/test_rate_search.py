"""Laws of the learning rate that finds itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_adaptation import OPTIONS, photos, raise_at, same
from core.test_evaluation_cohort import OPTIONS as COHORT
from core.test_evaluation_cohort import photos as cohort_photos
from core.test_evaluation_cohort import toy_prior as cohort_prior
from core.toy_host import ToyHost

from metalora_core.adaptation import adapt
from metalora_core.commands.adapt import with_rate
from metalora_core.errors import InvalidOptions, TrainingCancelled
from metalora_core.evaluation.methods.cohort import train_cohort
from metalora_core.evaluation.methods.registry import chain_of
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.rate_search import FoundRate, find_rate

AUTO = replace(OPTIONS, learning_rate="auto")


def on_a_parabola(bottom: float, *, height: float = 1.0, depth: float = 0.2, steps: int = 100) -> FoundRate:
    """A loss that is lowest, by a share of ``depth``, when the factors have moved by ``bottom``."""
    moved = [0.0]

    def trial(number: int, rate: float) -> None:
        moved[0] += rate

    return find_rate(trial, lambda: height * (1 - depth + depth * (moved[0] / bottom - 1) ** 2), steps)


@pytest.mark.parametrize("bottom", [2e-4, 1e-3, 7e-3, 3e-2])
def test_the_rate_is_the_way_to_the_bottom_of_the_valley_wherever_it_is(bottom: float) -> None:
    assert on_a_parabola(bottom).rate == pytest.approx(bottom, rel=0.3)


def test_the_size_of_the_loss_does_not_matter_and_its_depth_barely() -> None:
    usual = on_a_parabola(5e-3)
    assert on_a_parabola(5e-3, height=1e3).rate == pytest.approx(usual.rate)
    assert on_a_parabola(5e-3, depth=0.02).rate == pytest.approx(usual.rate, rel=0.3)


def searched_again(*_: object) -> FoundRate:
    pytest.fail("searched again")


def test_a_search_ends_at_the_bottom_and_costs_at_most_eight_steps() -> None:
    assert [len(on_a_parabola(bottom).trials) for bottom in (2e-4, 7e-3, 10.0)] == [3, 6, 8]


def test_a_longer_training_takes_smaller_steps_and_a_shorter_one_no_larger() -> None:
    rates = [on_a_parabola(5e-3, steps=steps).rate for steps in (10, 100, 400)]
    assert rates[0] == rates[1] == pytest.approx(2 * rates[2])


def test_a_loss_that_nothing_moves_gets_a_usual_rate_and_the_report_says_so() -> None:
    for loss in (1.0, 0.0):
        found = find_rate(lambda number, rate: None, lambda value=loss: value, 100)
        assert (found.rate, found.felt) == (1e-3, False)
        assert "No trial step" in found.note


def test_a_loss_that_breaks_ends_the_search_at_what_was_good() -> None:
    losses = iter([1.0, 0.99, 0.95, float("inf")])
    found = find_rate(lambda number, rate: None, lambda: next(losses), 100)
    assert found.rate == pytest.approx(1e-4) and len(found.trials) == 2


def test_a_run_with_the_rate_it_finds_is_the_run_with_that_rate_given() -> None:
    found = adapt(ToyHost(), None, photos(), AUTO)
    record: Any = found.identity.metadata.metrics["found_rate"]
    given = adapt(ToyHost(), None, photos(), replace(OPTIONS, learning_rate=record["rate"]))
    assert found.losses == given.losses
    told = f"The learning rate {record['rate']:.2g} was found in {len(record['trials'])} trial steps"
    assert found.notes[0].startswith(told)
    assert found.identity.metadata.settings["learning_rate"] == "auto"
    half = adapt(ToyHost(), None, photos(), replace(AUTO, rate_factor=0.5))
    assert half.losses == adapt(ToyHost(), None, photos(), replace(OPTIONS, learning_rate=record["rate"] / 2)).losses


def test_subjects_side_by_side_each_train_at_the_rate_they_find_alone() -> None:
    host, sets = ToyHost(), [cohort_photos(1), cohort_photos(2)]
    start = chain_of("meta_random", host, cohort_prior(host), 0)
    options = replace(COHORT, learning_rate="auto")
    together = train_cohort(host, start, sets, options, [6], seeds=[5, 9])[0].flats
    for flat, one, seed in zip(together, sets, [5, 9], strict=True):
        alone = train_cohort(host, start, [one], options, [6], seeds=[seed])[0].flats[0]
        assert torch.allclose(flat, alone, atol=1e-3)
    assert not torch.allclose(*(flat.sub(start.flat).abs().max() for flat in together), rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "schedulefree_adamw"])
def test_a_resumed_run_does_not_search_again_and_ends_bit_identical(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if optimizer == "schedulefree_adamw":
        pytest.importorskip("schedulefree")
    path, options = tmp_path / "run.safetensors", replace(AUTO, optimizer=optimizer)
    unbroken = adapt(ToyHost(), None, photos(), options)
    with pytest.raises(TrainingCancelled):
        adapt(ToyHost(), None, photos(), options, on_progress=raise_at(10, TrainingCancelled()), checkpoint=path)
    monkeypatch.setattr("metalora_core.adaptation.find_rate", searched_again)
    resumed = adapt(ToyHost(), None, photos(), options, checkpoint=path)
    assert same(unbroken.identity, resumed.identity)
    assert (unbroken.losses, unbroken.notes) == (resumed.losses, resumed.notes)


def test_an_optimizer_that_finds_its_rate_itself_is_left_to_it() -> None:
    options = replace(AUTO, optimizer="prodigy")
    assert options.rates == (1.0, 1.0) and options.finds_itself
    assert replace(OPTIONS, learning_rate=2e-3).rates == (2e-3, 2e-3)
    assert OPTIONS.rates == (OPTIONS.mid_learning_rate, OPTIONS.up_learning_rate)


def test_a_rate_on_the_command_line_goes_before_the_presets() -> None:
    preset = AdaptationOptions(learning_rate="auto")
    assert with_rate(preset, "", []) == preset
    assert with_rate(preset, "2e-3", []).rates == (2e-3, 2e-3)
    assert with_rate(AdaptationOptions(), "auto", []).learning_rate == "auto"
    assert with_rate(preset, "", ["up_learning_rate=1e-4"]).learning_rate == 0
    with pytest.raises(InvalidOptions, match="--learning-rate is 'fast'"):
        with_rate(preset, "fast", [])
