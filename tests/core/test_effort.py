"""What learning took is logged once, and a report says what of it was measured, estimated or not recorded."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metalora_core.commands import cli
from metalora_core.errors import InvalidOptions
from metalora_core.photos.pictures import save_picture, to_pil
from metalora_core.pocket.world.factors import draw_subject
from metalora_core.pocket.world.render import render
from metalora_core.pocket.world.scenes import draw_scenes
from metalora_core.provenance.audit_log import AuditLog
from metalora_core.provenance.effort import HEAD, NOT_RECORDED, TOTAL, Meter, Prices, cost_table
from metalora_core.provenance.installation import Installation
from metalora_core.provenance.permission import IDENTITY_APPLIED, IDENTITY_LEARNED, PRIOR_TRAINED, prior_details

NOW = datetime.now(timezone.utc)
CARD = {"device": "A card", "seconds": 1800.0, "energy_wh": 100.0}


def rows(log: AuditLog, **prices: float) -> dict[str, tuple[str, ...]]:
    head, *found = cost_table(log.entries(), Prices(**prices))
    assert head == HEAD
    return {row[0]: row[1:] for row in found}


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl", Installation(tmp_path / "user"))


def test_minutes_energy_and_cost_are_sums_of_the_entries(log: AuditLog) -> None:
    log.append(IDENTITY_LEARNED, CARD, NOW)
    log.append(IDENTITY_LEARNED, {**CARD, "seconds": 5400, "energy_wh": 300.0}, NOW)
    log.append(IDENTITY_LEARNED, {"device": "CPU, 2 cores", "seconds": 3600.0}, NOW)
    log.append(IDENTITY_APPLIED, {"layers": "1" * 64}, NOW)
    found = rows(log, per_kwh=0.5, per_hour=2.0, watts=60.0)
    assert found["A card"] == ("2", "120", "400", "measured for 2", "4.2")
    assert found["CPU, 2 cores"] == ("1", "60", "60", "estimated at 60 W for 1", "2.03")
    assert found[TOTAL] == ("3", "180", "460", "measured for 2, estimated at 60 W for 1", "6.23")


def test_what_is_not_known_is_said_and_never_made_up(log: AuditLog) -> None:
    log.append(IDENTITY_LEARNED, CARD, NOW)
    log.append(IDENTITY_LEARNED, {"device": "A card", "seconds": 1800.0}, NOW)
    found = rows(log, per_kwh=1.0)
    assert found["A card"] == ("2", "60", "100", "measured for 1, unknown for 1", "at least 0.1")
    assert rows(log)["A card"] == ("2", "60", "100", "measured for 1, unknown for 1", "")
    assert rows(log, per_hour=1.0)["A card"][-1] == "1"


def test_entries_of_older_versions_verify_and_count_as_not_recorded(log: AuditLog) -> None:
    log.append(IDENTITY_LEARNED, {"subject": "ohwx mug", "layers": "1" * 64}, NOW)
    log.append(PRIOR_TRAINED, {"prior": "2" * 64, "consent": None}, NOW)
    assert rows(log) == {NOT_RECORDED: ("2", "", "", "", "")}
    log.append(IDENTITY_LEARNED, CARD, NOW)
    assert rows(log)[NOT_RECORDED][0] == "2" and log.verify().intact


@pytest.mark.parametrize("seconds", [True, "12", -1, None])
def test_a_time_that_is_no_time_is_not_counted(log: AuditLog, seconds: Any) -> None:
    log.append(IDENTITY_LEARNED, {**CARD, "seconds": seconds}, NOW)
    assert rows(log) == {NOT_RECORDED: ("1", "", "", "", "")}


def test_a_prior_under_three_records_is_one_run(log: AuditLog) -> None:
    for details in prior_details("people.safetensors", "2" * 64, ("3" * 64, "4" * 64, "5" * 64), CARD):
        log.append(PRIOR_TRAINED, details, NOW)
    assert len(list(log.entries())) == 3
    assert set(rows(log)) == {"A card", TOTAL} and rows(log)["A card"][:2] == ("1", "30")


def test_a_run_of_several_ranks_counts_the_time_of_all_cards_and_no_energy(log: AuditLog) -> None:
    log.append(
        PRIOR_TRAINED, {"prior": "2" * 64, "consent": None, "device": "A card", "seconds": 1800.0, "ranks": 4}, NOW
    )
    assert rows(log, per_hour=2.0)["A card"] == ("1", "120", "", "unknown for 1", "4")
    assert Meter(torch.device("cpu"), 4).read()["ranks"] == 4


def test_prices_are_numbers_that_are_not_negative(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match=r"per_hour is -1.*watts is nan"):
        Prices(per_hour=-1, watts=float("nan")).check()


def test_energy_is_the_difference_of_the_cards_own_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter((7_200_000, 10_800_000))  # millijoules

    class NVMLError(Exception):
        pass

    def total(card: str) -> int:
        assert card == "the card GPU-0a1b"
        return next(counter)

    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        NVMLError=NVMLError,
        nvmlDeviceGetHandleByUUID=lambda name: f"the card {name}",
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="0a1b"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    found = Meter(torch.device("cuda", 0)).read()
    assert (found["device"], found["energy_wh"]) == ("A card", 1.0)

    def fails(card: str) -> int:
        raise NVMLError(card)

    nvml.nvmlDeviceGetTotalEnergyConsumption = fails
    assert "energy_wh" not in Meter(torch.device("cuda", 0)).read()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert set(Meter(torch.device("cuda", 0)).read()) == {"device", "seconds"}
    assert set(Meter(torch.device("cpu")).read()) == {"device", "seconds"}


@pytest.mark.usefixtures("own_home")
def test_learning_logs_what_it_took_and_the_report_gives_it_a_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*map(str, words), "--json"])
        assert not stop.value.code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    folder, photo = tmp_path / "identities", tmp_path / "a.png"
    folder.mkdir()
    (picture,) = render([draw_subject("products", "validation", 3)], draw_scenes("products", 1, 9))
    save_picture(to_pil(picture), photo)
    learned = run("adapt", photo, "--class-word", "mug", "--steps", 2, "--output", folder / "a.safetensors")
    (entry,) = (one for one in AuditLog(folder / "audit.jsonl").entries() if one.event == IDENTITY_LEARNED)
    assert float(entry.details["seconds"] or 0) >= learned["seconds"] > 0 and "CPU" in str(entry.details["device"])
    told = run("report", folder, "--output", tmp_path / "r.html", "--price-per-hour", 3600, "--watts", 100)
    (row, total) = told["costs"]
    assert row["runs"] == "1" and row["how the energy is known"] == "estimated at 100 W for 1"
    assert float(row["cost"]) == pytest.approx(float(str(entry.details["seconds"])), rel=1e-3)
    assert total["device"] == TOTAL
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "What learning took" in page and "estimated at 100 W" in page
    assert (tmp_path / "r_costs.csv").read_text(encoding="utf-8").startswith("device,runs,minutes")
