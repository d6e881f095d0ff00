"""Meta-Train Prior on folders of photos: its limit, the statistics that it keeps, and a cancel at the very end."""

from __future__ import annotations

from typing import Any

import torch

from checks.adapting import compiled_by
from checks.support import folders, pack, pocket


def write_subjects(count: int, photos: int) -> None:
    save = pack("metalora_core.photos.pictures")
    generator = torch.Generator().manual_seed(4)
    for subject in range(count):
        folder = folders() / "input" / "subjects" / f"{subject}"
        for number, picture in enumerate(map(save.to_pil, torch.rand(photos, 3, 128, 128, generator=generator))):
            save.save_picture(picture, folder / f"{number}.png")


def train_small(model: Any = None, **settings: Any) -> Any:
    """Meta-Train Prior on three subjects for two steps; returns its outcome."""
    write_subjects(3, 3)
    bridge = pack("nodes.bridge.prior_training")
    usual, clip, vae, *_ = pocket()
    small = {"steps": 2, "r_meta": 4, "r_mid": 2, "subjects_per_batch": 2, "resolution": 128}
    request = bridge.PriorRequest("subjects", "person", **{"filename": "from_folders"} | small | settings)
    with torch.inference_mode():
        return bridge.train_prior(model or usual, clip, vae, request)


def check_a_prior_from_folders_heeds_the_limit_and_knows_its_photos() -> dict[str, Any]:
    limited, whole = train_small(subject_limit=2), train_small(filename="all_of_them")
    assert limited.report.startswith("2 subjects") and whole.report.startswith("3 subjects"), limited.report
    assert limited.prior.features is None and whole.prior.features.count == 9
    assert whole.prior.metadata.base_name
    return {"base_name": whole.prior.metadata.base_name}


def check_a_prior_cancelled_at_its_last_step_is_there_when_queued_again() -> dict[str, Any]:
    from comfy import model_management

    bridge = pack("nodes.bridge.prior_training")
    shown = bridge.show_progress

    def cancel(done: int, steps: int, picture: Any = None, losses: Any = ()) -> None:
        if losses and done == steps:
            model_management.interrupt_current_processing(True)
        shown(done, steps, picture, losses)

    bridge.show_progress = cancel
    try:
        train_small(filename="cancelled")
        raise AssertionError("the run was not interrupted")
    except model_management.InterruptProcessingException:
        pass
    finally:
        model_management.interrupt_current_processing(False)
    reported = list[int]()

    def count(done: int, steps: int, picture: Any = None, losses: Any = ()) -> None:
        reported.extend([done] if losses else [])
        shown(done, steps, picture, losses)

    bridge.show_progress = count
    try:
        again = train_small(filename="cancelled")
    finally:
        bridge.show_progress = shown
    assert reported == [2] and again.report.startswith("3 subjects"), (reported, again.report)
    return {"losses": again.losses}


def check_a_prior_is_trained_without_a_compiler_that_fails() -> dict[str, Any]:
    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    plain, without = train_small(filename="plain"), train_small(compiled_by(broken), filename="uncompiled")
    assert plain.losses == without.losses, (plain.losses, without.losses)
    return {"losses": without.losses}
