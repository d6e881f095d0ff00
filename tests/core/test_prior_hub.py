"""Priors go to the Hugging Face Hub and come back the same; a local server speaks as much of its protocol as needed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).resolve().parents[2]
PRIOR = ROOT / "metalora_core/pocket/weights/pocket_prior_avatars.safetensors"
COMMIT = "0" * 40


@dataclass
class Hub:
    """What the server holds and was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    stored: dict[str, bytes] = field(default_factory=dict[str, bytes])
    tokens: set[str] = field(default_factory=set[str])


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        self.hub.stored[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        body = self._body()
        if self.path == "/api/repos/create":
            self._answer({"url": f"{self.hub.address}/a/faces"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith("tensors") else "regular",
                      "shouldIgnore": False} for f in asked]  # fmt: skip
            self._answer({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in (json.loads(line) for line in body.decode().splitlines()):
                if line["key"] == "file":
                    self.hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.hub.files[line["value"]["path"]] = self.hub.stored[line["value"]["oid"]]
            self._answer({"commitOid": COMMIT, "commitUrl": f"{self.hub.address}/a/faces/commit/{COMMIT}",
                          "success": True})  # fmt: skip
        else:
            self._answer({"error": "no such place"}, 404)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2].partition("?")[0]
        if self.path.startswith("/api/models/a/faces"):
            siblings = [{"rfilename": n, "size": len(content)} for n, content in self.hub.files.items()]
            self._answer({"id": "a/faces", "sha": COMMIT, "siblings": siblings})
        elif "/resolve/" in self.path and name in self.hub.files:
            content = self.hub.files[name]
            self._answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    _Handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield _Handler.hub
    server.shutdown()
    server.server_close()


def run(hub: Hub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_TOKEN": "hf_mine", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "metalora_core", "prior", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **own, "HOME": str(home)}, capture_output=True, text=True, check=False
    )


def test_a_prior_goes_to_the_hub_with_its_card_and_comes_back_the_same(hub: Hub, tmp_path: Path) -> None:
    mine = Path(shutil.copy(PRIOR, tmp_path))
    pushed = run(hub, tmp_path, "push", str(mine), "a/faces", "--base-model", "owner/base")
    assert pushed.returncode == 0, pushed.stderr
    assert hub.tokens == {"Bearer hf_mine"}
    card = hub.files["README.md"].decode()
    assert card.startswith("---\n") and "base_model: owner/base\n" in card and "license: mit\n" in card
    assert "| Subjects | 600 |" in card and "prior pull a/faces" in card
    assert "prior shared" in (tmp_path / "audit.jsonl").read_text()

    folder = tmp_path / "models"
    folder.mkdir()
    pulled = run(hub, tmp_path, "pull", "a/faces", "--to", str(folder), "--json")
    assert pulled.returncode == 0, pulled.stderr
    assert [path.name for path in folder.iterdir()] == ["faces.safetensors"]
    assert (folder / "faces.safetensors").read_bytes() == PRIOR.read_bytes()
    assert json.loads(pulled.stdout)["revision"] == COMMIT


@pytest.mark.parametrize(
    ("files", "words", "said"),
    [
        ({"a.safetensors": b"not one"}, (), "a.safetensors"),
        ({"README.md": b"#"}, (), "has 0 safetensors files"),
        ({"a.safetensors": b"", "b.safetensors": b""}, (), "a.safetensors, b.safetensors. Name one with --file"),
        ({"a.safetensors": b""}, ("--file", "c.safetensors"), "has no file 'c.safetensors'"),
    ],
)
def test_what_is_no_prior_never_reaches_the_folder(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], words: tuple[str, ...], said: str
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    hub.files |= files
    pulled = run(hub, tmp_path, "pull", "a/faces", "--to", str(folder), *words)
    assert pulled.returncode == 1 and said in pulled.stderr
    assert "Traceback" not in pulled.stderr and list(folder.iterdir()) == []


def test_another_prior_of_that_name_is_kept(hub: Hub, tmp_path: Path) -> None:
    folder, other = tmp_path / "models", PRIOR.with_name("pocket_prior_products.safetensors").read_bytes()
    folder.mkdir()
    (folder / "faces.safetensors").write_bytes(other)
    hub.files["p.safetensors"] = PRIOR.read_bytes()
    pulled = run(hub, tmp_path, "pull", "a/faces", "--to", str(folder))
    assert pulled.returncode == 1 and "is another prior" in pulled.stderr
    assert (folder / "faces.safetensors").read_bytes() == other and len(list(folder.iterdir())) == 1


def test_an_unknown_repository_and_a_dead_network_are_explained(hub: Hub, tmp_path: Path) -> None:
    unknown = run(hub, tmp_path, "pull", "a/nobody", "--to", str(tmp_path))
    hub.address = "http://127.0.0.1:9"
    dead = run(hub, tmp_path, "pull", "a/faces", "--to", str(tmp_path))
    for told in (unknown, dead):
        assert told.returncode == 1 and "The Hugging Face Hub did not do this" in told.stderr
        assert "Traceback" not in told.stderr
