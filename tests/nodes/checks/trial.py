"""A ComfyUI that was changed under the pack is refused before the first step, for less than the cost of two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from checks.small_models import build, inputs
from checks.support import adapt, captions_of, folders, message_of, pack, random_factors


@contextmanager
def _changed(name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Core's linear layer with another method, as a coming release might have it."""
    from comfy.ops import disable_weight_init

    layer = disable_weight_init.Linear
    before = layer.__dict__.get(name)
    setattr(layer, name, change(getattr(layer, name)))
    try:
        yield
    finally:
        if before is None:
            delattr(layer, name)
        else:
            setattr(layer, name, before)


def check_a_changed_layer_is_refused_before_the_first_step() -> dict[str, str]:
    """Outputs scaled behind the hooks, gradients cut off, and hooks that are never called."""
    changes = {
        "scaled": ("forward", lambda own: lambda self, x: 2 * own(self, x)),
        "cut off": ("forward", lambda own: lambda self, x: own(self, x.detach())),
        "no hooks": ("__call__", lambda _: lambda self, x: self.forward(x)),
    }
    told: dict[str, str] = {}
    identities = folders() / "models" / "metalora_identities"
    before = set(identities.rglob("*"))
    for number, (what, (name, change)) in enumerate(changes.items()):
        with _changed(name, change):
            told[what] = message_of(lambda seed=70 + number: adapt(seed=seed, steps=2))
        assert told[what].startswith("HostChanged"), told
        assert "Nothing was trained" in told[what] and "https://" in told[what], told
    assert {path for path in identities.rglob("*") if path.is_file()} <= before, "a refused run left a file"
    adapt(seed=70, steps=2)
    return told


def check_the_trial_costs_less_than_two_steps() -> dict[str, float]:
    """Processor time on a picture of 512 pixels, with a layer of every kind hooked."""
    model, data = build("flux"), inputs("flux", batch=1)
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, resolution=512)
    data.pop("x")
    captions_of(host, data)
    folders()
    trial = pack("nodes.bridge.host.trial")
    trial_s = min(_seconds(lambda: trial.try_out(host, host.targets(), "row 0")) for _ in range(3))
    step_s = min(_seconds(lambda: _step(host)) for _ in range(3))
    assert trial_s < 2 * step_s, (trial_s, step_s)
    return {"trial_s": trial_s, "step_s": step_s}


def _seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    with torch.inference_mode():
        call()
    return time.process_time() - began


def _step(host: Any) -> None:
    latents = torch.randn(1, 16, 64, 64)
    with torch.inference_mode(False):
        factors = random_factors(host.targets())
        for chain in factors.values():
            chain.mid.requires_grad_()
            chain.up.requires_grad_()
    with host.training(), pack("metalora_core.inject").Injection(host.model, host.targets(), factors):
        host.predict(latents, torch.tensor([0.5]), host.captions.numbered(["row 0"])).square().mean().backward()


def check_rows_and_overwriting_are_found_out() -> dict[str, Any]:
    """A trial that leaves the model as it was, and says that Flux keeps its samples in rows."""
    model, data = build("flux"), inputs("flux", batch=1)
    data.pop("x")
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, resolution=64)
    captions_of(host, data)
    before = {name: id(parameter) for name, parameter in model.model.named_parameters()}
    with torch.inference_mode():
        found = pack("nodes.bridge.host.trial").try_out(host, host.targets(), "row 0")
    assert {name: id(parameter) for name, parameter in model.model.named_parameters()} == before
    assert found.rows_together and not host.overwrites and not found.dead, found
    return {"layers": len(found.facts)}
