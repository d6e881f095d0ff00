"""Laws of the benchmark's scores, statistics, files and runner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from core.bench_stand_in import stand_in_bench
from hypothesis import given, settings
from hypothesis import strategies as st

from metalora_core.errors import InvalidOptions, UnreadableFile
from metalora_core.evaluation.curves import curves_of, resample_weights
from metalora_core.evaluation.methods.registry import (
    AUTO_RATE,
    BASE,
    CORE,
    META_COLD,
    META_OUTSIDE,
    META_RANDOM,
    META_WARM,
    METHODS,
    PLAIN,
    chain_of,
    trained_methods,
)
from metalora_core.evaluation.plan import FULL, QUICK, BenchPlan, Group, first_index
from metalora_core.evaluation.report.hindsight import LINES
from metalora_core.evaluation.report.summary import BAR, summarise
from metalora_core.evaluation.report.tables import best_points
from metalora_core.evaluation.rows import Row, append_rows, read_rows
from metalora_core.evaluation.runner import missing_units, run_plan, run_unit
from metalora_core.evaluation.subjects import pocket as subjects
from metalora_core.evaluation.subjects.pocket import chosen_scenes, pocket_subject
from metalora_core.evaluation.subjects.scores import combined_error, copying, diversity
from metalora_core.evaluation.tuning import candidate_rates
from metalora_core.pocket.readers import FactorReader
from metalora_core.pocket.world.factors import DOMAINS, SPLIT_BASE, Domain, Subject, draw_subject
from metalora_core.pocket.world.scenes import Scene, draw_scenes, scene_truth


@pytest.fixture
def instant_photos(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plain colours instead of rendered photos, for what does not depend on what they show."""

    def paint(who: Sequence[Subject], where: Sequence[Scene], size: int) -> torch.Tensor:
        colours = torch.stack([one.vector[:3] for one in who])
        shades = torch.tensor([0.2 + 0.1 * len(scene.words("avatars")) % 0.7 for scene in where])
        return (colours * shades[:, None])[..., None, None].expand(-1, -1, size, size).clamp(0, 1).contiguous()

    pocket_subject.cache_clear()
    monkeypatch.setattr(subjects, "render", paint)
    yield
    pocket_subject.cache_clear()


def scenes(domain: Domain, count: int, seed: int) -> torch.Tensor:
    return torch.stack([scene_truth(scene, domain) for scene in draw_scenes(domain, count, seed)])


def row(method: str, domain: str, photos: int, steps: int, subject: int, identity: float, prompt: float) -> Row:
    copied = 0.5 if method == PLAIN else 0.1
    angle, drift = (0.2, 0.08) if method == PLAIN else (-0.4, 0.02)
    return Row(
        method, domain, photos, "clean", steps, subject, identity, prompt, copied, 1.0, 1.0, 0.0, 0.0, "", -1.0, 0.4,
        angle, drift,
    )  # fmt: skip


def made_up_rows(spread: float = 0.0, people: int = 12) -> list[Row]:
    """Plain LoRA is best at 50 steps (0.04, 0.04); Meta-LoRA halves both errors at 10 and equals them at 5.

    The base model is at 0.2 and 0.03, the photo again has a prompt error of 0.4, and a random meta-down is plain LoRA.
    """
    noise = np.random.default_rng(3)
    errors = {PLAIN: {10: 0.09, 50: 0.04, 100: 0.06}, META_WARM: {2: 0.08, 5: 0.04, 10: 0.02}}
    errors |= dict.fromkeys((META_OUTSIDE, META_RANDOM, AUTO_RATE), errors[PLAIN])
    errors[META_COLD] = errors[META_WARM]
    rows: list[Row] = []
    for method, by_step in errors.items():
        for domain in DOMAINS:
            for photos in (1, 4):
                for step, error in by_step.items():
                    for subject in range(people):
                        factor = 1 + spread * noise.standard_normal()
                        rows.append(row(method, domain, photos, step, subject, error * factor, error))
    rows += [row(BASE, domain, 1, 0, subject, 0.2, 0.03) for domain in DOMAINS for subject in range(people)]
    return rows


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_true_photo_scores_the_floor_and_copies_nothing(domain: Domain) -> None:
    torch.manual_seed(0)
    subject = pocket_subject(domain, "validation", 3, 2, FactorReader(domain).eval())
    scores = subject.score(subject.truth, 1)
    assert scores.identity_error == scores.prompt_error == 0
    assert scores.diversity == pytest.approx(1)
    assert scores.identity_floor > 0 and scores.prompt_floor > 0


@pytest.mark.parametrize("domain", DOMAINS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), photos=st.integers(1, 4))
def test_copying_is_one_for_the_reference_and_nothing_for_the_asked_or_average_scene(
    domain: Domain, seed: int, photos: int
) -> None:
    asked, references = scenes(domain, 6, seed), scenes(domain, photos, seed + 1)
    copied = references[:1].expand(6, -1)
    assert copying(copied, asked, references, domain) == pytest.approx(1, abs=1e-4)
    assert copying(asked, asked, references[:1], domain) == pytest.approx(0, abs=1e-4)
    half = 0.5 * asked + 0.5 * copied
    assert copying(half, asked, references[:1], domain) == pytest.approx(0.5, abs=1e-4)
    average = scenes(domain, 2000, 5).mean(0).expand(6, -1)
    assert copying(average, asked, references[:1], domain) == pytest.approx(0, abs=1e-3)


def test_neither_copying_nor_ignoring_the_subject_wins() -> None:
    assert combined_error(0.0, 0.4) > combined_error(0.01, 0.03)
    assert combined_error(0.4, 0.0) > combined_error(0.03, 0.01)
    assert combined_error(-0.1, 0.09) == combined_error(0.001, 0.09)


def test_one_picture_again_and_again_has_no_diversity() -> None:
    truth = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert diversity(truth[:1].expand(4, -1, -1, -1), truth) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_ask_for_what_the_first_photo_does_not_show(domain: Domain) -> None:
    for index in range(5):
        subject = draw_subject(domain, "validation", index)
        for first in (0, 1):
            (shown, *others), asked = chosen_scenes(subject, 6, first)
            assert len(others) == 7 and len(asked) == 6
            for scene in asked:
                assert scene.background != shown.background and scene.light != shown.light
                assert (scene.turn, scene.tilt) != (shown.turn, shown.tilt)


def test_no_subject_of_a_test_seed_is_one_of_training_or_validation() -> None:
    for seed in (0, 1, 7, 123456789, 2**40):
        assert draw_subject("avatars", "test", first_index(seed)).seed >= SPLIT_BASE["test"]
    assert len({first_index(seed) for seed in range(200)}) == 200


def test_no_test_seed_meets_the_subjects_of_the_demonstration() -> None:
    """Its pictures were looked at while settings were chosen; validation subjects stay where rates were tuned."""
    assert min(first_index(seed) for seed in range(200)) >= 100_000
    numbers = [i for unit in QUICK.units() for i in unit.subjects]
    assert (min(numbers), max(numbers)) == (first_index(0), first_index(0) + QUICK.subjects - 1)
    assert {unit.subjects for unit in replace(QUICK, split="validation").units()} == {
        tuple(range(8)),
        tuple(range(8, 16)),
    }


def test_the_base_model_is_drawn_untrained_and_needs_no_rate() -> None:
    whole = plan((BASE, PLAIN), rates={"plain_lora@1": 1e-3})
    assert [(unit.method, unit.steps) for unit in whole.units()] == [(BASE, (0,)), (PLAIN, (0, 2))]
    twice = replace(whole, groups=(Group((BASE,), (1, 4), (10, 50)),))
    assert [(unit.photos, unit.steps) for unit in twice.units()] == [(1, (0,))]
    bench = stand_in_bench()
    found = {unit.method: run_unit(bench, whole, unit) for unit in whole.units()}
    untrained = [row for row in found[PLAIN] if row.steps == 0]
    assert [row.identity_error for row in found[BASE]] == [row.identity_error for row in untrained]


def test_the_summary_says_what_the_rows_say() -> None:
    summary = summarise(made_up_rows())
    assert list(summary) == [*BAR, *LINES]
    values = {name: ratio.value for name, ratio in summary.items()}
    assert values["steps_ratio_1_in_hindsight"] == pytest.approx(10)
    for number in (1, 4):
        assert values[f"identity_at_equal_prompt_{number}_in_hindsight"] == pytest.approx(0.5)
    for name in ("prompt_error_ratio_1", "meta1_vs_lora4_in_hindsight", "meta1_vs_lora4", "meta_down_vs_random"):
        assert values[name] == pytest.approx(0.5)
    assert values["copying_ratio_1"] == pytest.approx(0.2)
    for name in ("out_of_domain_in_hindsight", "out_of_domain", "auto_rate_vs_tuned"):
        assert values[name] == pytest.approx(1)
    assert values["steps_ratio_1"] == pytest.approx(10)  # plain LoRA's 50, which Meta-LoRA equals at 5
    # Meta-LoRA's front is one point, (0.9, 0.95), and plain LoRA's another, (0.8, 0.9).
    assert values["hypervolume_gain_1"] == values["hypervolume_gain_4"] == pytest.approx(0.9 * 0.95 / (0.8 * 0.9) - 1)
    assert values["identity_at_equal_prompt_1"] == pytest.approx(0.1 / 0.2)
    assert values["copy_angle_ratio_1"] == pytest.approx(0.6 / 1.2)
    assert values["drift_ratio_1"] == pytest.approx(0.25)
    assert all(ratio.low == pytest.approx(ratio.high) and ratio.subjects == 24 for ratio in summary.values())


def test_a_method_that_never_gets_there_is_not_credited_with_its_last_step() -> None:
    worse = [replace(r, identity_error=1.0) if r.method == META_WARM else r for r in made_up_rows()]
    summary = summarise(worse)
    for name in ("steps_ratio_1", "steps_ratio_1_in_hindsight"):
        assert summary[name].value == pytest.approx(50 / 20)  # twice its longest training
    disobedient = [replace(r, prompt_error=1.0) if r.method == META_WARM else r for r in made_up_rows()]
    found = summarise(disobedient)
    assert found["identity_at_equal_prompt_1_in_hindsight"].value == pytest.approx(0.08 / 0.04)
    # From the base model (adherence 0.925) straight to step 2 (identity 0.6, adherence -1.5), as far as 0.9.
    assert found["identity_at_equal_prompt_1"].value == pytest.approx((1 - 0.6 * 0.025 / 2.425) / 0.2)


def test_intervals_hold_the_value_and_do_not_change_from_run_to_run() -> None:
    rows = made_up_rows(spread=0.3)
    once, again = summarise(rows), summarise(list(reversed(rows)))
    assert once == again
    wide = once["meta1_vs_lora4"]
    assert wide.low < wide.value < wide.high
    more = summarise(made_up_rows(spread=0.3, people=200))["meta1_vs_lora4"]
    assert more.high - more.low < wide.high - wide.low


def test_equal_methods_have_a_ratio_of_exactly_one_in_every_resample() -> None:
    plain = [r for r in made_up_rows(spread=0.3) if r.method == PLAIN]
    ratio = summarise([*plain, *(replace(r, method=META_WARM) for r in plain)])["prompt_error_ratio_1"]
    assert ratio.low == ratio.value == ratio.high == 1


def test_resamples_are_weights_of_whole_subjects() -> None:
    weights = resample_weights(7)
    assert np.allclose(weights.sum(1), 1)
    assert np.allclose(weights[0], 1 / 7)
    assert np.allclose((weights * 7).round(), weights * 7)


def test_only_subjects_with_every_step_are_counted() -> None:
    rows = [r for r in made_up_rows() if not (r.subject == 5 and r.steps == 50)]
    assert 5 not in curves_of(rows)[PLAIN, "avatars", 1].subjects
    assert {p.steps for p in best_points(rows) if p.method == META_WARM} == {10}


def test_rows_survive_the_file_and_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.csv", made_up_rows()[:6]
    append_rows(path, rows[:4])
    append_rows(path, rows[4:])
    assert read_rows(path) == rows
    whole = path.read_text()
    path.write_text(whole + "plain_lora,avatars,1,cl")
    assert read_rows(path) == rows
    assert path.read_text() == whole
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UnreadableFile, match="columns"):
        read_rows(path)


def plan(methods: Sequence[str] = (PLAIN, META_WARM), **changes: object) -> BenchPlan:
    base = BenchPlan(
        groups=(Group(tuple(methods), (1,), (0, 2)),),
        subjects=2,
        domains=("products",),
        prompts=2,
        sampling_steps=1,
        split="validation",
        rates={f"{name}@1": 1e-3 for name in trained_methods()},
    )
    return replace(base, **changes)  # pyright: ignore[reportArgumentType]


def same(rows: Sequence[Row]) -> list[Row]:
    """Rows without what a clock measured."""
    return [replace(r, seconds=0.0) for r in rows]


@pytest.mark.usefixtures("instant_photos")
def test_a_resumed_benchmark_has_the_rows_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = run_plan(plan(), tmp_path / "whole", processes=1, make_bench=stand_in_bench)
    run_plan(plan((PLAIN,)), tmp_path / "broken", processes=1, make_bench=stand_in_bench)
    path = tmp_path / "broken" / "rows.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # a row of the first unit is lost
    assert len(missing_units(plan(), read_rows(path))) == 2
    resumed = run_plan(plan(), tmp_path / "broken", processes=1, make_bench=stand_in_bench)
    assert same(resumed) == same(whole)
    assert [(r.method, r.steps) for r in whole[::2]] == [(META_WARM, 0), (META_WARM, 2), (PLAIN, 0), (PLAIN, 2)]


@pytest.mark.usefixtures("instant_photos")
def test_mirrored_photos_are_learned_if_the_plan_says_so(tmp_path: Path) -> None:
    avatars = plan(domains=("avatars",)), plan(domains=("avatars",), mirrored=False)
    ways = [run_plan(p, tmp_path / str(p.mirrored), processes=1, make_bench=stand_in_bench) for p in avatars]
    pairs = [(a.steps, a.identity_error == b.identity_error) for a, b in zip(*ways, strict=True)]
    assert all(same for step, same in pairs if step == 0)
    assert not all(same for step, same in pairs if step == 2)


@pytest.mark.usefixtures("instant_photos")
def test_rows_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    run_plan(plan((PLAIN,)), tmp_path, processes=1, make_bench=stand_in_bench)
    for changed in (plan(test_seed=1), plan(prompts=3), plan(models="other"), plan(rates={"plain_lora@1": 2e-3})):
        with pytest.raises(InvalidOptions, match="other settings"):
            run_plan(changed, tmp_path, processes=1, make_bench=stand_in_bench)


def test_all_faults_of_a_plan_are_told_at_once(tmp_path: Path) -> None:
    broken = plan(subjects=0, prompts=1, groups=(Group((PLAIN,), (9,), (), ("fog",)),))
    with pytest.raises(InvalidOptions, match=r"subjects is 0.*prompts.*photos are \[9\].*steps are.*'fog'"):
        run_plan(broken, tmp_path, processes=1, make_bench=stand_in_bench)
    with pytest.raises(InvalidOptions, match="No learning rate for plain_lora with 2 photos"):
        plan(rates={"plain_lora@4": 1e-3}).rate_of(PLAIN, 2)
    with pytest.raises(InvalidOptions, match="Unknown method 'dora'"):
        plan(("dora",)).check()


@pytest.mark.parametrize("whole", [QUICK, FULL])
def test_the_shipped_plans_answer_the_whole_bar(whole: BenchPlan) -> None:
    whole.check()
    asked = {(u.method, u.domain, u.photos, u.condition) for u in whole.units()}
    for domain in DOMAINS:
        for method, photos in (side for line in BAR.values() for side in (line.first, line.second)):
            assert (method, domain, photos, "clean") in asked
    assert {method for method, *_ in asked} | {CORE} == set(METHODS)
    assert whole.split == "test"


def test_a_group_can_keep_to_the_first_subjects() -> None:
    groups = (Group((PLAIN,), (1,), (10,)), Group((META_WARM,), (1,), (10,), most_subjects=10))
    units = list(BenchPlan(groups, subjects=16, domains=("avatars",), split="validation").units())
    run = {name: [i for unit in units if unit.method == name for i in unit.subjects] for name in (PLAIN, META_WARM)}
    assert run == {PLAIN: list(range(16)), META_WARM: list(range(10))}
    few = list(BenchPlan(groups, subjects=4, domains=("avatars",), split="validation").units())
    assert [unit.subjects for unit in few] == [(0, 1, 2, 3)] * 2


def test_every_method_has_as_many_rates_to_try_as_any_other() -> None:
    assert {len(candidate_rates(name)) for name in trained_methods()} == {4}


@pytest.mark.usefixtures("instant_photos")
def test_pictures_of_others_drift_only_once_something_is_learned() -> None:
    bench, whole = stand_in_bench(), plan((BASE, PLAIN), rates={"plain_lora@1": 1e-2})
    drifts = {(row.method, row.steps): row.drift for unit in whole.units() for row in run_unit(bench, whole, unit)}
    assert drifts[BASE, 0] == drifts[PLAIN, 0] == 0 < drifts[PLAIN, 2]


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_first_photo_again_has_no_adherence_and_its_copy_angle_is_one(domain: Domain) -> None:
    torch.manual_seed(0)
    subject = pocket_subject(domain, "validation", 3, 2, FactorReader(domain).eval())
    again = subject.score(subject.photos.images[0].expand(2, -1, -1, -1), 1)
    assert again.prompt_error == pytest.approx(again.photo_prompt_error, abs=1e-6)
    assert again.copy_angle == pytest.approx(1, abs=1e-4)
    assert subject.score(subject.truth, 1).copy_angle == pytest.approx(-1, abs=1e-4)
    assert not any("ohwx" in prompt for prompt in subject.others)


def test_the_random_control_has_the_priors_rank_and_start_and_orthonormal_rows() -> None:
    bench = stand_in_bench()
    cold, control = (chain_of(name, bench.host, bench.priors["avatars"], 0) for name in (META_COLD, META_RANDOM))
    assert torch.equal(cold.flat, control.flat)
    for name, down in control.downs.items():
        assert down.shape == cold.downs[name].shape and not torch.equal(down, cold.downs[name])
        assert torch.allclose(down @ down.mT, torch.eye(len(down)), atol=1e-5)
