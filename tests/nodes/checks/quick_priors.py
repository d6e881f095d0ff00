"""Quick Prior on folders of photos and on LoRA files in three key layouts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from checks.meta_training import write_subjects
from checks.small_models import build
from checks.support import folders, message_of, pack, pocket, random_factors

LAYOUTS = ("comfyui", "kohya", "diffusers")


def _write_loras(host: Any, folder: Path, count: int) -> dict[str, Path]:
    """The same random LoRAs in every layout that can be written here, a folder each."""
    targets = pack("metalora_core.quick.making").lora_targets(
        host, pack("metalora_core.training.meta_options").MetaTrainingOptions()
    )
    prior_file, identity_file = pack("metalora_core.files.prior"), pack("metalora_core.files.identity")
    export, names = pack("metalora_core.files.export"), pack("metalora_core.hosts.target_map")
    written: dict[str, Path] = {}
    for number in range(count):
        factors = random_factors(targets, seed=number)
        layers = {name: prior_file.PriorLayer(chain.meta_down) for name, chain in factors.items()}
        record = prior_file.PriorMetadata(
            name="p", family=host.family, base_fingerprint="0" * 64, domain="mugs", r_meta=4, r_mid=3, scale=0.7
        )
        prior = prior_file.Prior(layers, record)
        own = {name: identity_file.IdentityLayer(chain.mid, chain.up) for name, chain in factors.items()}
        made = identity_file.IdentityMetadata(
            prior_sha256=prior_file.prior_sha256(prior), prior_name="p", base_fingerprint="0" * 64,
            family=host.family, trigger="ohwx", class_word="mug",
        )  # fmt: skip
        identity = identity_file.Identity(own, made)
        for layout in LAYOUTS:
            place = folder / layout
            place.mkdir(parents=True, exist_ok=True)
            with suppress(pack("metalora_core.errors").MissingDependency):
                modules = names.layout_targets(layout, identity, prior)
                export.export_lora(place / f"{number}.safetensors", identity, prior, layout, modules)
                written[layout] = place
    return written


def check_loras_of_three_layouts_give_one_prior_on_every_family() -> dict[str, Any]:
    bridge, lora = pack("nodes.bridge.quick_prior"), pack("metalora_core.files.lora_files")
    options = pack("metalora_core.training.meta_options").MetaTrainingOptions(r_meta=16, r_mid=4)
    figures: dict[str, Any] = {}
    for family in ("flux", "sdxl", "unet", "sd3"):
        host = pack("nodes.bridge.host.comfy_host").ComfyHost(build(family), resolution=64)
        targets = pack("metalora_core.quick.making").lora_targets(host, options)
        places = _write_loras(host, folders() / "loras of all" / family, 2)
        priors = []
        for place in places.values():
            found = lora.read_loras(place, bridge.names_in_comfyui(host, targets), targets)
            assert found.passed_over == () and all(file.used == file.keys for file in found.files), found.note
            start = pack("metalora_core.training.lora_start")
            priors.append(start.prior_of_loras(host, found.files, targets, options, "mugs"))
        assert all(set(prior.layers) == {target.name for target in targets} for prior in priors)
        for name, layer in priors[0].layers.items():
            ours = layer.up_init @ layer.mid_init @ layer.meta_down.flatten(1)
            for other in priors[1:]:
                theirs = other.layers[name]
                theirs = theirs.up_init @ theirs.mid_init @ theirs.meta_down.flatten(1)
                assert float((ours - theirs).abs().max()) < 1e-4 * float(ours.abs().max()), (family, name)
        figures[family] = {"layouts": len(priors), "layers": len(targets)}
    return figures


def _quick(**settings: Any) -> Any:
    bridge = pack("nodes.bridge.quick_prior")
    model, clip, vae, *_ = pocket()
    usual = {"subjects": "none", "loras": "none", "class_word": "person", "license": "", "filename": "quick"}
    small = {"steps": 2, "subjects_per_batch": 2, "resolution": 128, "left_out": 1}
    with torch.inference_mode():
        return bridge.make_quick_prior(model, clip, vae, bridge.QuickRequest(**usual | small | settings))


def check_a_folder_and_loras_become_a_measured_prior() -> dict[str, Any]:
    write_subjects(10, 2)
    model = pocket()[0]
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, resolution=128)
    places = _write_loras(host, folders() / "models" / "loras", 2)
    (places["kohya"] / "broken.safetensors").write_bytes(b"nothing")
    digest = host.weights_digest()
    both = _quick(subjects="subjects", loras="kohya", license="own work")
    assert "Left-out subjects (1, one photo each" in both.report and both.picture.shape[1] > 128, both.report
    assert "9 subjects and 2 LoRA files" in both.report and "broken.safetensors" in both.report, both.report
    assert both.prior.metadata.license == "own work" and len(both.prior.metadata.training["earlier"]["loras"]) == 2
    alone = _quick(loras="comfyui", license="own work", filename="alone")
    assert (folders() / "models" / "metalora" / "alone.safetensors").is_file()
    assert "Nothing was kept aside" in alone.report and alone.prior.metadata.training["loras"]
    assert host.weights_digest() == digest
    return {"report": both.report}


def check_a_quick_prior_asks_for_a_licence_and_a_source() -> dict[str, Any]:
    folders()
    assert "nothing to make a prior of" in message_of(_quick)
    assert "Write under license" in message_of(lambda: _quick(loras="kohya"))
    return {}
