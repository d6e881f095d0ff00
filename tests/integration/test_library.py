"""The library's routes on a real server: what they list, change and refuse, and what the audit log keeps of it."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
from comfy_server import ComfyServer
from comfy_versions import each_version, folder_of
from identities import HOSTILE, put_consent, put_identity

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
ROUTE = "metalora/identities"


@pytest.fixture(scope="module", params=each_version())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(folder_of(request.param), tmp_path_factory.mktemp("library")) as running:
        yield running


def folder(server: ComfyServer) -> Path:
    return server.base / "models" / "metalora_identities"


def listed(server: ComfyServer) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in server.get(ROUTE)["identities"]}


def loadable(server: ComfyServer) -> list[str]:
    inputs = server.get("object_info/MetaLoRA_LoadIdentity")["MetaLoRA_LoadIdentity"]["input"]["required"]
    kind, options = inputs["identity_name"]
    return options["options"] if kind == "COMBO" else kind


def last_entry(server: ComfyServer) -> dict[str, Any]:
    return json.loads((folder(server) / "audit.jsonl").read_text().splitlines()[-1])


def asked(server: ComfyServer, query: str) -> tuple[int, str, bytes]:
    """Status, type and bytes of a thumbnail."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/{ROUTE}/thumbnail?{query}", timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, "", b""


def test_each_identity_is_listed_with_its_permission_its_base_and_whether_it_has_a_picture(server: ComfyServer) -> None:
    place = folder(server)
    ended = put_consent(place, HOSTILE, datetime(2021, 1, 1, tzinfo=timezone.utc))
    holds = put_consent(place, "Blue mug", datetime(2990, 1, 1, tzinfo=timezone.utc))
    put_identity(place, "listed/plain", picture=True)
    put_identity(place, "listed/ended", consent_id=ended)
    put_identity(place, "listed/holds", consent_id=holds)
    put_identity(place, "listed/missing", consent_id="0" * 64)
    put_identity(place, "listed/.hidden")
    (place / "listed" / "broken.safetensors").write_bytes(b"nothing")
    found = {Path(name).stem: one for name, one in listed(server).items() if name.startswith("listed")}
    assert {name: one["consent"] for name, one in found.items()} == {
        "plain": "no record",
        "ended": "expired",
        "holds": "in force",
        "missing": "revoked or missing",
    }
    assert found["ended"]["subject"] == HOSTILE and found["holds"]["expires"].startswith("2990-01-01")
    plain = found["plain"]
    assert (plain["trigger"], plain["class_word"], plain["family"], plain["prior"]) == ("ohwx", "mug", "flux", "mugs")
    assert plain["thumbnail"] and not found["holds"]["thumbnail"] and plain["size_bytes"] > 500
    assert str(server.base) not in json.dumps(found)
    assert {name for name in loadable(server) if name.startswith("listed")} >= {one["name"] for one in found.values()}


def test_a_thumbnail_is_the_jpeg_in_the_file_and_nothing_else_can_be_read(server: ComfyServer) -> None:
    put_identity(folder(server), "drawn", picture=True)
    put_identity(folder(server), "undrawn")
    status, kind, jpeg = asked(server, "name=drawn.safetensors")
    assert (status, kind, jpeg[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")
    for name in ("undrawn.safetensors", "", "../drawn.safetensors", "/etc/passwd", "audit.jsonl", ".x.safetensors"):
        assert asked(server, urllib.parse.urlencode({"name": name}))[0] == 404, name


def test_a_deleted_identity_is_gone_from_every_list_and_comes_back_as_it_was(server: ComfyServer) -> None:
    path = put_identity(folder(server), "people/first", picture=True)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    before, name = path.read_bytes(), str(path.relative_to(folder(server)))
    shown = listed(server)[name]
    status, answer = server.post(f"{ROUTE}/delete", {"name": name})
    assert status == 200 and not path.exists()
    assert name not in listed(server) and not any("first" in one for one in loadable(server))
    told = last_entry(server)
    assert told["event"] == "identity deleted"
    assert told["details"] == {
        "was": "metalora_identities/people/first.safetensors",
        "subject": "ohwx mug",
        "consent": None,
    }
    status, answer = server.post(f"{ROUTE}/restore", {"undo": answer["name"]})
    assert (status, answer) == (200, {"name": name})
    assert path.read_bytes() == before and listed(server)[name] == shown
    assert last_entry(server)["event"] == "identity restored"


def test_what_is_restored_never_replaces_what_was_saved_meanwhile(server: ComfyServer) -> None:
    first = put_identity(folder(server), "twice", trigger="one")
    _, deleted = server.post(f"{ROUTE}/delete", {"name": first.name})
    put_identity(folder(server), "twice", trigger="two")
    assert server.post(f"{ROUTE}/restore", {"undo": deleted["name"]}) == (200, {"name": "twice_2.safetensors"})
    assert [listed(server)[name]["trigger"] for name in ("twice.safetensors", "twice_2.safetensors")] == ["two", "one"]


def test_the_sweep_deletes_for_good_what_was_deleted_over_an_hour_ago(server: ComfyServer) -> None:
    path = put_identity(folder(server), "swept")
    _, deleted = server.post(f"{ROUTE}/delete", {"name": path.name})
    aside = folder(server) / deleted["name"]
    sweep = urllib.request.Request(f"http://127.0.0.1:{server.port}/metalora/unfinished", method="DELETE")
    for hours, left in ((0, True), (2, False)):
        os.utime(aside, (then := time.time() - 3600 * hours, then))
        urllib.request.urlopen(sweep, timeout=30).close()
        assert aside.exists() is left
    status, answer = server.post(f"{ROUTE}/restore", {"undo": deleted["name"]})
    assert status == 404 and "cannot be restored" in answer["error"]


def test_another_name_is_that_of_the_file_and_in_messages_and_the_picture_stays(server: ComfyServer) -> None:
    path = put_identity(folder(server), "before", picture=True)
    written = listed(server)["before.safetensors"]["written"]
    put_identity(folder(server), ".before.5.step")
    assert server.post(f"{ROUTE}/rename", {"name": path.name, "new_name": "shelf/after"})[0] == 200
    assert (folder(server) / "shelf" / ".after.5.step.safetensors").is_file()
    name = str(Path("shelf/after.safetensors"))
    assert not path.exists() and listed(server)[name]["written"] == written and listed(server)[name]["thumbnail"]
    assert b'\\"name\\": \\"after\\"' in (folder(server) / name).read_bytes()
    told = last_entry(server)["details"]
    assert (told["was"], told["file"]) == (
        f"metalora_identities/{path.name}",
        "metalora_identities/shelf/after.safetensors",
    )
    put_identity(folder(server), "taken")
    status, answer = server.post(f"{ROUTE}/rename", {"name": name, "new_name": "taken"})
    assert status == 400 and "there already" in answer["error"] and (folder(server) / name).exists()


BAD = ("../out", "..\\out", "/out", "a/../../out", ".hidden", "con", "", "x" * 300)


@pytest.mark.parametrize("new_name", BAD)
def test_a_name_that_leads_outside_or_that_no_file_can_have_is_refused(server: ComfyServer, new_name: str) -> None:
    path = put_identity(folder(server), "stays")
    status, answer = server.post(f"{ROUTE}/rename", {"name": path.name, "new_name": new_name})
    assert status == 400 and answer["error"] and path.exists()


@pytest.mark.parametrize(
    "name", ["../models/loras/x.safetensors", "/etc/passwd", "audit.jsonl", ".x.safetensors", "", "a\0b"]
)
def test_only_what_the_list_shows_can_be_deleted_and_only_what_was_deleted_restored(
    server: ComfyServer, name: str
) -> None:
    (server.base / "models/loras/x.safetensors").write_bytes(b"mine")
    for route, field in (("delete", "name"), ("restore", "undo")):
        status, answer = server.post(f"{ROUTE}/{route}", {field: name})
        assert status in (400, 404) and answer["error"], route
    assert (server.base / "models/loras/x.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"name": 5}', b"[" * 5000, b'{"name": "' + b"x" * 9000 + b'"}'])
def test_a_body_that_is_no_small_object_of_texts_is_refused(server: ComfyServer, body: bytes) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/{ROUTE}/delete", data=body, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value as answer:
        assert answer.code == 400 and "The request " in json.load(answer)["error"]


def test_a_page_of_another_origin_changes_nothing(server: ComfyServer) -> None:
    path = put_identity(folder(server), "own")
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/{ROUTE}/delete",
        data=json.dumps({"name": path.name}).encode(),
        headers={"Origin": "http://example.com"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value as answer:
        assert answer.code == 403 and path.exists()


def test_two_thousand_identities_with_a_permission_are_listed_in_seconds(server: ComfyServer) -> None:
    place = folder(server)
    data = put_identity(
        place, "many/one", consent_id=put_consent(place, "Many", datetime(2990, 1, 1, tzinfo=timezone.utc))
    )
    for number in range(1999):
        (place / "many" / f"{number}.safetensors").write_bytes(data.read_bytes())
    started = time.monotonic()
    found = [name for name in listed(server) if name.startswith("many")]
    assert len(found) == 2000 and time.monotonic() - started < 20
