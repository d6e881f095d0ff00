"""The nodes need nothing that a plain ComfyUI does not have."""

from __future__ import annotations

import sys
from typing import Any

from checks.support import adapt, message_of, pack, pocket

COMMAND_LINE_ONLY = ("diffusers", "peft", "accelerate", "matplotlib", "typer")


def _forgotten() -> dict[str, Any]:
    """Take the packages and what was imported of them away, so that importing one fails as if it were not there."""
    names = [name for name in sys.modules if name.split(".")[0] in COMMAND_LINE_ONLY]
    kept = {name: sys.modules.pop(name) for name in names}
    sys.modules.update(dict.fromkeys(COMMAND_LINE_ONLY))  # pyright: ignore[reportArgumentType]
    return kept


def check_the_nodes_work_without_the_command_lines_packages() -> None:
    kept = _forgotten()
    try:
        learned = adapt(steps=4, seed=81, preview_every=2)[0]
        files, evaluate = pack("nodes.files"), pack("nodes.evaluate").EvaluateIdentity.execute
        for layout in ("comfyui", "kohya"):
            files.ExportLoRA.execute(learned, f"without_{layout}", layout)
        told = message_of(lambda: files.ExportLoRA.execute(learned, "without_diffusers", "diffusers"))
        assert told.startswith("MissingDependency") and "pip install -U diffusers" in told, told
        files.SaveIdentity.execute(learned, "without")
        files.LoadIdentity.execute("without.safetensors")
        evaluate([pocket()[4]], [pocket()[5]], embedder=["pocket avatars"])
        bridge = pack("nodes.bridge.prior_training")
        small = {"steps": 2, "subject_limit": 2, "r_meta": 4, "r_mid": 2, "resolution": 128}
        request = bridge.PriorRequest("pocket avatars", "person", "without", **small)
        bridge.train_prior(*pocket()[:3], request)
    finally:
        for name in COMMAND_LINE_ONLY:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
