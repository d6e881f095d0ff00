"""The library's public names, and the scripts of docs/library.md as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
from core.tiny_pipelines import z_image

import metalora_core
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.model.families import default_patterns
from metalora_core.model.targets import choose_targets, fingerprint
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


def photograph_a_mug(folder: Path) -> None:
    subject, scenes = draw_subject("products", "validation", 3), draw_scenes("products", 2, 9)
    for index, picture in enumerate(map(to_pil, render([subject] * 2, scenes))):
        save_picture(picture, folder / f"{index}.png")


def run(script: str, folder: Path) -> None:
    paths = f"import sys; sys.path += [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", paths + script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_script_that_adapts_and_generates_runs(tmp_path: Path) -> None:
    photograph_a_mug(tmp_path / "my_mug")
    run(scripts()[0], tmp_path)
    assert (tmp_path / "mug.safetensors").stat().st_size > 0
    assert (tmp_path / "mug_lora.safetensors").stat().st_size > 0
    assert len(list((tmp_path / "output").glob("*.png"))) == 1


def test_the_script_that_starts_from_a_pipeline_in_memory_runs(tmp_path: Path) -> None:
    photograph_a_mug(tmp_path / "my_mug")
    metalora_core.save_prior(tmp_path / "prior.safetensors", prior_for(metalora_core.host_of_pipeline(z_image())))
    run(f"from core.tiny_pipelines import z_image\npipeline = z_image()\n{scripts()[1]}", tmp_path)
    assert (tmp_path / "beach.png").stat().st_size > 0


def test_the_script_without_a_prior_runs(tmp_path: Path) -> None:
    photograph_a_mug(tmp_path / "my_mug")
    short = scripts()[2].replace("steps=600", "steps=2").replace("512", "64")
    run(f"from core.tiny_pipelines import z_image\npipeline = z_image()\n{short}", tmp_path)
    assert (tmp_path / "mug_lora.safetensors").stat().st_size > 0


def prior_for(host: DiffusersHost) -> Prior:
    targets = choose_targets(host.targets(), default_patterns(host.family))
    layers = {target.name: PriorLayer(torch.randn(2, *target.shape[1:])) for target in targets}
    record = PriorMetadata(
        name="mugs",
        family=host.family,
        base_fingerprint=fingerprint(targets),
        domain="mugs",
        r_meta=2,
        r_mid=2,
    )
    return Prior(layers, record)
