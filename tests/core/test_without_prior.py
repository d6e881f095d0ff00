"""Laws of learning without a prior: the identity is a normal one that carries its own meta_down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core.test_adaptation import OPTIONS, photos, raise_at
from core.test_files import make_identity, make_prior
from core.toy_host import ToyHost

from metalora_core.adaptation import adapt
from metalora_core.applying import apply_identity
from metalora_core.errors import TrainingCancelled, UnreadableFile
from metalora_core.files.atomic import atomic_save_safetensors
from metalora_core.files.bounded import read_safetensors
from metalora_core.files.export import export_lora, fold_identity
from metalora_core.files.identity import (
    Identity,
    IdentityLayer,
    chain_factors,
    load_identity,
    own_prior,
    save_identity,
    self_contained,
)
from metalora_core.files.inspection import describe_file
from metalora_core.files.prior import Prior
from metalora_core.model.targets import choose_targets, fingerprint
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.personal_prior import personal_prior, usual_options
from metalora_core.training.step_preset import without_prior


def learn(seed: int = 3, **more: object) -> Identity:
    return adapt(ToyHost(), None, photos(), replace(OPTIONS, seed=seed), **more).identity  # type: ignore[arg-type]


def own(identity: Identity) -> Prior:
    found = own_prior(identity)
    assert found is not None
    return found


def deltas(identity: Identity) -> dict[str, torch.Tensor]:
    return {name: chain.delta() for name, chain in chain_factors(identity, own(identity)).items()}


def test_the_photos_are_learned() -> None:
    result = adapt(ToyHost(), None, photos(), replace(OPTIONS, steps=120))
    assert sum(result.losses[-20:]) < 0.9 * sum(result.losses[:20])
    assert all(float(delta.abs().max()) > 0 for delta in deltas(result.identity).values())


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (save_identity(tmp_path / f"{n}.safetensors", learn(s)) for n, s in enumerate((3, 3, 4)))
    assert first == again != other


def test_stopped_and_resumed_ends_bit_identical_to_unbroken(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(TrainingCancelled):
        learn(on_progress=raise_at(10, TrainingCancelled("enough")), checkpoint=path)
    assert path.exists()
    resumed = save_identity(tmp_path / "resumed.safetensors", learn(checkpoint=path))
    assert resumed == save_identity(tmp_path / "unbroken.safetensors", learn())


def test_saved_loaded_applied_and_exported_it_is_the_same_delta(tmp_path: Path) -> None:
    learned = learn()
    save_identity(tmp_path / "a.safetensors", learned)
    loaded = load_identity(tmp_path / "a.safetensors")
    assert loaded.metadata == learned.metadata
    assert save_identity(tmp_path / "b.safetensors", loaded) == save_identity(tmp_path / "a.safetensors", learned)
    wanted = deltas(learned)
    assert all(torch.equal(delta, wanted[name]) for name, delta in deltas(loaded).items())
    export_lora(tmp_path / "lora.safetensors", loaded, own(loaded))
    lora = read_safetensors(tmp_path / "lora.safetensors")
    assert "without a prior" in lora.metadata["modelspec.description"]
    for layer in fold_identity(loaded, own(loaded)):
        key = f"diffusion_model.{layer.name}.lora_"
        assert torch.equal(lora.tensors[f"{key}down.weight"], layer.down)
        assert torch.equal(lora.tensors[f"{key}up.weight"].flatten(1), layer.up)
        folded = (layer.scale * layer.up @ layer.down.flatten(1)).view_as(wanted[layer.name])
        torch.testing.assert_close(folded, wanted[layer.name])


def test_folding_the_run_s_prior_away_changes_no_delta() -> None:
    host, generator = ToyHost(), torch.Generator().manual_seed(2)
    prior = personal_prior(host, host.targets(), AdaptationOptions(r_mid=3))
    layers = {
        t.name: IdentityLayer(
            torch.randn(3, prior.layers[t.name].r_meta, generator=generator),
            torch.randn(t.shape[0], 3, generator=generator),
        )
        for t in host.targets()
    }
    learned = Identity(layers, make_identity(prior).metadata)
    before = {name: chain.delta() for name, chain in chain_factors(learned, prior).items()}
    after = deltas(self_contained(learned, prior))
    assert all(torch.allclose(after[name], delta, atol=1e-5) for name, delta in before.items())


def test_applied_it_changes_the_model_and_leaves_without_a_trace() -> None:
    host, learned = ToyHost(), learn()
    noisy, text = torch.randn(1, 4, 4, 4), host.encode_prompts(["photo of a ohwx blob"])
    before = host.predict(noisy, torch.tensor([0.5]), text)
    with apply_identity(host, learned, own(learned)) as coverage:
        assert coverage.applied == coverage.total == len(host.targets())
        assert not torch.equal(host.predict(noisy, torch.tensor([0.5]), text), before)
    assert torch.equal(host.predict(noisy, torch.tensor([0.5]), text), before)


def test_the_directions_are_orthonormal_and_as_many_as_a_layer_has_inputs() -> None:
    host = ToyHost()
    for name, layer in personal_prior(host, host.targets(), AdaptationOptions()).layers.items():
        rows = layer.meta_down.flatten(1)
        assert len(rows) == min(64, rows.shape[1]), name
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)))


def test_an_identity_learned_with_a_prior_has_none_of_its_own_and_keeps_its_bytes(tmp_path: Path) -> None:
    identity = make_identity(make_prior())
    assert own_prior(identity) is None
    save_identity(tmp_path / "a.safetensors", identity)
    assert "own_prior" not in read_safetensors(tmp_path / "a.safetensors").metadata["metalora"]


def test_inspection_tells_that_it_has_its_own_prior(tmp_path: Path) -> None:
    save_identity(tmp_path / "a.safetensors", learn())
    described = describe_file(tmp_path / "a.safetensors")
    assert described.made["prior_name"] == described.made["own_prior"]["name"] == "none"
    assert all("meta_down" in factors for factors in described.layers.values())


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((5, 12), "meta_down (5, 12)"),
        ((8,), "meta_down (8,)"),
        ((8, 12, 3), "meta_down (8, 12, 3)"),
        ((8, 0), "meta_down (8, 0)"),
        (None, "mid, up and meta_down are needed"),
    ],
)
def test_a_meta_down_that_does_not_fit_is_refused(shape: tuple[int, ...] | None, told: str, tmp_path: Path) -> None:
    save_identity(tmp_path / "a.safetensors", learn())
    file = read_safetensors(tmp_path / "a.safetensors")
    tensors = dict(file.tensors)
    if shape is None:
        del tensors["attn.proj.meta_down"]
    else:
        tensors["attn.proj.meta_down"] = torch.zeros(shape)
    atomic_save_safetensors(tmp_path / "b.safetensors", tensors, dict(file.metadata))
    with pytest.raises(UnreadableFile, match="not a valid identity") as refused:
        load_identity(tmp_path / "b.safetensors")
    assert "attn.proj" in str(refused.value) and told in str(refused.value)


def test_a_meta_down_without_its_record_is_refused(tmp_path: Path) -> None:
    identity = make_identity(make_prior())
    layers = {n: replace(layer, meta_down=torch.ones(layer.mid.shape[1], 4)) for n, layer in identity.layers.items()}
    with pytest.raises(UnreadableFile, match="unknown tensor"):
        save_identity(tmp_path / "a.safetensors", replace(identity, layers=layers))


def test_the_preset_knows_its_base_and_elsewhere_the_rate_finds_itself() -> None:
    from metalora_core.pocket import load_pocket_host, load_pocket_prior

    host, shipped = load_pocket_host(), load_pocket_prior("avatars")
    targets = choose_targets(host.targets(), list(shipped.layers))
    assert fingerprint(targets) == shipped.metadata.base_fingerprint
    asked = AdaptationOptions(seed=9)
    alone = usual_options(host, None, 1, asked)
    assert alone == without_prior(shipped.metadata.base_fingerprint, asked)
    assert alone.steps > usual_options(host, shipped, 1, asked).steps
    elsewhere = usual_options(ToyHost(), None, 1, asked)
    assert (elsewhere.steps, elsewhere.learning_rate, elsewhere.seed) == (625, "auto", 9)
