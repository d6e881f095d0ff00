"""A picture's signed manifest: what it says, who signed it, and that a change of the picture is noticed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metalora_core.commands import cli
from metalora_core.commands.permission import permissions_near
from metalora_core.errors import MissingDependency, UnreadableFile
from metalora_core.files.identity import Identity, layers_sha256, load_identity
from metalora_core.photos.pictures import save_picture
from metalora_core.provenance import certificate as certificates
from metalora_core.provenance.certificate import CERTIFICATE, FOLDER, KEY, SELF_MADE, certificate_of
from metalora_core.provenance.credentials import MADE_WITH, NamedIdentity, made_with, named, read_credentials, signed
from metalora_core.provenance.installation import Installation
from metalora_core.provenance.xmp import AI_MADE, picture_bytes, read_xmp

c2pa = pytest.importorskip("c2pa")
OLD_FILES = Path(__file__).parents[1] / "fixtures" / "old_files"
NOW = datetime.now(timezone.utc)
TWO = (NamedIdentity("1" * 64, "Anna", "2" * 64, "3" * 64), NamedIdentity("4" * 64, "my mug", "", "3" * 64))


def picture() -> Image.Image:
    return Image.effect_noise((64, 48), 80).convert("RGB")


def saved(folder: Path, kind: str = "PNG", identities: tuple[NamedIdentity, ...] = TWO) -> Path:
    """A picture that a new installation signed."""
    path = folder / f"a.{kind.lower()}"
    file = picture_bytes(picture(), kind, made_with(identities), {"prompt": '{"1": "é 写真"}'})
    own = certificate_of(Installation(folder / "user"), NOW)
    path.write_bytes(signed(file, kind, path.name, identities, own, "ComfyUI 0.33.0"))
    return path


def identity() -> Identity:
    found = load_identity(OLD_FILES / "identity_of_a_unet.safetensors")
    return replace(found, metadata=found.metadata.model_copy(update={"consent_id": "5" * 64}))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_librarys_reader_finds_the_manifest_valid(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind)
    with c2pa.Reader(path) as reader:
        store = json.loads(reader.json())
        assert reader.get_validation_state() == "Valid"
    manifest = store["manifests"][store["active_manifest"]]
    parts = {part["label"]: part["data"] for part in manifest["assertions"]}
    (action,) = parts["c2pa.actions.v2"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", AI_MADE)
    assert action["softwareAgent"]["name"] == "ComfyUI 0.33.0"
    assert manifest["claim_generator_info"][0]["name"] == "Meta-LoRA" and manifest["title"] == path.name
    assert parts[MADE_WITH]["identities"][0]["name"] == "Anna"
    assert {one["code"] for one in store["validation_status"]} == {"signingCredential.untrusted"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_is_signed_is_read_back_beside_pixels_workflow_and_xmp(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind)
    found = read_credentials(path)
    assert found is not None and (found.state, found.identities) == ("Valid", TWO)
    assert found.source == AI_MADE and found.tool == "Meta-LoRA" and "not verified" in found.signer
    xmp = read_xmp(path)
    assert xmp is not None and (xmp.identity, xmp.consent) == (f"{'1' * 64} {'4' * 64}", "2" * 64)
    with Image.open(path) as opened:
        assert opened.size == (64, 48)
        if kind == "PNG":
            assert opened.info["prompt"] == '{"1": "é 写真"}'


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (libimage-exiftool-perl)")
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exiftool_reads_xmp_and_manifest_of_a_signed_picture(tmp_path: Path, kind: str) -> None:
    command = ["exiftool", "-json", "-G1", "-struct", str(saved(tmp_path, kind))]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0]
    assert found["XMP-iptcExt:DigitalSourceType"] == AI_MADE, found
    assert found["XMP-metalora:Consent"] == "2" * 64 and "Warning" not in found
    assert any(key.startswith(("JUMBF", "C2PA", "CBOR")) for key in found), found


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_changed_picture_is_no_longer_valid(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"IDAT") + 40 if kind == "PNG" else len(content) - 40
    content[place] ^= 1
    path.write_bytes(bytes(content))
    found = read_credentials(path)
    assert found is not None and found.state == "Invalid" and "assertion.dataHash.mismatch" in found.faults


def test_a_picture_without_a_manifest_has_none(tmp_path: Path) -> None:
    save_picture(picture(), tmp_path / "a.png")
    assert read_credentials(tmp_path / "a.png") is None
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_credentials(tmp_path / "b.png")


def test_names_and_permissions_can_be_left_out() -> None:
    learned = identity()
    full, bare = named(learned), named(learned, names=False)
    assert full.name and full.consent == "5" * 64
    assert bare == NamedIdentity(layers_sha256(learned), prior=full.prior)


def test_a_self_made_certificate_is_made_once_and_says_that_it_proves_nothing(tmp_path: Path) -> None:
    own = Installation(tmp_path)
    first, second = certificate_of(own, NOW), certificate_of(Installation(tmp_path), NOW)
    assert first == second and first.self_made and "proves nothing to others" in first.note
    assert first.key not in repr(first)
    secret = tmp_path / FOLDER / SELF_MADE
    assert secret.stat().st_mode & 0o077 == 0
    secret.write_bytes(b"rubbish")
    with pytest.raises(UnreadableFile, match="not a certificate and its key"):
        certificate_of(own, NOW)


def given(folder: Path, key: Any, days: int = 30, of: Any = None) -> Installation:
    """An installation with a certificate that somebody else issued, for a key or another one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    start = NOW - timedelta(days=20 * 365 - days)  # `_issued` makes them valid for 20 years
    issuer_key = ec.generate_private_key(ec.SECP384R1())
    issuer = certificates._issued("An authority", issuer_key, None, issuer_key, start)
    chain = [certificates._issued("A firm", of or key, issuer, issuer_key, start), issuer]
    pem, place = serialization.Encoding.PEM, folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    (place / CERTIFICATE).write_bytes(b"".join(one.public_bytes(pem) for one in chain))
    form, hidden = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    if "ed25519" in type(key).__module__ or "Ed25519" in type(key).__name__:
        form = serialization.PrivateFormat.PKCS8
    (place / KEY).write_bytes(key.private_bytes(pem, form, hidden))
    return Installation(folder)


def keys() -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    return {
        "es256": ec.generate_private_key(ec.SECP256R1()),
        "es384": ec.generate_private_key(ec.SECP384R1()),
        "ps256": rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }


def test_the_users_certificate_signs_with_whatever_kind_of_key(tmp_path: Path) -> None:
    for algorithm, key in keys().items():
        own = certificate_of(given(tmp_path / algorithm, key), NOW)
        assert (own.algorithm, own.self_made) == (algorithm, False) and "A firm" in own.note
        path = tmp_path / f"{algorithm}.png"
        path.write_bytes(signed(picture_bytes(picture(), "PNG", made_with([]), {}), "PNG", path.name, [], own, "x"))
        found = read_credentials(path)
        assert found is not None and found.state == "Valid" and found.signer.startswith("A firm"), (algorithm, found)


def test_a_certificate_that_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    key, other = keys()["es256"], keys()["es384"]
    with pytest.raises(UnreadableFile, match="is valid from"):
        certificate_of(given(tmp_path / "old", key, days=-1), NOW)
    with pytest.raises(UnreadableFile, match="belongs to another certificate"):
        certificate_of(given(tmp_path / "other", key, of=other), NOW)
    alone = given(tmp_path / "alone", key)
    (alone.folder / FOLDER / KEY).unlink()
    with pytest.raises(UnreadableFile, match=KEY):
        certificate_of(alone, NOW)


def test_without_the_library_the_pip_line_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(MissingDependency, match="pip install c2pa-python"):
        certificate_of(Installation(tmp_path / "user"), NOW)
    with pytest.raises(MissingDependency, match="pip install c2pa-python"):
        read_credentials(path)


@pytest.mark.usefixtures("own_home")
def test_the_commands_sign_and_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: object) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*map(str, words), "--json"])
        assert not stop.value.code
        return json.loads(capsys.readouterr().out)

    words = ("generate", "photo of a person", "--steps", 1, "--output", tmp_path / "out", "--credentials")
    (path,) = run(*words)["pictures"]
    assert "pictures signed" in [entry.event for entry in permissions_near(tmp_path / "out" / "any").log.entries()]
    told = run("provenance", "show", path)
    assert told["origin"] == "made by a trained model (AI)" and told["credentials"].startswith("Valid"), told
    assert told["signed_source"] == AI_MADE and "not verified" in told["signed_by"]
    assert run("provenance", "show", saved(tmp_path))["signed_identities"].startswith("1" * 64 + " Anna")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert "pip install c2pa-python" in run("provenance", "show", path)["credentials"]
