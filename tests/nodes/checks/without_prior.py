"""Adapt Identity with nothing at its prior input."""

from __future__ import annotations

from typing import Any

import torch

from checks.adapting import _cancel_at, _files, _remove, steps_shown
from checks.support import adapt, close, conditioning, folders, pack, pocket, prepare, sampled

SETTINGS = {"prior": None, "steps": 8, "preview_every": 4}


def check_no_prior_is_a_choice() -> dict[str, Any]:
    """The result is a normal identity: found again, saved, loaded alone, applied and exported as the same delta."""
    import nodes

    before = set(_files())
    learned, lora, losses, report = adapt(seed=61, **SETTINGS)
    assert "No prior was used" in report and "fewer steps" in report, report
    assert len(losses["loss"]) == 8
    again = adapt(seed=61, **SETTINGS)[3]
    assert "Learned before" in again and "No prior was used" in again, again
    made = set(_files()) - before
    assert len([name for name in made if not name.startswith(".")]) == 1, made
    files = pack("nodes.files")
    with torch.inference_mode():
        files.SaveIdentity.execute(learned, "alone")
        alone, words = files.LoadIdentity.execute("alone.safetensors").args
        beside = files.LoadIdentity.execute("alone.safetensors", prior=pocket()[3]).args[0]
        files.ExportLoRA.execute(alone, "alone", "comfyui")
        exported = nodes.LoraLoaderModelOnly().load_lora_model_only(pocket()[0], "alone.safetensors", 1.0)[0]
    assert words == "ohwx person"
    for other in (alone, beside):
        wanted, found = learned.factors(), other.factors()
        assert all(torch.equal(chain.delta(), found[target].delta()) for target, chain in wanted.items())
    prompt, apply = conditioning("photo of a ohwx person"), pack("nodes.apply").ApplyIdentity
    ways = {
        method: sampled(apply.execute(pocket()[0], alone, 1.0, method=method).args[0], prompt)
        for method in ("patch", "bypass")
    }
    assert torch.equal(ways["patch"], sampled(exported, prompt))
    assert close(ways["patch"], ways["bypass"]) < 1e-4 and not torch.equal(ways["patch"], sampled(pocket()[0], prompt))
    assert len(lora) == 3 * len(exported.patches) == 3 * len(learned.identity.layers)
    _remove(made)
    return {"report": report, "bytes": (folders() / "models/metalora_identities/alone.safetensors").stat().st_size}


def check_without_a_prior_a_cancelled_run_ends_bit_identical() -> None:
    before, settings = set(_files()), SETTINGS | {"preview_every": 2, "seed": 62}
    adapt(**settings)
    unbroken = {name: data for name, data in _files().items() if name not in before}
    _remove(unbroken)
    stopped = _cancel_at(4, settings)
    with steps_shown() as reached:
        adapt(**settings)
    # Step 4 is told of again if drawing its sample was cancelled; a run from the start tells of step 2.
    assert reached[0] >= stopped, f"stopped after {stopped}, it began again and showed {reached}"
    resumed = {name: data for name, data in _files().items() if name not in before}
    assert resumed == unbroken
    _remove(resumed)


def check_without_a_prior_zero_takes_the_usual_steps_of_a_lora() -> dict[str, Any]:
    request, photos = pack("nodes.bridge.adapting").Request, pocket()[4]
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(*pocket()[:3], resolution=128)
    references = prepare(photos)[0]
    alone, helped = (request(references, prior).options(host) for prior in (None, pocket()[3]))
    assert alone.steps > helped.steps and alone.r_mid == 0
    return {"steps": [alone.steps, helped.steps]}
