"""How ``inspect`` compares two priors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metalora_core.commands import cli
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata, save_prior
from metalora_core.files.prior_comparison import compare_priors

WIDTH, RANK = 12, 4


def prior_of(rows: slice, mixed: bool = False, start: float = 0.0) -> Prior:
    down = torch.eye(WIDTH)[rows]
    if mixed:
        down = torch.randn(len(down), len(down), generator=torch.Generator().manual_seed(1)) @ down
    layer = PriorLayer(down, torch.full((2, len(down)), start), torch.ones(5, 2)) if start else PriorLayer(down)
    metadata = PriorMetadata(
        name="mugs", family="flux", base_fingerprint="f", domain="products", r_meta=len(down), r_mid=2
    )
    return Prior({"a.qkv": layer}, metadata)


def inspected(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *words])
    assert not ended.value.code


def test_the_same_directions_in_another_basis_are_shared_whole() -> None:
    found = compare_priors(prior_of(slice(0, RANK)), prior_of(slice(0, RANK), mixed=True))
    assert found.overlap["a.qkv"] == pytest.approx(1)
    assert found.by_chance["a.qkv"] == pytest.approx(RANK / WIDTH)
    assert found.differing == {}


def test_directions_that_only_one_has_are_not_shared() -> None:
    half = compare_priors(prior_of(slice(0, 4)), prior_of(slice(2, 6)))
    none = compare_priors(prior_of(slice(0, 4)), prior_of(slice(4, 8)))
    assert (half.overlap["a.qkv"], none.overlap["a.qkv"]) == (pytest.approx(0.5), pytest.approx(0))


def test_opposite_starts_have_cosine_minus_one_and_no_start_has_none() -> None:
    up, down, cold = (prior_of(slice(0, RANK), start=start) for start in (1.0, -2.0, 0.0))
    assert compare_priors(up, down).start["a.qkv"] == pytest.approx(-1)
    assert compare_priors(up, cold).start == {}


def test_layers_of_one_alone_are_named() -> None:
    both = prior_of(slice(0, RANK))
    more = Prior({**both.layers, "b.qkv": PriorLayer(torch.eye(RANK))}, both.metadata)
    assert compare_priors(both, more).only_second == ("b.qkv",)


def test_the_command_compares_two_priors_and_shows_names_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prior_of(slice(0, RANK))
    second = Prior(first.layers, first.metadata.model_copy(update={"name": "\x1b[31mred", "domain": "faces"}))
    for name, prior in (("a", first), ("b", replace(second))):
        save_prior(tmp_path / f"{name}.safetensors", prior)
    files = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    inspected(*files)
    shown = capsys.readouterr().out
    assert "domain: products and faces" in shown
    assert "\x1b" not in shown
    inspected(*files, "--json")
    assert json.loads(capsys.readouterr().out)["comparison"]["overlap"] == {"a.qkv": pytest.approx(1)}
