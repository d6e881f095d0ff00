"""What ``inspect`` says of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from metalora_core.commands import cli
from metalora_core.files.atomic import atomic_save_safetensors
from metalora_core.files.identity import Identity, IdentityLayer, IdentityMetadata, save_identity
from metalora_core.files.inspection import describe_file
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata, save_prior


def saved_prior(folder: Path) -> Prior:
    metadata = PriorMetadata(
        name="mugs", family="flux", base_fingerprint="f", domain="products", r_meta=4, r_mid=2, training={"steps": 7}
    )
    return save_prior(folder / "prior.safetensors", Prior({"a.qkv": PriorLayer(torch.ones(4, 6))}, metadata))


def test_a_prior_tells_its_making_and_its_layers(tmp_path: Path) -> None:
    prior = saved_prior(tmp_path)
    found = describe_file(tmp_path / "prior.safetensors")
    assert found.kind == "Meta-LoRA prior"
    assert found.sha256 == prior.sha256
    assert found.size_bytes == (tmp_path / "prior.safetensors").stat().st_size
    assert found.parameters == 24
    assert found.layers == {"a.qkv": {"meta_down": (4, 6)}}
    assert "steps" in found.text()
    assert "mugs" in found.text()


def test_an_identity_names_its_prior(tmp_path: Path) -> None:
    prior = saved_prior(tmp_path)
    assert prior.sha256 is not None
    metadata = IdentityMetadata(
        prior_sha256=prior.sha256,
        prior_name="mugs",
        base_fingerprint="f",
        family="flux",
        trigger="ohwx",
        class_word="mug",
    )
    layers = {"a.qkv": IdentityLayer(torch.ones(2, 4), torch.ones(5, 2))}
    save_identity(tmp_path / "mug.safetensors", Identity(layers, metadata))
    text = describe_file(tmp_path / "mug.safetensors").text()
    assert "Meta-LoRA identity" in text
    assert prior.sha256 in text
    assert "mid 2×4, up 5×2" in text


def test_a_strange_file_is_told_by_its_keys(tmp_path: Path) -> None:
    atomic_save_safetensors(tmp_path / "lora.safetensors", {"diffusion_model.a.lora_up.weight": torch.ones(2, 2)})
    assert describe_file(tmp_path / "lora.safetensors").kind.startswith("LoRA")


def test_json_holds_what_the_text_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = saved_prior(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(tmp_path / "prior.safetensors"), "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["sha256"] == prior.sha256


def test_metadata_of_a_strange_file_may_be_nested_without_end_and_names_as_long_as_they_like(tmp_path: Path) -> None:
    path, nested = tmp_path / "lora.safetensors", "[" * 20_000 + "]" * 20_000
    atomic_save_safetensors(path, {"a" * 100_000 + ".mid": torch.ones(1)}, {"k" * 100_000: nested})
    found = describe_file(path)
    assert found.made["k" * 100_000] == nested and len(found.text()) < 2000


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01." + b"\0" * 64, b"PK\x03\x04" + b"\0" * 64, b"\xff" * 64])
def test_bad_files_end_with_1_and_words(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(path)])
    assert stop.value.code == 1
    assert "bad.safetensors" in capsys.readouterr().err


def test_a_missing_file_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(tmp_path / "none.safetensors")])
    assert stop.value.code == 1
    assert "none.safetensors" in capsys.readouterr().err
