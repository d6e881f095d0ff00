"""Laws of the scores that headline numbers are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from core.test_evaluation import row
from hypothesis import given
from hypothesis import strategies as st

from metalora_core.evaluation.curves import Numbers, curves_of
from metalora_core.evaluation.front import Path, balance, chosen_step, hypervolume, identity_at
from metalora_core.evaluation.methods.registry import BASE, PLAIN
from metalora_core.evaluation.rows import Row
from metalora_core.evaluation.subjects.scores import copy_angle
from metalora_core.pocket.readers import FactorReader

SCORES = st.lists(st.tuples(st.floats(-0.5, 1), st.floats(-0.5, 1)), min_size=1, max_size=8)


def pair(points: Sequence[tuple[float, float]]) -> tuple[Numbers, Numbers]:
    identity, adherence = np.array(points, dtype=np.float64).T
    return identity[None], adherence[None]


def path(rows: Sequence[Row], step: int = 0) -> Path:
    base = [row(BASE, "avatars", 1, 0, subject, 0.2, 0.03) for subject in range(2)]
    curves = curves_of([*base, *rows])
    return Path.of(curves[PLAIN, "avatars", 1], curves[BASE, "avatars", 1], np.full((1, 2), 0.5), step)


def learned(step: int, identity: float, prompt: float) -> list[Row]:
    return [row(PLAIN, "avatars", 1, step, subject, identity, prompt) for subject in range(2)]


def test_the_base_model_has_no_identity_the_photo_no_adherence_and_true_photos_have_all() -> None:
    # The photo again has a prompt error of 0.4 in these rows.
    found = path([*learned(1, 0.2, 0.03), *learned(2, 0.0, 0.4), *learned(3, 0.0, 0.0)])
    assert found.identity[0] == pytest.approx([0, 1, 1])
    assert found.adherence[0] == pytest.approx([1 - 0.03 / 0.4, 0, 1])
    assert balance(found.identity, found.adherence)[0] == pytest.approx([0, 0, 1])
    assert found.hypervolume[0] == pytest.approx(1)


@given(points=SCORES, better=st.tuples(st.floats(-0.5, 1), st.floats(-0.5, 1)))
def test_another_point_never_makes_a_front_smaller(
    points: list[tuple[float, float]], better: tuple[float, float]
) -> None:
    area, more = (float(hypervolume(*pair(some))[0]) for some in (points, [*points, better]))
    assert 0 <= area <= more + 1e-12 and more <= 1 + 1e-12
    assert hypervolume(*pair(points[::-1]))[0] == pytest.approx(area)


@given(points=SCORES)
def test_a_front_is_at_least_as_large_as_each_of_its_points(points: list[tuple[float, float]]) -> None:
    largest = max(max(x, 0) * max(y, 0) for x, y in points)
    assert hypervolume(*pair(points))[0] >= largest - 1e-12


def test_two_points_cover_what_either_covers() -> None:
    assert hypervolume(*pair([(0.9, 0.2), (0.4, 0.8)]))[0] == pytest.approx(0.9 * 0.2 + 0.4 * 0.6)
    assert hypervolume(*pair([(0.0, 1.0), (1.0, 0.0)]))[0] == 0


@given(points=SCORES, level=st.floats(-0.5, 1), lower=st.floats(0, 0.5))
def test_asking_for_less_adherence_never_lowers_the_identity(
    points: list[tuple[float, float]], level: float, lower: float
) -> None:
    strict, lax = (identity_at(*pair(points), np.array([asked]))[0] for asked in (level, level - lower))
    assert strict <= lax + 1e-9
    assert strict <= max(0.0, *(identity for identity, _ in points), 0.0) + 1e-9


def test_between_two_points_a_path_is_straight() -> None:
    assert identity_at(*pair([(0.0, 0.9), (0.8, 0.5)]), np.array([0.7]))[0] == pytest.approx(0.4)
    assert identity_at(*pair([(0.8, 0.5)]), np.array([0.7]))[0] == 0


def test_a_step_chosen_before_is_kept_whatever_the_subjects_say() -> None:
    rows = [*learned(10, 0.1, 0.05), *learned(100, 0.02, 0.05)]
    assert [int(path(rows, step).chosen[0]) for step in (0, 10, 12, 100, 500)] == [1, 0, 0, 1, 1]
    worse = [replace(one, identity_error=0.19) if one.steps == 100 else one for one in rows]
    assert [int(path(worse, step).chosen[0]) for step in (0, 100)] == [0, 1]


def test_the_step_of_fewer_photos_serves_where_more_have_none() -> None:
    steps = {"plain_lora@1@avatars": 10, "plain_lora@4@avatars": 50}
    found = [chosen_step(steps, PLAIN, photos, "avatars") for photos in (1, 2, 4, 8)]
    assert found == [10, 10, 50, 50]
    assert chosen_step(steps, PLAIN, 4, "products") == chosen_step(steps, BASE, 1, "avatars") == 0


def test_the_copy_angle_is_minus_one_at_the_truth_and_one_at_the_photo() -> None:
    truth, photo = torch.eye(4)[:2], torch.eye(4)[3]
    for pictures, expected in ((truth, -1), (photo.expand(2, -1), 1), (torch.eye(4)[2].expand(2, -1), 0)):
        assert copy_angle(pictures, truth[:, None], photo) == pytest.approx(expected)
    middle = (truth + photo) / 2
    assert copy_angle(middle, truth[:, None], photo) == pytest.approx(0, abs=1e-6)


def test_a_scorers_outputs_are_read_from_its_embedding() -> None:
    torch.manual_seed(0)
    reader, pictures = FactorReader("products").eval(), torch.rand(2, 3, 128, 128)
    found = reader.embedding(pictures)
    assert found.shape == (2, 160)
    assert torch.equal(reader.head[-1](found), reader.logits(pictures))
