"""A setting outside its range is told in words, all of them at once, before work starts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from metalora_core.checks import COUNT, SHARE, Range
from metalora_core.errors import InvalidOptions
from metalora_core.evaluation.methods.peft_lora import PlainLoRAOptions
from metalora_core.model.generation import Request
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.meta_options import MetaTrainingOptions

REQUEST = Request(("a mug",), 128)
SOUND = (AdaptationOptions(), MetaTrainingOptions(), PlainLoRAOptions(), REQUEST)
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("options", SOUND)
def test_the_defaults_are_in_range(options: Any):
    options.check()


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, NAN, INF, True, "3", None, 10**10])
def test_a_count_is_a_whole_number_of_at_least_one(value: Any):
    assert not COUNT.holds(value)


def test_borders_belong_to_a_range_unless_it_says_otherwise():
    assert SHARE.holds(0) and SHARE.holds(1.0)
    half_open = Range(0, 1, above=True, below=True)
    assert not half_open.holds(0) and half_open.holds(0.5) and not half_open.holds(1)
    assert str(half_open) == "a finite number above 0 and below 1"


@pytest.mark.parametrize(
    "options, field, value",
    [
        *((AdaptationOptions(), name, value) for name in ("mid_learning_rate", "weight_decay") for value in (NAN, INF)),
        (AdaptationOptions(), "up_learning_rate", -1.0),
        (AdaptationOptions(), "preservation_weight", NAN),
        (AdaptationOptions(), "preservation_pictures", 0),
        (AdaptationOptions(), "preview_steps", 0),
        (AdaptationOptions(), "batch_size", 1.5),
        (AdaptationOptions(), "r_mid", 10**6),
        (AdaptationOptions(), "final_rate", NAN),
        (AdaptationOptions(), "seed", 2**64),
        (MetaTrainingOptions(), "r_meta", 10**6),
        (MetaTrainingOptions(), "meta_learning_rate", NAN),
        (MetaTrainingOptions(), "common_learning_rate", -1e-3),
        (MetaTrainingOptions(), "scale", INF),
        (MetaTrainingOptions(), "scale", 0),
        (MetaTrainingOptions(), "caption_dropout", 1.0),
        (MetaTrainingOptions(), "rank_by_pattern", {"*.mlp.*": 0}),
        (MetaTrainingOptions(), "warm_start", "tepid"),
        (PlainLoRAOptions(), "rank", 2.0),
        (PlainLoRAOptions(), "alpha", NAN),
        (REQUEST, "guidance", NAN),
        (REQUEST, "steps", 0),
        (REQUEST, "seed", -1),
        (REQUEST, "seed", 2**63),
    ],
)
def test_a_value_outside_is_named_with_what_is_needed(options: Any, field: str, value: Any):
    with pytest.raises(InvalidOptions, match=field):
        replace(options, **{field: value}).check()


def test_all_findings_come_at_once():
    with pytest.raises(InvalidOptions, match=r"steps is 0; expected a whole number of at least 1.*seed is 0\.5.*lion"):
        AdaptationOptions(steps=0, seed=0.5, optimizer="lion").check()  # pyright: ignore[reportArgumentType]
