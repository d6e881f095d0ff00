"""The benchmark's method that runs in ComfyUI itself."""

from __future__ import annotations

import pytest

from metalora_core.evaluation.core_lora import why_not_run
from metalora_core.evaluation.methods.registry import CORE
from metalora_core.evaluation.plan import BenchPlan, Group
from metalora_core.evaluation.runner import pocket_bench, run_unit
from metalora_core.pocket.world.factors import draw_subject

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


def test_cores_train_lora_learns_what_is_mirrored_beside_what_is_not() -> None:
    if reason := why_not_run():
        pytest.skip(reason)
    kinds = [draw_subject("products", "validation", i).class_word for i in range(32)]
    first = next(i for i in range(31) if (kinds[i] == "mug") != (kinds[i + 1] == "mug"))
    plan = BenchPlan(
        (Group((CORE,), (1,), (1, 2)),), split="validation", domains=("products",), prompts=2, sampling_steps=1,
        rates={f"{CORE}@1": 1e-3},
    )  # fmt: skip
    unit = next(plan.units())
    rows = run_unit(pocket_bench(), plan, type(unit)(CORE, "products", 1, "clean", (1, 2), (first, first + 1)))
    assert [row.steps for row in rows] == [1, 1, 2, 2]
    assert all(row.seconds > 0 and row.prompt_error > -1 for row in rows)
    assert rows[0].identity_error != rows[2].identity_error, "a step changed nothing"
