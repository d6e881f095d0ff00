"""A permission is asked for where it counts: whatever ends it is noticed within one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import torch

from checks.refusals import _consent
from checks.support import adapt, conditioning, folders, message_of, pack, pocket, prepare, sampled


def _store() -> Any:
    return pack("nodes.bridge.permissions").permissions().stores[0]


def _learned(seed: int, **entries: Any) -> tuple[Any, Any]:
    """An identity learned with a record of its own, and that record."""
    record = _consent(images=pocket()[4], subject=f"Sample Person {seed}", **entries)
    return adapt(seed=seed, steps=2, references=prepare(pocket()[4], consent=record)[0])[0], record


def _terms(record: Any, **changes: Any) -> Any:
    fields = {name: getattr(record, name) for name in type(record).model_fields}
    for name in ("format", "format_version", "id"):
        fields.pop(name)
    return pack("metalora_core.provenance.consent").record_consent(**(fields | changes))


@contextmanager
def _ended(how: str, record: Any) -> Iterator[None]:
    """The record in another state for as long as the block lasts, or for good."""
    consent, store = pack("nodes.bridge.consent"), _store()
    path = store.path_of(record.id)
    kept, now = path.read_bytes(), consent.datetime
    if how == "expired":

        class Later(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + timedelta(days=4000)

        consent.datetime = Later
    elif how == "deleted":
        path.unlink()
    elif how == "changed":
        path.write_bytes(kept.replace(b"Sample Person", b"Another Person"))
    elif how == "edited":
        store.edit(record.id, _terms(record, purposes=["training"]))
    else:
        store.revoke(record.id, "asked by letter")
    try:
        yield
    finally:
        consent.datetime = now
        path.write_bytes(kept)


ENDS = {
    "expired": "expired on",
    "deleted": "was not found",
    "changed": "changed after it was recorded",
    "edited": "permits training, but not generation",
    "revoked": "was revoked on",
}


def check_what_ends_while_the_page_is_open_is_refused_at_the_next_seed() -> dict[str, str]:
    """The applied model and the hook stay as ComfyUI keeps them; only the sampler runs again."""
    from comfy.hooks import set_conds_props

    nodes, told = pack("nodes.apply"), dict[str, str]()
    for number, (how, reason) in enumerate(ENDS.items(), start=61):
        learned, record = _learned(number, expires="2031-01-01")
        prompt = conditioning("photo of a ohwx person")
        with torch.inference_mode():
            applied = nodes.ApplyIdentity.execute(pocket()[0], learned, 1.0).args[0]
            hooks = nodes.IdentityHook.execute(learned, 1.0).args[0]
        hooked = set_conds_props([prompt], strength=1.0, set_cond_area="default", hooks=hooks)[0]
        sampled(applied, prompt), sampled(pocket()[0], hooked)
        before = nodes.ApplyIdentity.fingerprint_inputs()
        with _ended(how, record):
            told[how] = message_of(lambda model=applied, p=prompt: sampled(model, p))
            assert reason in told[how], told
            told[f"{how}, hook"] = message_of(lambda p=hooked: sampled(pocket()[0], p))
            assert reason in told[f"{how}, hook"], told
            if how != "expired":  # the day itself is in the fingerprint
                assert nodes.ApplyIdentity.fingerprint_inputs() != before, how
        sampled(pocket()[0], prompt)
    log = list(pack("nodes.bridge.permissions").permissions().log.entries())
    assert sum(entry.event == "refused" for entry in log) >= 2 * len(ENDS)
    return told


def check_a_record_of_all_photos_needs_the_subjects_name() -> dict[str, str]:
    record = _consent(subject="Named Person")
    told = {
        name: message_of(lambda name=name: prepare(pocket()[4], consent=record, subject=name))
        for name in ("", "Somebody Else")
    }
    assert "not said to show anybody" in told[""] and "'Somebody Else'" in told["Somebody Else"], told
    assert prepare(pocket()[4], consent=record, subject="named person")[0].consent_id == record.id
    return told


def check_every_node_asks() -> dict[str, str]:
    """Whatever could use the identity, from a node or a file that was copied."""
    learned, record = _learned(71)
    files, nodes = pack("nodes.files"), pack("nodes.apply")
    files.SaveIdentity.execute(learned, "person71")
    references = prepare(pocket()[4], consent=record)[0]
    folder = folders() / "models" / "metalora_identities"
    (folder / "copied71.safetensors").write_bytes((folder / "person71.safetensors").read_bytes())
    _store().revoke(record.id)
    told = {
        "prepare": message_of(lambda: prepare(pocket()[4], consent=record)),
        "adapt": message_of(lambda: adapt(seed=71, steps=2, references=references)),
        "apply": message_of(lambda: nodes.ApplyIdentity.execute(pocket()[0], learned, 1.0)),
        "hook": message_of(lambda: nodes.IdentityHook.execute(learned, 1.0)),
        "load": message_of(lambda: files.LoadIdentity.execute("copied71.safetensors", pocket()[3])),
        "save": message_of(lambda: files.SaveIdentity.execute(learned, "again")),
        "export": message_of(lambda: files.ExportLoRA.execute(learned, "again", "comfyui")),
    }
    for other in _store().list():  # the photos are named by the other checks' records too
        if other.photos and not _store().standing(other.id).refused:
            _store().revoke(other.id)
    told["evaluate"] = message_of(
        lambda: pack("nodes.evaluate").EvaluateIdentity.execute(
            [pocket()[4]], [pocket()[4]], embedder=["pocket avatars"]
        )
    )
    assert all(text.startswith("ConsentRefused") and "revoked" in text for text in told.values()), told
    return told


def check_lora_model_is_given_out_only_where_sharing_is_permitted() -> dict[str, str]:
    """Core's nodes that save or apply it ask nobody."""
    from comfy_execution.graph_utils import ExecutionBlocker

    def lora_model(uses: str, seed: int) -> Any:
        record = _consent(images=pocket()[4], subject=f"Sample Person {seed}", permitted_uses=uses)
        return adapt(seed=seed, steps=2, references=prepare(pocket()[4], consent=record)[0])[1]

    withheld, given = lora_model("training, generation", 101), lora_model("training, generation, sharing", 102)
    assert isinstance(withheld, ExecutionBlocker) and "not sharing" in withheld.message, withheld
    assert any(key.endswith(".lora_up.weight") for key in given)
    return {"withheld": withheld.message}


def check_a_prior_of_a_revoked_record_is_not_loaded() -> dict[str, str]:
    known, core = pack("nodes.bridge.permissions").permissions(), pack("metalora_core.provenance.permission")
    files, priors = pack("metalora_core.files.prior"), folders() / "models" / "metalora"
    saved = files.save_prior(priors / "people.safetensors", replace(pocket()[3], sha256=None))
    record = _consent(subject="people")
    details = {"file": "metalora/people.safetensors", "prior": saved.sha256, "consent": record.id}
    known.log.append(core.PRIOR_TRAINED, details, datetime.now(timezone.utc))
    load = pack("nodes.files").LoadPrior
    load.execute("people.safetensors")
    before = load.fingerprint_inputs("people.safetensors")
    known.stores[0].revoke(record.id)
    assert load.fingerprint_inputs("people.safetensors") != before
    told = {"load": message_of(lambda: load.execute("people.safetensors"))}
    assert told["load"].startswith("ConsentRefused") and "revoked" in told["load"], told
    return told


def check_people_need_a_record_unless_the_user_chose_a_reminder() -> dict[str, str]:
    """A model as small as the pocket model shows nobody, so its figures need none."""
    references, settings = prepare(pocket()[4])[0], folders() / "user" / "default" / "comfy.settings.json"
    assert references.require_permission(nobody=True) == ""
    told = {"default": message_of(references.require_permission)}
    settings.parent.mkdir(parents=True, exist_ok=True)
    for rule in ("require", "silent", "remind"):
        settings.write_text(json.dumps({pack("nodes.bridge.permissions").RULE: rule}))
        try:
            told[rule] = references.require_permission()
        except pack("metalora_core.errors").ConsentRefused as refusal:
            told[rule] = str(refusal)
    settings.unlink()
    assert all("needs one" in told[rule] for rule in ("default", "require", "silent")), told
    assert told["remind"].startswith("No consent record"), told
    return told


def check_an_identity_stays_tied_to_its_record() -> dict[str, str]:
    """A record that is removed, exchanged or replaced in the file is noticed."""
    identities, errors = pack("metalora_core.files.identity"), pack("metalora_core.errors")
    learned, record = _learned(81)
    other = _consent(images=pocket()[4], subject="Somebody Else")
    own = learned.identity
    assert own.metadata.seal is not None and own.metadata.consent_id == record.id
    told: dict[str, str] = {}
    for name, changes in {"removed": {"consent_id": None}, "exchanged": {"consent_id": other.id}}.items():
        changed = replace(own, metadata=own.metadata.model_copy(update=changes))
        told[name] = message_of(lambda it=changed: identities.save_identity(folders() / "washed.safetensors", it))
        bare = replace(own, metadata=own.metadata.model_copy(update=changes | {"seal": None}))
        washed = replace(learned, identity=bare)
        told[f"{name}, seal too"] = message_of(
            lambda it=washed: pack("nodes.apply").ApplyIdentity.execute(pocket()[0], it, 1.0)
        )
        assert told[name].startswith(errors.DamagedFile.__name__), told
        assert f"learned under the consent record {record.id[:12]}" in told[f"{name}, seal too"], told
    references = prepare(pocket()[4], consent=other)[0]
    chosen = adapt(seed=81, steps=2, references=prepare(pocket()[4], consent=record)[0], use_step=1)[0].identity
    assert chosen.metadata.seal is not None and chosen.metadata.consent_id == record.id, "a chosen step is tied too"
    assert identities.layers_sha256(chosen) != learned.layers_sha256
    told["bound again"] = message_of(lambda: adapt(seed=81, steps=2, references=references))
    assert "stays tied to it" in told["bound again"], told
    return told


def check_a_revoked_record_is_not_recorded_again_by_the_same_graph() -> dict[str, str]:
    first = _consent(subject="Withdrawn", images=pocket()[4])
    assert _consent(subject="Withdrawn", images=pocket()[4]).id == first.id
    _store().revoke(first.id)
    told = {"again": message_of(lambda: _consent(subject="Withdrawn", images=pocket()[4]))}
    assert "If it was given again" in told["again"], told
    tomorrow = (datetime.now(timezone.utc) + timedelta(days=1)).date().isoformat()
    assert _consent(subject="Withdrawn", images=pocket()[4], valid_from=tomorrow).id != first.id
    return told


def check_a_record_names_its_evidence_and_who_entered_it_once() -> dict[str, str]:
    """The same graph run again makes no second record, although the moment is kept."""
    form = folders() / "input" / "form.pdf"
    form.write_bytes(b"signed")
    desk = {"channels": "website, print", "registry_id": "reg-7", "recorded_by": "A clerk"}
    for day in ({}, {"valid_from": "2026-01-01"}):
        first = _consent(subject="Documented", evidence="form.pdf", **desk, **day)
        assert first.format_version == 2 and first.recorded_at is not None
        assert {name: getattr(first, name) for name in desk} == desk
        assert _consent(subject="Documented", evidence="form.pdf", **desk, **day).id == first.id
    told = {"file": first.evidence}
    assert told["file"] == f"form.pdf, SHA-256 {hashlib.sha256(b'signed').hexdigest()}"
    for words in ("in the safe, folder 3", "../../user/metalora/signing.key", "x" * 300):
        told[words[:20]] = _consent(subject="Documented", evidence=words).evidence
        assert told[words[:20]] == words, "only a file in the input folder is read"
    assert _consent(subject="Documented").format_version == 1
    return told


def check_one_run_is_one_entry() -> dict[str, int]:
    """Two samplers of one run are one use; the next run is another one."""
    from comfy_execution.utils import CurrentNodeContext

    learned, _ = _learned(91)
    with torch.inference_mode():
        applied = pack("nodes.apply").ApplyIdentity.execute(pocket()[0], learned, 1.0).args[0]
    prompt = conditioning("photo of a ohwx person")
    counts: list[int] = []
    for run in ("one", "one", "two"):
        with CurrentNodeContext(run, "1"):
            sampled(applied, prompt)
        log = pack("nodes.bridge.permissions").permissions().log
        used = [entry for entry in log.entries() if entry.event == "identity applied"]
        counts.append(sum(entry.details["layers"] == learned.layers_sha256 for entry in used))
    assert counts == [1, 1, 2], counts
    return {"entries": counts[-1]}
