"""Finds the real ComfyUI that host tests run against. ComfyUI is never mocked: it is there, or the test is skipped."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def is_comfyui(folder: Path) -> bool:
    """Tell whether a folder holds a ComfyUI source tree."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir() and (folder / "nodes.py").is_file()


def candidates() -> list[Path]:
    """Where a ComfyUI is looked for: in COMFYUI_PATH alone if that is set, else around this folder and in the home.

    COMFYUI_PATH may name several versions, separated as in PATH, the newest first as in the home.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        return [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    around = [ROOT.parent.parent] if ROOT.parent.name == "custom_nodes" else []
    usual = Path.home() / "comfy" / "ComfyUI"
    versions = sorted(usual.parent.glob("ComfyUI-*"), key=_version, reverse=True)
    return [*around, usual, *versions]


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def python_of(comfyui: Path) -> Path | None:
    """The interpreter that runs a ComfyUI: the one in its own virtual environment, or None."""
    for relative in (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe"):
        if (comfyui / relative).exists():
            return comfyui / relative
    return None


def find_comfyuis() -> list[Path]:
    """Every candidate that is a ComfyUI with an interpreter of its own."""
    return [folder.resolve() for folder in candidates() if is_comfyui(folder) and python_of(folder) is not None]


def find_comfyui() -> Path | None:
    """The first of find_comfyuis(), or None."""
    return next(iter(find_comfyuis()), None)


def skip_reason() -> str:
    """Why find_comfyui() found none, in words for the test report."""
    looked = ", ".join(str(folder) for folder in candidates())
    return f"no ComfyUI with its own .venv found in {looked}; set COMFYUI_PATH to one to run this test"


def run_in_comfyui(
    comfyui: Path,
    script: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Run Python source in a fresh process of a ComfyUI, with its folder first on the path and this project last.

    Args:
        comfyui: Folder of a ComfyUI, as find_comfyui() gives it.
        script: Python source. ``import comfy...`` works in it after the usual ``--cpu`` preparation, done here.
        arguments: What the script finds in ``ARGUMENTS``.
        environment: Variables added to the present ones.
        timeout_s: Seconds until the process is ended.
    """
    interpreter = python_of(comfyui)
    if interpreter is None:
        raise FileNotFoundError(f"{comfyui} has no virtual environment of its own")
    prelude = (
        "import sys\n"
        "ARGUMENTS = sys.argv[1:]\n"
        "sys.argv = ['main.py', '--cpu']\n"
        f"sys.path.insert(0, {str(comfyui)!r})\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "import comfy.options\n"
        "comfy.options.enable_args_parsing()\n"
    )
    return subprocess.run(
        [str(interpreter), "-c", prelude + script, *arguments],
        cwd=comfyui,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
