"""What the page tests need on this machine: Chromium, node and two packages. Each is named when it is missing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Path of an installed Chromium, or None."""
    return next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)


def newest_frontend() -> Path | None:
    """The page that this environment pins, which is newer than that of any ComfyUI; None where it is not installed."""
    package = importlib.util.find_spec("comfyui_frontend_package")
    return None if package is None or package.origin is None else Path(package.origin).parent / "static"


def missing() -> str:
    """What is missing, in words, or an empty text."""
    if chromium() is None:
        return "no Chromium found; on Debian or Ubuntu: apt install chromium"
    if shutil.which("node") is None:
        return "node was not found; on Debian or Ubuntu: apt install nodejs npm"
    for package in ("playwright-core", "axe-core"):
        if not (FOLDER / "node_modules" / package).is_dir():
            return f"{package} is not installed: npm ci --prefix tests/web"
    return ""
