"""Photos of different sizes come as ComfyUI lists; every node of the pack takes them as one set."""

from __future__ import annotations

from typing import Any

import torch

from checks.support import adapt, folders, message_of, pack, pocket, prepare_list


def _photos() -> list[torch.Tensor]:
    """Two IMAGEs of different sizes, as a dataset node gives them."""
    first, second = pocket()[4][:1], pocket()[5][:1]
    return [first, second[:, :96]]


def _prepared(photos: list[torch.Tensor], **lists: list[Any]) -> Any:
    return prepare_list(photos, prior=[pocket()[3]], **lists)


def _consent(**entries: Any) -> Any:
    folders()
    form = {"subject": "Sample Person", "kind": "person", "granted_by": "Sample Person", "basis": "consent"}
    lists = {name: [value] for name, value in (form | {"permitted_uses": "training", "expires": ""}).items()}
    return pack("nodes.references").RecordConsent.execute(**(lists | entries)).args[0]


def check_each_photo_of_a_list_has_its_own_caption() -> None:
    captions = ["a person outside\nsecond thought", "a person's hat"]
    references = _prepared(_photos(), caption=captions)[0]
    assert references.captions == ("a ohwx person outside second thought", "a ohwx person's hat"), references.captions
    one = _prepared(_photos()[:1], caption=captions[:1])[0]
    assert one.captions == ("a ohwx person outside second thought",), one.captions
    widget = _prepared(_photos(), caption=["a person outside\n\na person's hat"])[0]
    assert widget.captions == ("a ohwx person outside", "a ohwx person's hat"), widget.captions
    assert "3 lines for 2 photos" in message_of(lambda: _prepared(_photos(), caption=["a", "b", "c"]))


def check_consent_covers_every_photo_of_a_list() -> None:
    photos = _photos()
    record = _consent(images=photos)
    assert len(record.photos) == 2
    assert _prepared(photos, consent=[record])[0].consent_id == record.id
    assert message_of(lambda: _prepared(photos, consent=[_consent(images=photos[:1])])).startswith("ConsentRefused")


def check_pictures_of_a_list_are_scored_together() -> None:
    evaluate = pack("nodes.evaluate").EvaluateIdentity.execute
    photos, embedder = _photos(), ["pocket avatars"]
    likeness, report, grid = evaluate(photos, photos, embedder=embedder, reference=photos, columns=[2]).args
    assert "2 pictures" in report and "among themselves" in report and 0 < likeness <= 1, report
    gap = pack("metalora_core.photos.pictures").GAP_PX
    assert grid.shape[2] == 2 * (128 + gap) + gap and 128 < grid.shape[1] < 200, grid.shape
    assert "at least one generated picture" in message_of(lambda: evaluate([], photos, embedder=embedder))


def check_several_values_for_one_set_are_refused() -> None:
    told = message_of(lambda: _prepared(_photos(), class_word=["person", "dog"]))
    assert told.startswith("InvalidOptions") and "class_word got 2 different values" in told, told
    assert _prepared(_photos(), class_word=["person", "person"])[0].class_word == "person"


def check_one_small_photo_does_not_make_the_others_small() -> None:
    sharp, small = pocket()[4], torch.nn.functional.interpolate(pocket()[5][:1].movedim(-1, 1), size=(70, 70))
    references = _prepared([sharp, small.movedim(1, -1)])[0]
    assert references.usual_resolution(pocket()[3]) == 128
    report = adapt(references=references, steps=2, seed=61)[3]
    assert "at 128 px" in report and "Enlarged to 128 px" in report and "photo 3 (70 px)" in report, report
