"""The library's public names, and the scripts of docs/library.md as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import metalora_core
from metalora_core.photos.pictures import save_picture, to_pil
from metalora_core.pocket.world.factors import draw_subject
from metalora_core.pocket.world.render import render
from metalora_core.pocket.world.scenes import draw_scenes

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "library.md"


def scripts() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_public_name_is_there() -> None:
    assert [name for name in metalora_core.__all__ if getattr(metalora_core, name, None) is None] == []


def test_the_face_says_of_every_name_where_it_lives() -> None:
    assert sorted([*metalora_core._ROOMS, "__version__"]) == sorted(metalora_core.__all__)  # pyright: ignore


def test_adapt_brings_torch_and_no_diffusers() -> None:
    heavy = "{'torch', 'diffusers', 'peft', 'transformers'}"
    before = f"import sys, metalora_core; print(sorted({heavy} & set(sys.modules)))"
    after = f"import sys, metalora_core; metalora_core.adapt; print(sorted({heavy} & set(sys.modules)))"
    seen = [
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for script in (before, after)
    ]
    assert seen == ["[]\n", "['torch']\n"]


def test_the_script_that_adapts_and_generates_runs(tmp_path: Path) -> None:
    subject, scenes = draw_subject("products", "validation", 3), draw_scenes("products", 2, 9)
    for index, picture in enumerate(map(to_pil, render([subject] * 2, scenes))):
        save_picture(picture, tmp_path / "my_mug" / f"{index}.png")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{scripts()[0]}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mug.safetensors").stat().st_size > 0
    assert (tmp_path / "mug_lora.safetensors").stat().st_size > 0
    assert len(list((tmp_path / "output").glob("*.png"))) == 1
