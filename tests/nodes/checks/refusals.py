"""A node that refuses says what was found, what was expected, and what to do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from checks.support import adapt, conditioning, folders, message_of, pack, pocket, prepare, sampled


def check_photos() -> dict[str, str]:
    blank = torch.full((1, 128, 128, 3), 0.5)
    told = {
        "no photo": message_of(lambda: prepare(torch.zeros(0, 128, 128, 3))),
        "blank": message_of(lambda: prepare(blank)),
        "tiny": message_of(lambda: prepare(torch.rand(1, 24, 24, 3))),
        "no trigger": message_of(lambda: prepare(pocket()[4], trigger=" ")),
        "captions": message_of(lambda: prepare(pocket()[4], caption="one\ntwo\nthree")),
    }
    assert all(text.startswith(("UnusableReferences", "InvalidOptions")) for text in told.values()), told
    assert "Drop one to eight photos" in told["no photo"], told
    assert "trigger is empty" in told["no trigger"], told
    small = torch.nn.functional.interpolate(_test_card(), scale_factor=1 / 4, mode="area")
    blurred = torch.nn.functional.interpolate(small, size=(512, 512), mode="bicubic")
    findings = prepare(blurred.clamp(0, 1).movedim(1, -1))[2]
    assert "soft focus" in findings and "Focus on the subject" in findings, findings
    assert "soft focus" not in prepare(_test_card().movedim(1, -1))[2]
    return told | {"blurred": findings}


def _test_card() -> torch.Tensor:
    """Sharp dark discs of several sizes on a light ground, 512 px."""
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    picture = torch.full((512, 512), 0.85)
    for cx, cy, radius, shade in ((256, 256, 120, 0.3), (210, 220, 30, 0.7), (300, 220, 30, 0.1), (256, 310, 45, 0.6)):
        picture[(x - cx).square() + (y - cy).square() < radius**2] = shade
    return picture.expand(1, 3, -1, -1).clone()


def _consent(**entries: Any) -> Any:
    folders()
    form = {
        "subject": "Sample Person",
        "kind": "person",
        "granted_by": "Sample Person",
        "basis": "consent",
        "permitted_uses": "training, generation",
        "expires": "",
    }
    with torch.inference_mode():
        lists = {name: [value] for name, value in (form | entries).items()}
        return pack("nodes.references").RecordConsent.execute(**lists).args[0]


def check_consent() -> dict[str, str]:
    photos = pocket()[4]
    fine = _consent(images=photos)
    told = {
        "expired": message_of(lambda: prepare(photos, consent=_consent(valid_from="2020-01-01", expires="2021-01-01"))),
        "training": message_of(lambda: prepare(photos, consent=_consent(permitted_uses="generation"))),
        "photo": message_of(lambda: prepare(photos.flip(1), consent=fine)),
        "unknown use": message_of(lambda: _consent(permitted_uses="anything")),
        "date": message_of(lambda: _consent(expires="soon")),
        "nobody": message_of(lambda: _consent(granted_by="")),
    }
    for name in ("expired", "training", "photo"):
        assert told[name].startswith("ConsentRefused"), told
    assert "2021-01-02" in told["expired"] and "renew" in told["expired"], told
    assert "not training" in told["training"], told
    learned = adapt(seed=41, references=prepare(photos, consent=fine)[0])[0]
    assert learned.identity.metadata.consent_id == fine.id
    applied = pack("nodes.apply").ApplyIdentity.execute
    applied(pocket()[0], learned, 1.0)
    told["export"] = message_of(lambda: pack("nodes.files").ExportLoRA.execute(learned, "refused", "comfyui"))
    assert "not sharing" in told["export"], told
    record = next((folders() / "models" / "metalora_identities").glob(f"{fine.id}*"))
    kept = record.read_bytes()
    record.write_bytes(kept.replace(b"Sample Person", b"Another Person"))
    told["altered"] = message_of(lambda: applied(pocket()[0], learned, 1.0))
    record.unlink()
    told["gone"] = message_of(lambda: applied(pocket()[0], learned, 1.0))
    assert told["altered"].startswith("UnreadableFile") and told["gone"].startswith("ConsentRefused"), told
    return told


def check_audit_log() -> dict[str, Any]:
    log = folders() / "models" / "metalora_identities" / "audit.jsonl"
    log.unlink(missing_ok=True)
    photos = pocket()[4]
    permitted = _consent(images=photos, permitted_uses="training, generation, sharing")
    learned = adapt(seed=43, references=prepare(photos, consent=permitted)[0])[0]
    files = pack("nodes.files")
    files.SaveIdentity.execute(learned, "kept")
    files.ExportLoRA.execute(learned, "kept", "comfyui")
    audit_log = pack("metalora_core.provenance.audit_log").AuditLog(log)
    entries = [entry for entry in audit_log.entries() if entry.event != "entries missing"]  # the log was removed
    events = [entry.event for entry in entries]
    assert events == ["consent recorded", "identity learned", "identity saved", "identity exported as LoRA"], events
    assert {entry.details["consent"] for entry in entries} == {permitted.id}
    assert entries[1].details["photos"] == len(photos) and entries[3].details["file"] == "loras/kept.safetensors"
    assert audit_log.verify().intact
    log.write_bytes(log.read_bytes() + b"cut off")
    report = adapt(seed=44)[3]
    assert "The audit log has a gap" in report and "describes it" in report, report
    assert audit_log.verify().intact and [entry.event for entry in audit_log.entries()][-2] == "entries missing"
    log.unlink()
    log.mkdir()
    assert "could not be added to the audit log" in adapt(seed=45)[3]  # which stops nobody
    log.rmdir()
    return {"entries": len(entries)}


def _prior_gone() -> None:
    identity = adapt()[0].identity
    record = identity.metadata.model_copy(update={"prior_sha256": "0" * 64})
    pack("nodes.bridge.installed_priors").prior_of(replace(identity, metadata=record))


def check_files() -> dict[str, str]:
    folders()
    files = pack("nodes.files")
    told = {
        "missing prior": files.LoadPrior.validate_inputs("nobody.safetensors"),
        "no prior chosen": files.LoadPrior.validate_inputs(""),
        "missing identity": files.LoadIdentity.validate_inputs("nobody.safetensors"),
        "missing photos": message_of(lambda: pack("nodes.bridge.folders").input_folder("nobody")),
        "missing prior of an identity": message_of(_prior_gone),
        "outside": message_of(lambda: files.SaveIdentity.execute(adapt()[0], "../../outside")),
        "empty": message_of(lambda: files.SaveIdentity.execute(adapt()[0], " ")),
    }
    for name in ("dir/", ".mine", "con", "x:stream", "nul\0byte", "folder./a", "x" * 300):
        said = message_of(lambda name=name: files.SaveIdentity.execute(adapt()[0], name))
        assert said.startswith("InvalidOptions") and "cannot be used" in said, said
    assert "was not found in models/metalora" in told["missing prior"], told
    assert told["no prior chosen"].startswith("No file is chosen in models/metalora"), told
    assert "Meta-Train Prior" in told["no prior chosen"] and "press R" in told["no prior chosen"], told
    assert "was not found in models/metalora_identities" in told["missing identity"], told
    assert "was not found in" in told["missing photos"] and "press R" in told["missing photos"], told
    assert "needs the prior" in told["missing prior of an identity"], told
    assert "leads outside" in told["outside"] and "is empty" in told["empty"], told
    return told


def check_any_seed_is_taken_and_a_size_off_the_grid_is_refused_by_name() -> dict[str, str]:
    assert adapt(steps=1, seed=2**64 - 1)[0].identity.metadata.seed == 2**64 - 1
    told = {"size": message_of(lambda: adapt(steps=1, resolution=100))}
    assert "resolution is 100" in told["size"] and "such as 96" in told["size"], told
    return told


def check_settings() -> dict[str, str]:
    learned = adapt()[0]
    apply = pack("nodes.apply").ApplyIdentity.execute
    embed = pack("nodes.evaluate").EvaluateIdentity.execute
    pictures = torch.rand(1, 128, 128, 3)
    told = {
        "window": message_of(lambda: apply(pocket()[0], learned, 1.0, 0.7, 0.2)),
        "embedder": message_of(lambda: embed([pictures], [pictures], embedder=["clip vision"])),
    }
    assert "Choose a start below the end" in told["window"], told
    assert "Load CLIP Vision" in told["embedder"] or "Add Load CLIP" in told["embedder"], told
    return told


def check_wrong_base() -> dict[str, str]:
    """Before any training: the prior names the model that it was made for. A hook is asked when it meets its model."""
    from comfy.hooks import set_conds_props

    from checks.small_models import build

    learned = adapt()[0]
    prompt = conditioning("photo of a ohwx person")
    with torch.inference_mode():
        other_size = pack("nodes.apply").IdentityHook.execute(_narrowed(learned), 1.0).args[0]
    hooked = set_conds_props([prompt], strength=1.0, set_cond_area="default", hooks=other_size)[0]
    told = {
        "prior": message_of(lambda: adapt(model=build("sd3"))),
        "apply": message_of(lambda: pack("nodes.apply").ApplyIdentity.execute(build("sd3"), learned, 1.0)),
        "hook": message_of(lambda: sampled(pocket()[0], hooked)),
    }
    assert all(text.startswith("IncompatibleBaseModel") for text in told.values()), told
    assert all("does not fit the connected model" in text for text in told.values()), told
    return told


def _narrowed(learned: Any) -> Any:
    """The identity as one of a narrower model."""
    prior = learned.prior
    layers = {name: replace(layer, meta_down=layer.meta_down[:, :64]) for name, layer in prior.layers.items()}
    return replace(learned, prior=replace(prior, layers=layers))


def check_text_encoder_and_vae_of_another_model() -> dict[str, str]:
    """Both are loaded by ComfyUI's own classes; nothing but their size is wrong."""
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    own = pack("nodes.bridge.pocket_model")

    class WideTextModel(own.PocketTextModel):
        def encode_token_weights(self, tokens: Any) -> Any:
            words, pooled = super().encode_token_weights(tokens)
            return torch.cat([words, words], dim=-1), pooled

    wide = comfy.sd.CLIP(SimpleNamespace(params={}, clip=WideTextModel, tokenizer=own.WordTokenizer), parameters=1)
    wide.load_sd(pocket()[1].cond_stage_model.encoder.state_dict())
    four_channels = comfy.sd.VAE(sd=TAESD(latent_channels=4).state_dict())
    told = {
        "clip": message_of(lambda: adapt(seed=51, clip=wide)),
        "vae": message_of(lambda: adapt(seed=51, vae=four_channels)),
    }
    assert "Connect the CLIP that belongs to the model" in told["clip"], told
    assert "Connect the VAE that belongs to the model" in told["vae"], told
    return told


def check_lists_match_the_record() -> None:
    """The consent node writes its choices out, so they have to be the record's."""
    consent, node = pack("metalora_core.provenance.consent"), pack("nodes.references")
    assert [kind.value for kind in consent.SubjectKind] == list(node.KINDS)
    assert [basis.value for basis in consent.Basis] == list(node.BASES)
    assert [purpose.value for purpose in consent.Purpose] == list(node.PURPOSES)
    assert set(pack("nodes.bridge.embedders").EMBEDDERS) == set(pack("nodes.evaluate").EMBEDDERS)


def check_configured_folders_come_first() -> dict[str, Any]:
    """What extra_model_paths.yaml has put there before the pack loads stays in front; new files are written there."""
    import folder_paths

    folders()
    own = pack("nodes.bridge.folders")
    before = folder_paths.folder_names_and_paths.pop(own.PRIORS)
    elsewhere = folders() / "elsewhere"
    try:
        folder_paths.add_model_folder_path(own.PRIORS, str(elsewhere))
        own.register_folders()
        paths, extensions = folder_paths.folder_names_and_paths[own.PRIORS]
        assert paths == [str(elsewhere), str(folders() / "models" / own.PRIORS)], paths
        assert extensions == {".safetensors"}
        assert own.new_file(own.PRIORS, "sub/mine") == elsewhere / "sub" / "mine.safetensors"
    finally:
        folder_paths.folder_names_and_paths[own.PRIORS] = before
    return {"paths": paths}


def check_the_pocket_model_says_which_photos_it_cannot_draw() -> dict[str, str]:
    grain = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(8))
    shown: list[str] = []
    bridge = pack("nodes.bridge.adapting")
    show, bridge.show_text = bridge.show_text, shown.append
    try:
        own = adapt(steps=1, seed=61)[3]
        assert not shown and "small world" not in own, own
        foreign = adapt(steps=1, seed=61, references=prepare(grain, unusable_photos="leave out")[0])[3]
    finally:
        bridge.show_text = show
    assert "small world" in shown[0] and shown[0] in foreign and "02a" in foreign, (shown, foreign)
    return {"foreign": foreign}
