"""Save Image with Credentials: the pictures of core's Save Image, with a manifest that the library finds valid."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from checks.permission import _learned, _store
from checks.support import ROOT, folders, message_of, pack, pocket

PROMPT = {"1": {"class_type": "KSampler", "inputs": {"seed": 5}}}
WORKFLOW = {"workflow": {"nodes": [{"id": 1, "title": "写真"}]}}


@contextmanager
def _library() -> Iterator[None]:
    """c2pa-python, from the project's own environment if ComfyUI's has none."""
    before = list(sys.path)
    sys.path += [str(path) for path in ROOT.glob(f".venv/lib/python3.{sys.version_info.minor}/site-packages")]
    try:
        yield
    finally:
        sys.path[:] = before


def _node(prompt: Any = None, extra_pnginfo: Any = None) -> Any:
    """The node's class with what the executor hands to output nodes."""
    from comfy_api.latest._io import HiddenHolder

    class Node(pack("nodes.credentials").SaveImageWithCredentials):
        hidden = HiddenHolder(None, prompt, extra_pnginfo, None, None, None)

    return Node


def _saved(images: Any, prefix: str, **inputs: Any) -> tuple[list[Path], str]:
    folders()
    done = _node(prompt=PROMPT, extra_pnginfo=WORKFLOW).execute(images, prefix, **inputs)
    output = done.ui if isinstance(done.ui, dict) else done.ui.as_dict()
    root = folders() / "output"
    return [root / one["subfolder"] / one["filename"] for one in output["images"]], done.args[0]


def check_saved_pictures_are_those_of_core_and_their_manifest_is_valid() -> dict[str, Any]:
    import nodes

    credentials = pack("metalora_core.provenance.credentials")
    images = torch.rand(2, 40, 48, 3)
    with _library():
        ours, told = _saved(images, "signed/%width%_%batch_num%")
        save = nodes.SaveImage()
        save.output_dir = str(folders() / "output")
        core = save.save_images(images, "core/%width%_%batch_num%", PROMPT, WORKFLOW)["ui"]["images"]
        names = [path.name for path in ours]
        assert names == [one["filename"] for one in core] == ["48_0_00001_.png", "48_1_00002_.png"], names
        for path, one in zip(ours, core, strict=True):
            with Image.open(path) as picture, Image.open(folders() / "output" / "core" / one["filename"]) as same:
                assert np.array_equal(np.asarray(picture), np.asarray(same))
                assert all(picture.info[key] == same.info[key] for key in ("prompt", "workflow")), picture.info
            found = credentials.read_credentials(path)
            assert found.state == "Valid" and found.source.endswith("trainedAlgorithmicMedia"), found
        again, _ = _saved(images, "signed/%width%_%batch_num%")
        assert [path.name for path in again] == ["48_0_00002_.png", "48_1_00003_.png"], "nothing is replaced"
        jpeg = _saved(images[:1], "signed/plain", file_format="jpeg")[0][0]
        assert jpeg.name == "plain_00001_.jpeg" and credentials.read_credentials(jpeg).state == "Valid"
        outside = message_of(lambda: _saved(images, "../outside"))
    assert "proves nothing to others" in told and "No identity was given" in told, told
    assert (folders() / "user" / "metalora" / "credentials" / "self_made.pem").is_file()
    return {"report": told, "outside": outside}


def check_identities_of_the_model_are_named_while_they_are_permitted() -> dict[str, Any]:
    credentials = pack("metalora_core.provenance.credentials")
    (first, record), (second, _) = _learned(111), _learned(112)
    apply = pack("nodes.apply").ApplyIdentity.execute
    with torch.inference_mode():
        both = apply(apply(pocket()[0], first, 1.0).args[0], second, 0.5).args[0]
        none = apply(pocket()[0], first, 0.0).args[0]
    images = torch.rand(1, 16, 16, 3)
    with _library():
        (path,), told = _saved(images, "both", model=both, identity=second)
        found = credentials.read_credentials(path).identities
        assert [one.identity for one in found] == [first.layers_sha256, second.layers_sha256], found
        assert (found[0].name, found[0].consent) == (first.identity.metadata.name, record.id), found
        (path,), _ = _saved(images, "bare", model=both, identities="hashes only")
        assert not any(one.name or one.consent for one in credentials.read_credentials(path).identities)
        assert credentials.read_credentials(_saved(images, "none", model=none)[0][0]).identities == ()
        _store().revoke(record.id)
        refused = message_of(lambda: _saved(images, "refused", model=both))
        assert refused.startswith("ConsentRefused") and "revoked" in refused, refused
        assert not list((folders() / "output").glob("refused*"))
    events = [entry.event for entry in pack("nodes.bridge.permissions").permissions().log.entries()]
    assert events.count("picture signed") >= 4 and events.count("pictures signed") >= 3
    return {"report": told, "refused": refused}


def check_what_cannot_be_signed_is_refused_before_the_first_step() -> dict[str, str]:
    folders()
    validate, missing = _node().validate_inputs, object()
    kept = sys.modules.get("c2pa", missing)
    sys.modules["c2pa"] = None  # pyright: ignore[reportArgumentType]
    try:
        told = {"library": validate("ComfyUI")}
    finally:
        sys.modules.pop("c2pa")
        if kept is not missing:
            sys.modules["c2pa"] = kept  # pyright: ignore[reportArgumentType]
    assert "pip install c2pa-python" in told["library"], told
    own = folders() / "user" / "metalora" / "credentials" / "certificate.pem"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("rubbish")
    with _library():
        told["certificate"] = validate("ComfyUI")
        own.unlink()
        assert validate("ComfyUI") is True
    assert "not a certificate" in told["certificate"] or "key.pem" in told["certificate"], told
    return told
