"""Right file for right base: other layers are refused, other weights of the same layers are reported in one line."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from core.tiny_models import tiny_flux
from core.toy_host import ToyHost

from metalora_core.errors import IncompatibleBaseModel
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata, targets_of_prior
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.model.base_weights import difference, other_weights, report_other_weights, weights_sample
from metalora_core.model.targets import Part, Target, fingerprint


def sample_of(host: DiffusersHost) -> list[float]:
    return weights_sample(host.model, host.targets(), [target.name for target in host.targets()])


def test_the_same_weights_in_fewer_bits_are_near_and_a_finetune_is_not() -> None:
    host = DiffusersHost(tiny_flux())
    recorded = sample_of(host)
    assert recorded and difference(recorded, recorded) == 0
    halved = difference(sample_of(DiffusersHost(tiny_flux().bfloat16())), recorded)
    assert halved is not None and 0 < halved < 0.01
    finetune = tiny_flux()
    with torch.no_grad():
        for parameter in finetune.parameters():
            parameter.add_(0.05 * parameter.std() * torch.randn_like(parameter)) if parameter.numel() > 1 else None
    moved = difference(sample_of(DiffusersHost(finetune)), recorded)
    assert moved is not None and 0.02 < moved < 0.1


def test_a_sample_is_the_same_however_a_host_spreads_a_layer_over_modules() -> None:
    whole, halves = torch.nn.ModuleDict({"a": torch.nn.Linear(6, 8)}), torch.nn.ModuleDict()
    halves["b"], halves["c"] = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
    with torch.no_grad():
        for name, rows in (("b", slice(0, 4)), ("c", slice(4, 8))):
            halves[name].weight.copy_(whole["a"].weight[rows])
    one = Target("x", (8, 6), (Part("a", 0, 8),))
    two = Target("x", (8, 6), (Part("b", 0, 4), Part("c", 4, 8)))
    assert weights_sample(whole, [one], ["x"]) == weights_sample(halves, [two], ["x"]) != []


def test_other_weights_are_reported_in_one_line_and_unknown_ones_in_none(caplog: pytest.LogCaptureFixture) -> None:
    host = ToyHost()
    names = [target.name for target in host.targets()]
    recorded = weights_sample(host.model, host.targets(), names)
    with caplog.at_level(logging.WARNING):
        for record in (recorded, None, [], recorded[:3]):
            report_other_weights(host.model, host.targets(), names, record, "prior 'mugs'")
        assert caplog.records == []
        other = ToyHost(seed=1)
        report_other_weights(other.model, other.targets(), names, recorded, "prior 'mugs'")
    assert len(caplog.records) == 1 and "prior 'mugs'" in caplog.text and "finetune" in caplog.text


def test_another_architecture_is_refused() -> None:
    targets = ToyHost().targets()
    layers = {target.name: PriorLayer(torch.zeros(2, *target.shape[1:])) for target in targets}
    metadata = PriorMetadata(
        name="mugs", family="toy", base_fingerprint=fingerprint(targets), domain="mugs", r_meta=2, r_mid=1
    )
    wider = [replace(target, shape=(target.shape[0], target.shape[1] + 1, *target.shape[2:])) for target in targets]
    with pytest.raises(IncompatibleBaseModel, match="does not fit the connected model"):
        targets_of_prior(Prior(layers, metadata), wider)


@pytest.mark.parametrize("recorded", [["a"], [[1]], [None], [True], [10**400], [float("nan")]])
def test_a_record_that_holds_no_weights_is_passed_over(recorded: list[object]) -> None:
    assert other_weights(torch.nn.Linear(2, 2), [], [], recorded, "prior") == ""
