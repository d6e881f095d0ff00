"""Photos that were dropped on Prepare Reference Photos, and lie in ComfyUI's input folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from checks.support import folders, message_of, pack, pocket, prepare_list


def _drop(*names: str) -> list[torch.Tensor]:
    """Write sample photos of different sizes into the input folder; returns them as ComfyUI loads them."""
    import folder_paths
    from PIL import Image

    folders()
    folder = Path(folder_paths.get_input_directory())
    pictures = [image[:, : 128 - 16 * number] for number, image in enumerate(pocket()[4].split(1)[: len(names)])]
    for name, picture in zip(names, pictures, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture[0] * 255).round().byte().numpy()).save(folder / name)
    return pictures


def _node() -> Any:
    return pack("nodes.references").PrepareReferences


def check_dropped_photos_are_those_that_could_be_connected() -> None:
    pictures = _drop("dropped one.png", "some folder/dropped two.png")
    value = ["dropped one.png\tperson outside\nsome folder/dropped two.png"]
    prior = [pocket()[3]]
    dropped = prepare_list([], photos=value, caption=["person inside"], prior=prior)[0]
    connected = prepare_list(pictures, caption=["person outside\nperson inside"], prior=prior)[0]
    assert [photo.pixels.shape for photo in dropped.photos] == [(3, 128, 128), (3, 112, 128)]
    assert dropped.digest() == connected.digest()
    assert [photo.name for photo in dropped.photos] == ["dropped one.png", "dropped two.png"]


def check_dropped_photos_go_before_connected_ones_and_the_node_says_so() -> None:
    _drop("dropped one.png")
    references, _, findings = prepare_list([pocket()[5]], photos=["dropped one.png"])
    assert len(references.photos) == 1 and "connected photos are not used" in findings, findings
    assert "Drop one to eight photos" in message_of(lambda: prepare_list([]))


def check_a_dropped_photo_that_is_gone_or_outside_is_named_before_any_work() -> None:
    _drop("dropped one.png")
    told = _node().validate_inputs(photos=["dropped one.png\ngone 1.png\ngone 2.png"])
    assert "gone 1.png" in told and "gone 2.png" in told and "dropped one" not in told, told
    for name in ("../outside.png", "/etc/hostname", "dropped one.png [output]", "a/../../b.png"):
        assert _node().validate_inputs(photos=[name]) is not True, name
    assert _node().validate_inputs(photos=["dropped one.png\n"]) is True
    assert _node().validate_inputs() is True


def check_a_changed_file_is_read_again() -> None:
    import folder_paths

    _drop("dropped one.png")
    first = _node().fingerprint_inputs(photos=["dropped one.png"])
    assert _node().fingerprint_inputs(photos=["dropped one.png"]) == first
    os.utime(Path(folder_paths.get_input_directory()) / "dropped one.png", (1, 1))
    assert _node().fingerprint_inputs(photos=["dropped one.png"]) != first
