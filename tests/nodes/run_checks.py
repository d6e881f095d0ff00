"""Runs checks inside a ComfyUI process and prints what they found; started by test_in_host.py."""

from __future__ import annotations

import importlib
import json
import logging
import time
import traceback
from typing import Any

MODULES = (
    "gradients", "restoring", "applying", "parity", "trial", "adapting", "without_prior",
    "meta_training", "refusals", "permission", "lists", "reuse", "dependencies", "editing", "saving", "quick_priors",
    "many",
    "dropped", "credentials",
)  # fmt: skip
MARK = "RESULTS "


def run_all(wanted: list[str]) -> None:
    logging.disable(logging.INFO)
    results: dict[str, Any] = {}
    for module_name in wanted or MODULES:
        module = importlib.import_module(f"checks.{module_name}")
        for name, check in vars(module).items():
            if name.startswith("check_"):
                began = time.monotonic()
                try:
                    outcome = {"figures": check() or {}}
                except BaseException:  # noqa: BLE001 - ComfyUI's interruption is no Exception; all are reported
                    outcome = {"error": traceback.format_exc()}
                results[name] = outcome | {"seconds": round(time.monotonic() - began, 2)}
    print(MARK + json.dumps(results), flush=True)
