"""Many subjects in one run: none stops the others, none is learned twice, and each ends where it would alone."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from core.painted_photos import paint
from core.test_consent import consent
from core.test_evaluation_cohort import OPTIONS, toy_prior
from core.test_evaluation_cohort import photos as toy_photos
from core.toy_host import ToyHost

from metalora_core.adaptation import adapt
from metalora_core.commands import cli
from metalora_core.commands.permission import saver_for_each
from metalora_core.errors import ConsentRefused, TrainingCancelled
from metalora_core.files.identity import Identity, load_identity, save_identity
from metalora_core.files.prior import Prior
from metalora_core.many.folder import REPLACES_NOTE, FolderPlan, FolderRun, Permitted
from metalora_core.many.learning import Learned, ReadySubject, adapt_side_by_side, learn_many
from metalora_core.many.manifest import NO_PARQUET_NOTE, ManifestRow, read_manifest, write_manifest
from metalora_core.many.sheet import SheetSubject, results_sheet
from metalora_core.model.host import Conditioning
from metalora_core.photos.images import fit, load_photo
from metalora_core.photos.pictures import from_pil, save_picture, to_pil
from metalora_core.provenance.audit_log import AuditLog
from metalora_core.provenance.consent_store import ConsentStore
from metalora_core.training.adaptation_options import AdaptationOptions

SIDE_PX = 64
SINCE = datetime(2020, 1, 1, tzinfo=timezone.utc)

pytestmark = pytest.mark.usefixtures("own_home")


class SpoiledHost(ToyHost):
    """A host in which everything about one word becomes NaN."""

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        found = super().encode_prompts(prompts)
        found["text"][["spoiled" in prompt for prompt in prompts]] = torch.nan
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("bowl", "cup", "jar")):
        save_picture(to_pil(paint(seed=number)), tmp_path / "subjects" / name / "a.png")
    return tmp_path / "subjects"


def plan(folder: Path, prior: Prior | None = None, options: AdaptationOptions = OPTIONS) -> FolderPlan:
    return FolderPlan(
        folder,
        folder.parent / "out",
        class_word="thing",
        trigger="ohwx",
        size_px=SIDE_PX,
        prior_for=lambda word: prior,
        options_for=lambda used, photos, word: options,
        permitted=lambda name, word, hashes: Permitted(
            None, lambda path, identity, effort: save_identity(path, identity)
        ),
        side_by_side=2,
    )


def distance(one: Identity, other: Identity) -> float:
    """Of the products of all factors, as a share of their size."""
    deltas = [
        (layer.up @ layer.mid, other.layers[name].up @ other.layers[name].mid) for name, layer in one.layers.items()
    ]
    apart = sum(float((a - b).square().sum()) for a, b in deltas)
    return (apart / sum(float(b.square().sum()) for _, b in deltas)) ** 0.5


@pytest.mark.parametrize("rate", [OPTIONS.learning_rate, "auto"])
@pytest.mark.parametrize("preservation", [0.0, 0.5])
def test_side_by_side_a_subject_ends_where_it_would_end_alone(rate: float | str, preservation: float) -> None:
    host = ToyHost()
    prior, sets = toy_prior(host), [toy_photos(seed) for seed in range(3)]
    options = replace(OPTIONS, learning_rate=rate, preservation_weight=preservation, flip=True, steps=20)
    together = adapt_side_by_side(host, prior, sets, options)
    for photos, found in zip(sets, together, strict=True):
        alone = adapt(host, prior, photos, options)
        assert distance(found.identity, alone.identity) < 1e-4
        assert found.losses == pytest.approx(alone.losses, rel=1e-4)
        own, other = found.identity.metadata, alone.identity.metadata
        assert (own.settings, own.steps, own.prior_sha256) == (other.settings, other.steps, other.prior_sha256)
        assert own.metrics.keys() == other.metrics.keys()
    (one,), alone = adapt_side_by_side(host, prior, sets[:1], options), adapt(host, prior, sets[0], options)
    assert distance(one.identity, alone.identity) == 0, "a group of one is an adaptation, bit for bit"


def test_what_diverges_is_found_by_halving_and_the_others_are_learned_side_by_side() -> None:
    host, done = SpoiledHost(), dict[str, Learned]()
    prior, sets = toy_prior(host), {str(seed): toy_photos(seed) for seed in range(3)}
    sets["bad"] = replace(toy_photos(9), captions=("photo of a spoiled ohwx blob",))
    ready = [ReadySubject(name, photos, prior, OPTIONS) for name, photos in sets.items()]
    learn_many(host, ready, 4, finished=lambda one: done.__setitem__(one.subject.name, one))
    assert {name: one.together for name, one in done.items()} == {"0": 2, "1": 2, "2": 1, "bad": 1}
    assert done["bad"].result is None and "became nan" in done["bad"].failure
    assert all(one.result is not None and one.failure == "" for name, one in done.items() if name != "bad")


def test_subjects_of_other_settings_are_not_mixed_and_whoever_needs_a_run_of_its_own_has_one() -> None:
    host, done = ToyHost(), dict[str, int]()
    prior = toy_prior(host)
    longer, ready = replace(OPTIONS, steps=8), list[ReadySubject]()
    for number, options in enumerate((OPTIONS, longer, OPTIONS, longer, replace(OPTIONS, hold_out=True))):
        ready.append(ReadySubject(str(number), toy_photos(number), prior, options))
    learn_many(host, ready, 8, finished=lambda one: done.__setitem__(one.subject.name, one.together))
    assert done == {"0": 2, "1": 2, "2": 2, "3": 2, "4": 1}


def test_a_subject_that_cannot_be_read_ends_in_the_manifest_with_its_reason(folder: Path) -> None:
    host, told = ToyHost(), list[str]()
    (folder / "cup" / "a.png").write_bytes(b"not a picture")
    run = FolderRun(host, plan(folder, toy_prior(host)), on_failure=lambda name, why: told.append(name))
    rows = {row.subject: row for row in run.learn()}
    assert [row.state for row in rows.values()] == ["learned", "failed", "learned"] and told == ["cup"]
    assert "damaged" in rows["cup"].failure and not (folder.parent / "out" / "cup.safetensors").exists()
    assert read_manifest(folder.parent / "out") == rows
    assert (rows["jar"].side_by_side, rows["jar"].steps, rows["jar"].photos) == (2, OPTIONS.steps, 1)
    assert json.loads(rows["jar"].settings)["steps"] == OPTIONS.steps
    learned = load_identity(folder.parent / "out" / "jar.safetensors").metadata
    assert (learned.name, learned.trigger, learned.class_word) == ("jar", "ohwx", "thing")


@pytest.mark.parametrize("with_prior", [True, False])
def test_the_same_photos_and_settings_are_not_learned_twice(folder: Path, with_prior: bool) -> None:
    host = ToyHost()
    prior = toy_prior(host) if with_prior else None
    out = folder.parent / "out"

    def states(options: AdaptationOptions = OPTIONS) -> list[str]:
        return [row.state for row in FolderRun(host, plan(folder, prior, options)).learn()]

    assert states() == ["learned"] * 3
    before, kept = read_manifest(out), {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    encoded = host.pictures_encoded
    assert states() == ["known"] * 3 and host.pictures_encoded == encoded
    assert {name: replace(row, state="learned") for name, row in read_manifest(out).items()} == before
    assert {path.name: path.read_bytes() for path in out.glob("*.safetensors")} == kept
    (out / "manifest.csv").write_bytes(b"\xff\xfe damaged")
    assert states() == ["known"] * 3, "the identities know by themselves what they were learned from"
    save_picture(to_pil(paint(seed=8)), folder / "cup" / "a.png")
    assert states() == ["known", "learned", "known"]
    assert states(replace(OPTIONS, steps=7)) == ["learned"] * 3


def test_a_run_that_is_stopped_keeps_what_is_done(folder: Path) -> None:
    host = ToyHost()
    one_by_one = replace(plan(folder, toy_prior(host)), side_by_side=1)

    def stop(done: int, count: int, loss: float) -> None:
        if done == 1:
            raise TrainingCancelled("stop")

    with pytest.raises(TrainingCancelled):
        FolderRun(host, one_by_one, on_subject=stop).learn()
    assert [path.name for path in sorted((folder.parent / "out").glob("*.safetensors"))] == [
        ".cup.unfinished.safetensors",
        "bowl.safetensors",
    ]
    assert [row.state for row in FolderRun(host, one_by_one).learn()] == ["known", "learned", "learned"]
    assert not list((folder.parent / "out").glob(".*.unfinished.safetensors"))


def test_a_class_word_of_a_subjects_own_chooses_its_prior_and_settings(folder: Path) -> None:
    (folder / "jar" / "class_word.txt").write_text("person\n", encoding="utf-8")
    host, asked = ToyHost(), list[tuple[str, int]]()
    prior = toy_prior(host)

    def options_for(used: Prior | None, photos: int, word: str) -> AdaptationOptions:
        asked.append((word, photos))
        return OPTIONS

    rows = FolderRun(host, replace(plan(folder, prior), options_for=options_for)).learn()
    assert [row.class_word for row in rows] == ["thing", "thing", "person"]
    assert asked == [("thing", 1), ("thing", 1), ("person", 1)]


def test_the_sheet_shows_a_photo_and_a_picture_of_each(folder: Path) -> None:
    host = ToyHost()
    prior = toy_prior(host)
    rows = FolderRun(host, plan(folder, prior)).learn()
    shown = [SheetSubject(r.subject, folder / r.subject, folder.parent / "out" / r.file, prior) for r in rows]
    sheet = results_sheet(host, shown, SIDE_PX, guidance=1.0)
    assert sheet.width >= 3 * 2 * SIDE_PX and sheet.height >= SIDE_PX
    corner = from_pil(sheet)[:, 8 : 8 + SIDE_PX, 8 : 8 + SIDE_PX]
    assert torch.equal(corner, fit(load_photo(folder / "bowl" / "a.png"), SIDE_PX).mul(255).round() / 255)


def test_the_manifest_is_written_as_parquet_too_where_pyarrow_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow.parquet import read_table

    rows = [ManifestRow("anna, “Ä”", "failed", failure="two\nlines"), ManifestRow("bo", "learned", steps=5)]
    assert write_manifest(tmp_path, rows, parquet=True) == ""
    assert list(read_manifest(tmp_path).values()) == rows
    assert [ManifestRow(**line) for line in read_table(tmp_path / "manifest.parquet").to_pylist()] == rows
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert write_manifest(tmp_path, rows, parquet=True) == NO_PARQUET_NOTE


def test_each_person_needs_a_record_of_its_own_name_and_the_identity_is_tied_to_it(tmp_path: Path) -> None:
    anna = consent(subject="Anna", photo_scope="any", photos=(), valid_from=SINCE, expires=None)
    ConsentStore(tmp_path / "people").save(anna)
    ask = saver_for_each(tmp_path / "people", "require", nobody=False)
    host = ToyHost()
    identity = adapt(host, toy_prior(host), toy_photos(1), OPTIONS).identity
    ask("anna", "mug", ["a" * 64]).save(tmp_path / "anna.safetensors", identity)
    assert load_identity(tmp_path / "anna.safetensors").metadata.consent_id == anna.id
    ask("vase", "vase", ["a" * 64]).save(tmp_path / "vase.safetensors", identity)
    assert load_identity(tmp_path / "vase.safetensors").metadata.consent_id is None
    logged = [
        entry for folder in (tmp_path / "people", tmp_path) for entry in AuditLog(folder / "audit.jsonl").entries()
    ]
    assert [(entry.event, entry.details["consent"]) for entry in logged] == [
        ("identity learned", anna.id),
        ("identity learned", None),
    ]
    with pytest.raises(ConsentRefused, match="with 'bo' as its subject"):
        ask("bo", "person", ["a" * 64])


def test_the_command_learns_a_folder_and_answers_what_it_did(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapt-many", str(folder), "--class-word", "vase", "--steps", "2", "--json", "--output"]
    (folder / "jar" / "class_word.txt").write_text("dragon", encoding="utf-8")

    def answered(output: Path) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, str(output)])
        return json.loads(capsys.readouterr().out) | {"code": stop.value.code}

    told = answered(tmp_path / "learned")
    assert (told["code"], told["learned"], told["known"], told["failed"]) == (0, 2, 0, 1)
    assert "No shipped prior covers 'dragon'" in told["failures"]["jar"] and Path(told["sheet"]).is_file()
    assert answered(tmp_path / "learned")["known"] == 2
    assert "inside" in answered(folder / "learned")["error"], "it would be a subject of the next run"


def test_a_file_that_no_run_has_made_is_kept_and_a_result_that_is_replaced_says_so(folder: Path) -> None:
    host, out = ToyHost(), folder.parent / "out"
    prior = toy_prior(host)

    def states(options: AdaptationOptions = OPTIONS) -> dict[str, ManifestRow]:
        return {row.subject: row for row in FolderRun(host, plan(folder, prior, options)).learn()}

    states()
    mine = load_identity(out / "cup.safetensors")
    save_identity(out / "cup.safetensors", replace(mine, metadata=mine.metadata.model_copy(update={"metrics": {}})))
    (out / "jar.safetensors").write_bytes(b"somebody's LoRA")
    kept = {name: (out / f"{name}.safetensors").read_bytes() for name in ("cup", "jar")}
    rows = states(replace(OPTIONS, steps=7))
    assert [row.state for row in rows.values()] == ["learned", "failed", "failed"]
    assert "in the way" in rows["cup"].failure and REPLACES_NOTE in rows["bowl"].warnings
    assert {name: (out / f"{name}.safetensors").read_bytes() for name in kept} == kept


def test_a_spreadsheet_computes_nothing_from_names_and_they_read_back_as_they_are(tmp_path: Path) -> None:
    rows = [ManifestRow(name, "failed", failure="@SUM(A1)") for name in ("=1+1", "cup", "'quoted", "-3")]
    write_manifest(tmp_path, rows)
    assert not any(line[:1] in "=@-" for line in (tmp_path / "manifest.csv").read_text("utf-8-sig").splitlines())
    assert read_manifest(tmp_path) == {row.subject: row for row in rows}
