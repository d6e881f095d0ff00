"""Save Identity, Export Identity as LoRA and Meta-Train Prior beside files that have the name already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checks.meta_training import train_small
from checks.support import adapt, folders, pack


def check_nothing_saved_is_replaced_unless_asked_for() -> dict[str, str]:
    files = pack("nodes.files")
    first, second = adapt(seed=51)[0], adapt(seed=52)[0]
    nodes = {"identity": files.SaveIdentity.execute, "lora": files.ExportLoRA.execute}
    options: dict[str, dict[str, Any]] = {"identity": {}, "lora": {"layout": "comfyui"}}
    told: dict[str, str] = {}
    for kind, save in nodes.items():

        def saved(learned: Any, save: Any = save, kind: str = kind, **more: Any) -> tuple[Path, str]:
            done = save(learned, "twice", **options[kind], **more)
            return Path(done.args[0]), "".join(done.ui.as_dict()["text"])

        path, said = saved(first)
        kept = path.read_bytes()
        assert path.name == "twice.safetensors" and "was kept" not in said, said
        beside, told[kind] = saved(second)
        assert beside.name == "twice_2.safetensors" and path.read_bytes() == kept
        assert "twice.safetensors was kept" in told[kind] and "replace" in told[kind], told[kind]
        assert saved(second)[0] == beside and saved(first)[0].name == "twice_3.safetensors"  # no copy of the newest
        assert saved(second, existing="replace")[0] == path and path.read_bytes() != kept
        assert not list(path.parent.glob(".metalora-*"))
    return told


def check_the_name_in_a_file_is_the_one_it_was_saved_under() -> dict[str, str]:
    from safetensors import safe_open

    files = pack("nodes.files")
    learned = adapt(seed=53)[0]
    files.SaveIdentity.execute(learned, "people/anna")
    loaded = files.LoadIdentity.execute("people/anna.safetensors").args[0]
    assert loaded.title == "The identity 'anna'", loaded.title
    exported = files.ExportLoRA.execute(learned, "anna at work", "comfyui").args[0]
    with safe_open(exported, "pt") as file:
        header = file.metadata()
    assert header["modelspec.title"] == header["ss_output_name"] == "anna at work", header
    return {"title": loaded.title}


def check_a_saved_identity_keeps_the_last_sample_as_its_picture() -> dict[str, int]:
    """Also when it is loaded and saved again, and after the sweep has taken the steps that the run kept."""
    files, metadata = pack("nodes.files"), pack("metalora_core.files.metadata")
    asked = {"steps": 4, "seed": 54, "preview_every": 2}
    learned = adapt(**asked)[0]
    first = Path(files.SaveIdentity.execute(learned, "pictured").args[0])
    results = [path for path in (first.parent / "adapted").glob("*.safetensors") if metadata.thumbnail_in(path)]
    (result,) = (path for path in results if path.stem == learned.identity.metadata.name)
    kept = pack("metalora_core.files.kept_steps").kept_steps(result)
    pictures = {metadata.thumbnail_in(path) for path in (first, result, kept[4])}
    assert len(pictures) == 1 and pictures != {b""} and metadata.thumbnail_in(kept[2]) not in pictures
    for step in kept.values():
        step.unlink()
    assert Path(files.SaveIdentity.execute(adapt(**asked)[0], "pictured").args[0]) == first
    again = files.LoadIdentity.execute("pictured.safetensors").args[0]
    assert metadata.thumbnail_in(Path(files.SaveIdentity.execute(again, "pictured too").args[0])) in pictures
    return {"bytes": len(pictures.pop())}


def check_a_prior_of_the_same_name_is_kept() -> dict[str, str]:
    train_small(filename="one_name")
    path = folders() / "models" / "metalora" / "one_name.safetensors"
    kept = path.read_bytes()
    report = train_small(filename="one_name", seed=5).report
    assert path.read_bytes() == kept and path.with_name("one_name_2.safetensors").is_file()
    assert "Saved metalora/one_name_2.safetensors" in report and "one_name.safetensors was kept" in report, report
    train_small(filename="one_name", seed=5, existing="replace")
    assert path.read_bytes() != kept and not path.with_name("one_name_3.safetensors").exists()
    return {"report": report}
