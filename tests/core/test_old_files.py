"""Files of earlier releases open and give the tensors and fields that were saved, whatever their kind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from metalora_core.files.bounded import read_safetensors
from metalora_core.files.checkpoint import load_checkpoint
from metalora_core.files.identity import chain_factors, load_identity, save_identity
from metalora_core.files.inspection import describe_file
from metalora_core.files.prior import load_prior, save_prior
from metalora_core.provenance.audit_log import AuditLog
from metalora_core.provenance.consent_store import ConsentStore

FOLDER = Path(__file__).parents[1] / "fixtures" / "old_files"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
SAFETENSORS = sorted(name for name in EXPECTED if name.endswith(".safetensors"))
PRIORS = ("prior_learned_start.safetensors", "prior_without_start.safetensors")
IDENTITIES = ("identity.safetensors", "identity_of_a_unet.safetensors")


def hash_of(tensor: torch.Tensor) -> str:
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + content).hexdigest()


def hashes_of(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: hash_of(tensor) for name, tensor in tensors.items()}


def record_of(name: str) -> dict[str, Any]:
    return json.loads(EXPECTED[name]["metadata"]["metalora"])


def test_every_kind_of_file_is_here() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.suffix != ".py"} - {"expected.json", "__pycache__"} == set(
        EXPECTED
    )
    assert len(SAFETENSORS) == 10


@pytest.mark.parametrize("name", SAFETENSORS)
def test_an_old_file_gives_the_same_tensors_and_metadata(name: str) -> None:
    file = read_safetensors(FOLDER / name)
    assert (file.sha256, file.metadata) == (EXPECTED[name]["sha256"], EXPECTED[name]["metadata"])
    assert hashes_of(file.tensors) == EXPECTED[name]["tensors"]
    assert describe_file(FOLDER / name).sha256 == file.sha256


@pytest.mark.parametrize("name", PRIORS)
def test_an_old_prior_keeps_its_layers_and_the_hash_it_is_known_by(name: str, tmp_path: Path) -> None:
    prior, record = load_prior(FOLDER / name), record_of(name)
    assert prior.metadata.model_dump() == {key: value for key, value in record.items() if not key.startswith("format")}
    for target, layer in prior.layers.items():
        assert hash_of(layer.meta_down) == EXPECTED[name]["tensors"][f"{target}.meta_down"]
        assert (layer.up_init is None) == (f"{target}.up_init" not in EXPECTED[name]["tensors"])
    assert save_prior(tmp_path / name, prior).sha256 == EXPECTED[name]["sha256"]


@pytest.mark.parametrize(("name", "prior"), list(zip(IDENTITIES, PRIORS, strict=True)))
def test_an_old_identity_still_belongs_to_its_prior(name: str, prior: str, tmp_path: Path) -> None:
    identity, record = load_identity(FOLDER / name), record_of(name)
    assert identity.metadata.model_dump() == {k: v for k, v in record.items() if not k.startswith("format")}
    for target, chain in chain_factors(identity, load_prior(FOLDER / prior)).items():
        assert hash_of(chain.mid) == EXPECTED[name]["tensors"][f"{target}.mid"]
        assert hash_of(chain.up) == EXPECTED[name]["tensors"][f"{target}.up"]
    assert save_identity(tmp_path / name, identity) == EXPECTED[name]["sha256"]


@pytest.mark.parametrize("kind", ["adaptation", "meta-training"])
def test_an_old_checkpoint_gives_its_state(kind: str) -> None:
    name = f"{kind.replace('-', '_')}_checkpoint.safetensors"
    saved, hashes = load_checkpoint(FOLDER / name, kind=kind), EXPECTED[name]["tensors"]
    assert (saved.step, saved.digest) == (2, record_of(name)["digest"])
    for tensor, value in saved.tensors.items():
        assert hash_of(value) == hashes[f"tensors.{tensor}"]
    assert len(saved.state["losses"]) == 2 and saved.state["optimizer"]["param_groups"][0]["eps"] == 1e-8
    for index, moments in saved.state["optimizer"]["state"].items():
        assert hash_of(moments["exp_avg"]) == hashes[f"state.'optimizer'.'state'.{index}.'exp_avg'"]


def test_an_old_consent_record_and_log_are_whole() -> None:
    (name,) = (name for name in EXPECTED if name.endswith(".consent.json"))
    record = ConsentStore(FOLDER).load(name.removesuffix(".consent.json"))
    assert record.model_dump(mode="json") == EXPECTED[name]
    log, expected = AuditLog(FOLDER / "audit.jsonl"), EXPECTED["audit.jsonl"]
    assert log.verify(expected["head"]).intact
    assert [vars(entry) for entry in log.entries()] == expected["entries"]
