"""The report, the JSON and the tuned files say what the rows say."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core.bench_stand_in import stand_in_bench
from core.test_evaluation import made_up_rows, plan

from metalora_core.errors import UnreadableFile
from metalora_core.evaluation.methods.registry import BASE, CORE, META_WARM, METHODS, PLAIN, chain_of, trained_methods
from metalora_core.evaluation.preset import preset_plan, save_preset
from metalora_core.evaluation.report.costs import cost_table, kept_tensors
from metalora_core.evaluation.report.gallery import Strip
from metalora_core.evaluation.report.html import json_fields, write_report
from metalora_core.evaluation.report.summary import summarise
from metalora_core.evaluation.report.tables import (
    bar_table,
    best_points,
    best_table,
    cut_table,
    repeat_table,
    target_table,
)
from metalora_core.evaluation.rows import Row
from metalora_core.evaluation.runner import model_digest
from metalora_core.evaluation.tuning import (
    RATES_FILE,
    Trial,
    TuningOptions,
    at_the_edge,
    candidate_rates,
    judge,
    judge_trials,
    load_rates,
    load_steps,
    rate_for_steps,
    save_rates,
    tuning_plan,
)
from metalora_core.pocket import load_pocket_prior
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.step_preset import step_preset


def with_photos(rows: list[Row]) -> list[Row]:
    words = ("left|level|above|blue|smiling", "front|up|left|red|sad")
    return [replace(r, reference=words[r.subject % 2], domain_distance=30.0 + 40 * (r.subject % 2)) for r in rows]


def test_the_json_has_the_numbers_beside_their_intervals() -> None:
    rows = made_up_rows(spread=0.2)
    odd = [replace(rows[0], condition="blur")]
    fields = json.loads(json.dumps(json_fields([*rows, *odd], summarise(rows), plan()), default=str))
    assert len(fields["rows"]) == len(rows) and len(fields["condition_rows"]) == 1
    columns = {"method", "domain", "photos", "steps", "subject", "identity_error", "prompt_error", "copying", "seconds"}
    assert columns <= set(fields["rows"][0])
    low, high = fields["summary"]["meta1_vs_lora4_interval"]
    assert low < fields["summary"]["meta1_vs_lora4"] < high
    assert fields["summary"]["steps_ratio_1_subjects"] == 24


def test_every_line_of_a_table_says_over_how_many_subjects() -> None:
    rows = with_photos(made_up_rows(spread=0.2))
    points = best_points(rows)
    assert {line[-1] for line in bar_table(summarise(rows))[1:]} == {"24"}
    assert {line[-1] for line in best_table(points)[1:]} == {"12"}
    cuts = cut_table(rows, points)
    assert {line[-1] for line in cuts[1:]} == {"6"}
    assert any(line[1] == "further from the domain" for line in cuts)
    assert not any("expression" in line[1] for line in cuts if line[0] == "products")


def test_steps_to_the_target_are_those_of_the_first_point_no_worse_than_plain_loras_best() -> None:
    found = {(line[0], line[1], line[2]): line[3:5] for line in target_table(made_up_rows())[1:]}
    assert found["Meta-LoRA, warm", "avatars", "1"] == ("5", "1.0")
    assert found["plain LoRA", "products", "4"] == ("50", "1.0")
    worse = [replace(r, identity_error=1.0) if r.method == META_WARM else r for r in made_up_rows()]
    assert ("never", "–") in {line[3:5] for line in target_table(worse)}


def test_the_change_under_a_condition_is_taken_subject_by_subject() -> None:
    rows = [r for r in made_up_rows() if r.method == PLAIN and r.photos == 1 and r.steps == 50]
    blurred = [replace(r, condition="blur", identity_error=r.identity_error + 0.01) for r in rows]
    lines = repeat_table([*rows, *blurred])[1:]
    assert [line[0] for line in lines] == ["blur", "blur"]
    assert all(line[5] == "0.0100" and line[6] == "12" for line in lines)


def test_the_report_is_one_file_that_a_browser_can_show(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = with_photos(made_up_rows(spread=0.2))
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    strip = Strip("avatars", pictures[0], ("sad, looking left", "happy"), {"plain LoRA": pictures, "truth": pictures})
    path = tmp_path / "docs" / "report.html"
    write_report(path, rows, best_points(rows), summarise(rows), plan(), "bench <&>", [strip])
    page = path.read_text(encoding="utf-8")
    assert page.count("<img") == 6 and page.count("data:image/png;base64,") == 6
    assert "bench &lt;&amp;&gt;" in page and "http" not in page.split("<body>")[1].replace("https://", "")
    assert {p.name for p in path.parent.glob("*.png")} >= {"learning.png", "pictures_00.png"}
    first = path.read_bytes()
    write_report(path, rows, best_points(rows), summarise(rows), plan(), "bench <&>", [strip])
    assert path.read_bytes() == first
    whose = replace(plan(), split="folder", domains=("<script>",))
    write_report(path, rows, best_points(rows), summarise(rows), whose, "bench folder", [strip])
    page = path.read_text(encoding="utf-8")
    assert "<script>" not in page and "pocket world" not in page and "embedding" in page


def test_tuning_takes_the_rate_with_the_lowest_error_and_gives_all_the_same_budget(tmp_path: Path) -> None:
    options = TuningOptions((PLAIN, META_WARM), (1,))
    asked = tuning_plan(options)
    assert asked.split == "validation"
    tried = Counter((unit.method, unit.domain) for unit in asked.units() if unit.method != BASE)
    assert set(tried.values()) == {len(candidate_rates(PLAIN))}
    rows: list[Row] = []
    for method in options.methods:
        for rate in candidate_rates(method):
            worse = 1.0 if rate == candidate_rates(method)[3] else 2.0
            rows += [r for r in made_up_rows() if r.method == BASE]
            rows += [
                replace(r, method=method, condition=f"clean@{rate:g}", identity_error=r.identity_error * worse)
                for r in made_up_rows()
                if r.method == PLAIN and r.photos == 1
            ]
    trials = judge_trials(rows, options)
    path = tmp_path / "rates.json"
    save_rates(trials, options, "the command", path)
    chosen = candidate_rates(PLAIN)[3]
    domains = ("avatars", "products")
    keys = [f"{m}@1{suffix}" for m in options.methods for suffix in ("", *(f"@{domain}" for domain in domains))]
    assert load_rates(path) == dict.fromkeys(keys, chosen)
    assert sorted(at_the_edge(trials)) == sorted(keys)
    save_rates({"lora_plus@1": trials[f"{PLAIN}@1"]}, options, "another", path)
    assert {"plain_lora@1", "meta_warm@1", "lora_plus@1"} <= set(load_rates(path))
    path.write_text("{}")
    with pytest.raises(UnreadableFile, match="tuned rates"):
        load_rates(path)


def test_shipped_rates_were_tuned_with_the_shipped_weights() -> None:
    entries = json.loads(RATES_FILE.read_text(encoding="utf-8"))["entries"]
    assert {entry["models"] for entry in entries.values()} == {model_digest()}
    assert {f"{name}@1" for name in trained_methods()} <= set(entries)


def test_of_rates_that_are_as_good_the_one_with_fewer_steps_is_taken(tmp_path: Path) -> None:
    def trial(rate: float, area: float, steps: int) -> Trial:
        return Trial(rate, area, {"avatars": area}, {"avatars": steps})

    path = tmp_path / "rates.json"
    for areas, expected, steps in (((0.50, 0.49), 3e-3, 25), ((0.50, 0.48), 1e-3, 100)):
        trials = [trial(1e-3, areas[0], 100), trial(3e-3, areas[1], 25), trial(9e-3, 0.2, 2)]
        save_rates({f"{PLAIN}@1": trials}, TuningOptions((PLAIN,)), "the command", path)
        assert load_rates(path) == {f"{PLAIN}@1": expected, f"{PLAIN}@1@avatars": expected}
        assert load_steps(path) == {f"{PLAIN}@1@avatars": steps}


def test_a_run_of_given_length_takes_the_rate_that_was_best_after_so_many_steps(tmp_path: Path) -> None:
    fast = Trial(1e-2, 0.1, by_step={"avatars": {10: 0.1, 100: 0.4}})
    slow = Trial(1e-3, 0.2, by_step={"avatars": {10: 0.3, 100: 0.2}})
    path = tmp_path / "rates.json"
    trials = [replace(t, by_domain={"avatars": t.hypervolume}, steps={"avatars": 10}) for t in (fast, slow)]
    save_rates({"plain_lora@2": trials}, TuningOptions((PLAIN,), (2,)), "the command", path)
    chosen = [rate_for_steps(PLAIN, 4, "avatars", steps, path) for steps in (0, 10, 30, 40, 1000)]
    assert chosen == [1e-2, 1e-2, 1e-2, 1e-3, 1e-3]
    for missing in ((PLAIN, 1, "avatars"), (PLAIN, 2, "products"), (META_WARM, 2, "avatars")):
        with pytest.raises(UnreadableFile, match="bench tune"):
            rate_for_steps(*missing, 10, path)


def test_the_best_point_is_taken_in_each_domain_and_averaged_over_them() -> None:
    rows = [replace(r, condition="clean" if r.method == BASE else "clean@0.1") for r in made_up_rows()]
    trial = judge(rows, PLAIN, 1, 0.1)
    assert trial.hypervolume == pytest.approx(0.8 * 0.9)
    assert trial.by_step["avatars"] == pytest.approx({10: 0.09, 50: 0.04, 100: 0.06})
    assert trial.steps == {"avatars": 50, "products": 50} and set(trial.by_domain) == {"avatars", "products"}


def test_a_rate_of_the_domain_goes_before_one_for_all_of_them() -> None:
    rates = {"plain_lora@1": 1.0, "plain_lora@4": 4.0, "plain_lora@4@avatars": 5.0}
    found = [plan(rates=rates).rate_of(PLAIN, *of) for of in ((2, "avatars"), (8, "avatars"), (8, "products"), (4, ""))]
    assert found == [1.0, 5.0, 4.0, 4.0]


def test_the_preset_takes_the_fewest_steps_that_are_good_enough(tmp_path: Path) -> None:
    errors = {5: 0.08, 10: 0.0404, 20: 0.04, 30: 0.05}
    base = next(r for r in made_up_rows() if r.method == META_WARM)
    rows = [
        replace(base, photos=n, steps=s, subject=i, domain=d, identity_error=e, prompt_error=e)
        for n in (1, 2, 4, 8)
        for s, e in errors.items()
        for i in range(3)
        for d in ("avatars", "products")
    ]
    path = tmp_path / "preset.json"
    chosen = preset_plan({"meta_warm@1": 2e-3, "meta_warm@4": 5e-3, "meta_warm@1@avatars": 1.0})
    prior = load_pocket_prior("avatars")
    save_preset(chosen, rows, "the command", prior.metadata.base_fingerprint, path)
    one = step_preset(prior, 1, AdaptationOptions(seed=7), path)
    assert (one.steps, one.mid_learning_rate, one.seed, one.flip) == (10, 2e-3, 7, True)
    assert step_preset(prior, 5, path=path).up_learning_rate == 5e-3
    asked = AdaptationOptions(steps=9)
    assert step_preset(prior, 3, asked, tmp_path / "missing.json") == asked
    cold = {name: replace(layer, mid_init=None, up_init=None) for name, layer in prior.layers.items()}
    other = prior.metadata.model_copy(update={"base_fingerprint": "0" * 64})
    for unlike in (replace(prior, layers=cold), replace(prior, metadata=other)):
        assert step_preset(unlike, 1, asked, path) == asked
    path.write_text(json.dumps({"base_fingerprint": prior.metadata.base_fingerprint, "photos": {"1": {"steps": -3}}}))
    with pytest.raises(UnreadableFile, match="not a step preset"):
        step_preset(prior, 1, path=path)


def test_a_file_keeps_what_was_trained() -> None:
    bench = stand_in_bench()
    prior = bench.priors["avatars"]
    starts = {name: chain_of(name, bench.host, prior, 0) for name in METHODS if name != CORE}
    assert {key.rpartition(".")[2] for key in kept_tensors(starts["lora_fa"])} == {"up"}
    assert {key.rpartition(".")[2] for key in kept_tensors(starts["lora_xs"])} == {"mid"}
    assert sum(t.numel() for t in kept_tensors(starts[PLAIN]).values()) == starts[PLAIN].trained
    assert starts["meta_cold"].trained == starts["lora_fa"].trained + starts["meta_cold"].layout.mid_total
    assert [line[0] for line in cost_table(bench, [BASE, PLAIN, CORE])[1:]] == ["plain LoRA", "ComfyUI's Train LoRA"]
