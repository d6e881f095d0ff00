"""A real headless ComfyUI server with this pack in it, and the few HTTP calls that a test needs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from comfy_host import ROOT, python_of

PACK = "meta-lora"
# A folder for priors that the user has named in extra_model_paths.yaml, below the server's base folder.
SHARED_PRIORS = "shared/priors"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """Starts on entering, ends on leaving; models, input and output lie in a folder of its own."""

    def __init__(self, comfyui: Path, base: Path, *options: str) -> None:
        self.comfyui, self.base, self.options = comfyui, base, options
        self.port = free_port()
        self.log_path = base / "server.log"
        for name in ("custom_nodes", "input", "output", "temp", "user", "models/loras"):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / SHARED_PRIORS).mkdir(parents=True)
        (base / "extra_model_paths.yaml").write_text(f"shared:\n  base_path: {base}\n  metalora: {SHARED_PRIORS}\n")
        (base / "custom_nodes" / PACK).symlink_to(ROOT, target_is_directory=True)

    def __enter__(self) -> ComfyServer:
        options = ["--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        options += ["--disable-api-nodes", "--disable-auto-launch", *self.options]
        options += ["--extra-model-paths-config", str(self.base / "extra_model_paths.yaml")]
        database = f"sqlite:///{self.base / 'user' / 'comfyui.db'}"
        self._log = self.log_path.open("w")
        self._process = subprocess.Popen(
            [str(python_of(self.comfyui)), "main.py", *options, "--database-url", database],
            cwd=self.comfyui,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _wait_until_ready(self, timeout_s: float = 400) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting:\n{self.log[-4000:]}")
            try:
                self.get("system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise TimeoutError(f"ComfyUI was not ready after {timeout_s} s:\n{self.log[-4000:]}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer; an HTTP error is an answer too."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def queue(self, graph: dict[str, Any]) -> str:
        """Queue a graph in API form; returns its prompt id."""
        status, answer = self.post("prompt", {"prompt": graph, "client_id": "test"})
        if status != 200:
            raise AssertionError(f"ComfyUI refused the graph: {json.dumps(answer)[:3000]}")
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout_s: float = 400) -> dict[str, Any]:
        """The history of a finished prompt: its outputs and its status."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            history = self.get(f"history/{prompt_id}")
            # The entry appears a moment before its outputs do.
            if prompt_id in history and history[prompt_id].get("status", {}).get("messages"):
                return history[prompt_id]
            time.sleep(0.05)
        raise TimeoutError(f"The prompt was not done after {timeout_s} s:\n{self.log[-4000:]}")

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Queue a graph, wait, and fail with ComfyUI's own message if it failed."""
        history = self.wait(self.queue(graph))
        error = failure(history)
        if error:
            raise AssertionError(f"{error}\n{self.log[-3000:]}")
        return history["outputs"]


def failure(history: dict[str, Any]) -> str:
    """The message of the node that failed, or an empty text."""
    for kind, detail in history["status"]["messages"]:
        if kind == "execution_error":
            return f"{detail['node_type']}: {detail['exception_message'].strip()}"
    return ""
