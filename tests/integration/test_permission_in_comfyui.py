"""What ends a permission ends the drawing in a running ComfyUI, although only the sampler's seed changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
import graphs
from comfy_server import ComfyServer, failure
from comfy_versions import each_version, folder_of
from graphs import Graph, node

from metalora_core.provenance.consent import ConsentRecord, record_consent
from metalora_core.provenance.consent_store import ConsentStore
from metalora_core.provenance.installation import Installation
from metalora_core.provenance.permission import IDENTITY_APPLIED, REFUSED, Permissions

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
REASONS = {
    "expired": "expired on",
    "deleted": "was not found",
    "edited": "permits training, but not generation",
    "revoked": "was revoked on",
}
SOON_S = 12


@pytest.fixture(scope="module", params=each_version())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(folder_of(request.param), tmp_path_factory.mktemp("comfyui")) as running:
        yield running


def known(server: ComfyServer) -> Permissions:
    """What the command line knows of the server's records: the same folders and the same key."""
    return Permissions(
        [server.base / "models" / "metalora_identities"], Installation(server.base / "user" / "metalora")
    )


def learned(name: str, uses: str = "training, generation") -> Graph:
    """A subject with a record of its own; the name decides the seed, so that no other identity is taken for it."""
    graph = {**graphs.pocket(), **graphs.learned(steps=2, seed=crc32(name.encode()))}
    graph["consent"] = node(
        "MetaLoRA_RecordConsent", images=["pocket", 4], subject=name, kind="person", granted_by=name, basis="consent",
        permitted_uses=uses, expires="",
    )  # fmt: skip
    graph["references"]["inputs"]["consent"] = ["consent", 0]
    return graph


def drawn(name: str, way: str) -> Graph:
    if way == "model":
        applied = graphs.applied(["pocket", 0], ["identity", 0])
        return {**learned(name), "model": applied, **graphs.pictures(["model", 0])}
    graph = {**learned(name), "hook": node("MetaLoRA_IdentityHook", identity=["identity", 0], strength=1.0)}
    graph["hook"]["inputs"] |= {"start_percent": 0.0, "end_percent": 1.0}
    graph["words"] = node("CLIPTextEncode", clip=["pocket", 1], text=graphs.PROMPT)
    graph["hooked"] = node(
        "ConditioningSetProperties", cond_NEW=["words", 0], strength=1.0, set_cond_area="default", hooks=["hook", 0]
    )
    return graph | graphs.pictures(["pocket", 0], positive=["hooked", 0])


def terms(record: ConsentRecord, **changes: Any) -> ConsentRecord:
    fields = {name: getattr(record, name) for name in type(record).model_fields}
    for name in ("format", "format_version", "id"):
        fields.pop(name)
    return record_consent(**(fields | changes))


def end(store: ConsentStore, record: ConsentRecord, how: str) -> None:
    if how == "deleted":
        store.path_of(record.id).unlink()
    elif how == "edited":
        store.edit(record.id, terms(record, purposes=["training"]))
    elif how == "revoked":
        store.revoke(record.id, "by letter")
    else:
        time.sleep(SOON_S)


@pytest.mark.parametrize("way", ["model", "hook"])
@pytest.mark.parametrize("how", list(REASONS))
def test_only_another_seed_of_the_sampler_is_refused_after_the_permission_ended(
    server: ComfyServer, how: str, way: str
) -> None:
    name, permissions = f"{how} {way}", known(server)
    graph, store = drawn(name, way), permissions.stores[0]
    server.run(graph)
    (record,) = (one for one in store.list() if one.subject == name)
    if how == "expired":  # nothing but time passes after the run that follows
        store.edit(record.id, terms(record, expires=datetime.now(timezone.utc) + timedelta(seconds=SOON_S)))
        graph["sampled"]["inputs"]["seed"] = 2
        server.run(graph)
    before = [entry.event for entry in permissions.log.entries()]
    end(store, record, how)
    graph["sampled"]["inputs"]["seed"] = 3
    reason = failure(server.wait(server.queue(graph)))
    assert REASONS[how] in reason, reason
    after = [entry.event for entry in permissions.log.entries()]
    assert after.count(IDENTITY_APPLIED) == before.count(IDENTITY_APPLIED) > 0
    assert after.count(REFUSED) > before.count(REFUSED)
    assert permissions.log.verify().intact


def test_cores_save_lora_gets_the_identity_only_where_sharing_is_permitted(server: ComfyServer) -> None:
    (core,) = {"SaveLoRA", "SaveLoRANode"} & set(server.get("object_info"))  # its name in new and in old versions

    def saved(uses: str) -> list[Path]:
        graph = learned(f"saved, {uses}", uses)
        graph["saved"] = node(core, lora=["identity", 1], prefix=f"loras/{len(uses)}", steps=2)
        server.wait(server.queue(graph))
        return list((server.base / "output").rglob(f"{len(uses)}*.safetensors"))

    assert saved("training, generation") == []
    assert len(saved("training, generation, sharing")) == 1
