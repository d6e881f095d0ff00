"""Adapt Many on a folder of subjects: learned once, listed by name, and one that fails stops no other."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from checks.meta_training import write_subjects
from checks.support import folders, pack, pocket


def _many(**settings: Any) -> Any:
    model, clip, vae, prior, *_ = pocket()
    usual = {"subjects": "subjects", "class_word": "person", "trigger": "ohwx", "prior": prior, "steps": 2}
    with torch.inference_mode():
        parts = {"model": model, "clip": clip, "vae": vae} | usual | settings
        return pack("nodes.adapt_many").AdaptMany.execute(**parts).args


def _write_only(count: int) -> None:
    """Subjects with a photo each, and none that other checks have left."""
    shutil.rmtree(folders() / "input" / "subjects", ignore_errors=True)
    write_subjects(count, 1)


def check_a_folder_is_learned_once_and_comes_out_as_a_list() -> dict[str, Any]:
    _write_only(3)
    broken = folders() / "input" / "subjects" / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    learned, names, report = _many()
    assert names == ["0", "1", "2"], names
    assert [one.identity.metadata.name for one in learned] == names, report
    assert "3 subjects learned" in report and "1 failed" in report and "broken was not learned: a.png" in report, report
    place = folders() / "models" / "metalora_identities" / "adapted" / "subjects"
    assert sorted(path.name for path in place.glob("*.safetensors")) == [f"{name}.safetensors" for name in names]
    assert "broken,failed" in (place / "manifest.csv").read_text(encoding="utf-8-sig")
    again, _, report = _many()
    assert "0 subjects learned, 3 known from before" in report, report
    for one, other in zip(learned, again, strict=True):
        assert one.layers_sha256 == other.layers_sha256
    alone = _many(side_by_side=1, seed=1)[0]
    for path in place.glob("*.safetensors"):
        path.unlink()
    together = _many(side_by_side=3, seed=1)
    assert "3 subjects learned" in together[2], together[2]
    largest = 0.0
    for one, other in zip(alone, together[0], strict=True):
        for name, layer in one.identity.layers.items():
            delta, same = layer.up @ layer.mid, other.identity.layers[name].up @ other.identity.layers[name].mid
            largest = max(largest, float((delta - same).norm() / delta.norm().clamp(min=1e-9)))
    assert largest < 1e-3, largest
    (broken / "a.png").unlink()
    broken.rmdir()
    return {"largest_difference": largest}


def check_a_folder_without_a_prior_gives_identities_that_need_no_other_file() -> dict[str, Any]:
    _write_only(2)
    learned, names, report = _many(prior=None)
    assert len(learned) == len(names) and all(one.prior.personal for one in learned), report
    return {}
