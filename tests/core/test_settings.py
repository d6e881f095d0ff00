"""``--set`` reaches every setting of both trainings and refuses what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalora_core.commands.settings import with_settings
from metalora_core.errors import InvalidOptions
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.meta_options import MetaTrainingOptions


def test_values_get_the_type_of_their_setting() -> None:
    options = with_settings(
        MetaTrainingOptions(seed=7),
        ["caption_dropout=0.1", 'exclude=["*mod*"]', 'rank_by_pattern={"*mlp*": 4}', "bank_folder=bank", "steps=5"],
    )
    assert options == MetaTrainingOptions(
        seed=7,
        caption_dropout=0.1,
        exclude=("*mod*",),
        rank_by_pattern={"*mlp*": 4},
        bank_folder=Path("bank"),
        steps=5,
    )


def test_nothing_set_changes_nothing() -> None:
    assert with_settings(AdaptationOptions(seed=3, flip=True), []) == AdaptationOptions(seed=3, flip=True)


@pytest.mark.parametrize("text", ["crop=3", "crop_px", "", "=3"])
def test_an_unknown_name_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(InvalidOptions, match=r"crop_px=0, .*preservation_weight=0\.0"):
        with_settings(AdaptationOptions(), [text])


@pytest.mark.parametrize(
    "text", ["steps=many", "steps=1.5", "flip=perhaps", "start=hot", "crop_px=[1]", "seed=" + "[" * 9999]
)
def test_a_value_of_another_kind_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidOptions, match=text.partition("=")[0]):
        with_settings(AdaptationOptions(), [text])
