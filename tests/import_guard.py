"""Asks comfy-import-guard whether everything that the pack takes from ComfyUI is there, in each ComfyUI found."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from comfy_host import ROOT, find_comfyuis, skip_reason


def main() -> int:
    folders = find_comfyuis()
    if not folders:
        print(f"comfy-import-guard was not run: {skip_reason()}")
        return 0
    return max(_checked(folder) for folder in folders)


def _checked(comfyui: Path) -> int:
    """The guard reads a repository of ComfyUI and a folder of packs, so it is given one commit and one link."""
    with tempfile.TemporaryDirectory() as place:
        clone, packs = Path(place) / "ComfyUI", Path(place) / "install" / "custom_nodes"
        packs.mkdir(parents=True)
        ours = packs / "meta-lora"
        for part in ("nodes", "metalora_core"):
            shutil.copytree(ROOT / part, ours / part, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        for part in ("__init__.py", "pyproject.toml"):
            shutil.copy(ROOT / part, ours / part)
        left_out = shutil.ignore_patterns(".venv", "venv", ".git", "models", "custom_nodes", "output", "input", "temp")
        shutil.copytree(comfyui, clone, ignore=left_out, symlinks=True)
        git = ["git", "-C", str(clone), "-c", "user.name=guard", "-c", "user.email=guard@localhost"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", comfyui.name]):
            subprocess.run([*git, *command], check=True)
        program = Path(sys.executable).with_name("comfy-import-guard")
        guard = [str(program), "--cache-dir", place, "--offline"]
        where = ["check", "--comfy-dir", str(packs.parent), "--target", "HEAD", "--no-update", "--strict"]
        print(f"{comfyui.name}:", flush=True)
        return subprocess.run([*guard, *where], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
