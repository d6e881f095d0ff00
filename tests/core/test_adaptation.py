"""Laws of stage 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core.toy_host import ToyHost, ToySubjects
from torch import Tensor

from metalora_core.adaptation import adapt
from metalora_core.errors import (
    IncompatibleBaseModel,
    InvalidOptions,
    MissingDependency,
    TrainingCancelled,
    TrainingDiverged,
    UnusableReferences,
)
from metalora_core.files.identity import Identity, chain_factors, load_identity, save_identity
from metalora_core.files.prior import Prior
from metalora_core.inject import Injection
from metalora_core.meta_training import meta_train
from metalora_core.model.objective import EpsObjective, VObjective, scaled_linear_alphas
from metalora_core.photos.training_set import TrainingSet
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.meta_options import MetaTrainingOptions
from metalora_core.training.optimizers import make_optimizer
from metalora_core.training.progress import AdaptationProgress
from metalora_core.training.retries import last_good_saved

OPTIONS = AdaptationOptions(
    steps=30, read_every=5, checkpoint_every=10, mid_learning_rate=1e-2, up_learning_rate=1e-2, seed=3
)


@pytest.fixture(scope="module")
def prior() -> Prior:
    options = MetaTrainingOptions(
        steps=20, subjects_per_batch=3, r_meta=6, r_mid=2, inner_steps=1, warm_start="learned"
    )
    return meta_train(ToyHost(), ToySubjects(), options)


def photos(count: int = 3, side: int = 8) -> TrainingSet:
    generator = torch.Generator().manual_seed(5)
    images = tuple(torch.rand(3, side, side, generator=generator) for _ in range(count))
    captions = tuple(f"photo of a ohwx blob, looking left, view {i}" for i in range(count))
    return TrainingSet(images, captions, "blob", "ohwx", tuple(f"{i:064x}" for i in range(count)))


def tensors(identity: Identity) -> list[Tensor]:
    return [f for name in sorted(identity.layers) for f in (identity.layers[name].mid, identity.layers[name].up)]


def raise_at(step: int, what: BaseException):
    def stop(progress: AdaptationProgress) -> None:
        if progress.step == step:
            raise what

    return stop


def same(a: Identity, b: Identity) -> bool:
    pairs = zip(tensors(a), tensors(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs) and a.metadata == b.metadata


VARIANTS = {
    "warm": OPTIONS,
    "cold": replace(OPTIONS, start="cold", r_mid=3),
    "augmented": replace(OPTIONS, batch_size=2, flip=True, crop_px=1),
    "held out": replace(OPTIONS, hold_out=True, early_stop_patience=2, validate_every=5),
    "preserving": replace(OPTIONS, preservation_weight=0.5, preservation_pictures=2, preview_steps=2, preview_every=10),
    "adam": replace(OPTIONS, optimizer="adam", weight_decay=0.1),
    "sgd": replace(OPTIONS, optimizer="sgd", mid_learning_rate=0.1),
    "prodigy": replace(OPTIONS, optimizer="prodigy", mid_learning_rate=1.0, up_learning_rate=1.0),
    "schedulefree": replace(OPTIONS, optimizer="schedulefree_adamw"),
}


def skip_without_extra(name: str) -> None:
    package = {"prodigy": "prodigyopt", "schedulefree": "schedulefree"}.get(name)
    if package:
        pytest.importorskip(package)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("interruption", [TrainingCancelled("enough"), KeyboardInterrupt()], ids=["cancel", "ctrl-c"])
def test_stopped_and_resumed_ends_bit_identical_to_unbroken(variant, interruption, prior: Prior, tmp_path: Path):
    skip_without_extra(variant)
    path, options = tmp_path / "run.safetensors", VARIANTS[variant]
    unbroken = adapt(ToyHost(), prior, photos(), options)
    with pytest.raises(type(interruption)):
        adapt(ToyHost(), prior, photos(), options, on_progress=raise_at(5, interruption), checkpoint=path)
    seen: list[int] = []
    resumed = adapt(ToyHost(), prior, photos(), options, on_progress=lambda p: seen.append(p.step), checkpoint=path)
    assert seen[0] == 10
    assert same(unbroken.identity, resumed.identity)
    assert (unbroken.losses, unbroken.validation_losses) == (resumed.losses, resumed.validation_losses)
    assert unbroken.stop_reason == resumed.stop_reason


def test_interrupted_inside_a_step_keeps_the_last_look(prior: Prior, tmp_path: Path):
    class Impatient(ToyHost):
        calls = 0

        def predict(self, noisy, t, conditioning):
            self.calls += 1
            if self.calls == 13:
                raise KeyboardInterrupt
            return super().predict(noisy, t, conditioning)

    path, host = tmp_path / "run.safetensors", Impatient()
    with pytest.raises(KeyboardInterrupt):
        adapt(host, prior, photos(), OPTIONS, checkpoint=path)
    assert not any(module._forward_hooks for module in host.model.modules())
    resumed = adapt(ToyHost(), prior, photos(), OPTIONS, checkpoint=path)
    assert same(resumed.identity, adapt(ToyHost(), prior, photos(), OPTIONS).identity)


@pytest.mark.parametrize("objective", [None, EpsObjective(scaled_linear_alphas()), VObjective(scaled_linear_alphas())])
def test_learns_under_every_objective_and_leaves_the_host_as_it_was(objective, prior: Prior):
    host = ToyHost(objective=objective)
    state = {name: value.clone() for name, value in host.model.state_dict().items()}
    options = replace(OPTIONS, steps=150, mid_learning_rate=3e-2, up_learning_rate=3e-2, validate_every=5)
    options = replace(options, early_stop_patience=0, validation_samples=32)
    result = adapt(host, prior, photos(1), options, validation=photos(1))
    assert len(result.losses) == 150
    assert result.validation_losses[-1][1] < 0.97 * result.validation_losses[0][1]
    assert all(torch.equal(value, state[name]) for name, value in host.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in host.model.parameters())


def test_photos_and_captions_are_encoded_once(prior: Prior):
    host = ToyHost()
    adapt(host, prior, photos(3), OPTIONS)
    assert host.pictures_encoded == 3 and host.prompts_encoded == 3


def test_base_gets_no_gradient_while_learning(prior: Prior):
    host, worst = ToyHost(), []
    adapt(host, prior, photos(), OPTIONS, on_progress=lambda _: worst.extend(p.grad for p in host.model.parameters()))
    assert worst and all(gradient is None for gradient in worst)


def test_cold_start_of_no_steps_is_the_base_and_warm_start_is_the_prior(prior: Prior):
    still = replace(OPTIONS, steps=1, mid_learning_rate=0.0, up_learning_rate=0.0)
    cold = adapt(ToyHost(), prior, photos(), replace(still, start="cold"))
    assert not any(layer.up.any() for layer in cold.identity.layers.values())
    warm = adapt(ToyHost(), prior, photos(), still)
    assert all(torch.equal(layer.up, prior.layers[n].up_init) for n, layer in warm.identity.layers.items())
    host = ToyHost()
    arguments = torch.randn(1, 4, 4, 4), torch.tensor([0.5]), host.encode_prompts(["a blob"])
    with torch.no_grad():
        before = host.predict(*arguments)
        with Injection(host.model, host.targets(), chain_factors(cold.identity, prior)):
            assert torch.equal(host.predict(*arguments), before)


def test_step_sizes_of_an_earlier_release_are_left_alone_and_said(prior: Prior, caplog: pytest.LogCaptureFixture):
    layers = {name: replace(layer, step_size=torch.tensor([0.0, 0.5])) for name, layer in prior.layers.items()}
    sized = adapt(ToyHost(), replace(prior, layers=layers), photos(), OPTIONS)
    assert caplog.messages == ["The step sizes in the prior are ignored: learning them did not help."]
    plain = adapt(ToyHost(), prior, photos(), OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(tensors(sized.identity), tensors(plain.identity), strict=True))


def test_same_seed_twice_is_equal_and_another_is_not(prior: Prior):
    first = adapt(ToyHost(), prior, photos(), OPTIONS).identity
    assert same(first, adapt(ToyHost(), prior, photos(), OPTIONS).identity)
    assert not same(first, adapt(ToyHost(), prior, photos(), replace(OPTIONS, seed=4)).identity)


def test_early_stop_keeps_the_best_state(prior: Prior):
    options = replace(VARIANTS["held out"], steps=200, mid_learning_rate=0.3, up_learning_rate=0.3)
    result = adapt(ToyHost(), prior, photos(), options)
    best = min(result.validation_losses, key=lambda pair: pair[1])[0]
    assert result.stop_reason == f"no improvement on the held-out photos since step {best}"
    assert len(result.losses) == best + 10 < 200
    options = replace(options, early_stop_patience=0)
    measured = adapt(ToyHost(), prior, photos(), options)
    assert measured.stop_reason == "finished" and len(measured.losses) == 200


def test_runs_inside_inference_mode_and_the_identity_survives_its_file(prior: Prior, tmp_path: Path):
    host = ToyHost()
    with torch.inference_mode():
        frozen = {n: replace(layer, meta_down=layer.meta_down.clone()) for n, layer in prior.layers.items()}
        result = adapt(host, replace(prior, layers=frozen), photos(), OPTIONS)
    save_identity(tmp_path / "a.safetensors", result.identity)
    assert same(load_identity(tmp_path / "a.safetensors"), result.identity)
    assert result.identity.metadata.photo_hashes == list(photos().photo_hashes)


def test_a_preview_that_fails_is_left_out_and_changes_nothing(prior: Prior):
    class NoPictures(ToyHost):
        def decode_latents(self, latents: Tensor) -> Tensor:
            raise RuntimeError("the decoder does not fit into memory")

    seen: list[AdaptationProgress] = []
    options = replace(OPTIONS, preview_every=10, preview_steps=2)
    learned = adapt(NoPictures(), prior, photos(), options, on_progress=seen.append)
    assert learned.stop_reason == "finished" and all(progress.preview is None for progress in seen)
    plain = adapt(ToyHost(), prior, photos(), replace(options, preview_every=0))
    assert all(map(torch.equal, tensors(learned.identity), tensors(plain.identity)))


def test_progress_tells_loss_and_shows_previews(prior: Prior):
    seen: list[AdaptationProgress] = []
    options = replace(OPTIONS, preview_every=10, preview_steps=2)
    result = adapt(ToyHost(), prior, photos(), options, on_progress=seen.append)
    assert [p.step for p in seen] == [5, 10, 15, 20, 25, 30]
    assert [p.preview is not None for p in seen] == [False, True] * 3
    assert seen[1].preview is not None and seen[1].preview.shape == (3, 8, 8)
    assert seen[0].loss == pytest.approx(sum(result.losses[:5]) / 5)
    plain = adapt(ToyHost(), prior, photos(), replace(options, preview_every=0))
    assert plain.losses == result.losses


def test_nan_stops_with_the_step_and_the_last_good_identity(prior: Prior, tmp_path: Path):
    class Breaking(ToyHost):
        calls = 0

        def predict(self, noisy, t, conditioning):
            self.calls += 1
            return super().predict(noisy, t, conditioning) * (float("nan") if self.calls == 13 else 1)

    path = tmp_path / "run.safetensors"
    with pytest.raises(TrainingDiverged, match="between steps 10 and 15") as found:
        adapt(Breaking(), prior, photos(), OPTIONS, checkpoint=path)
    assert (found.value.step, found.value.last_good_step) == (15, 10)
    assert all(factor.isfinite().all() for factor in tensors(found.value.last_good))
    assert found.value.last_good.metadata.steps == 10
    assert not path.exists()
    kept = tmp_path / "whole.last_good.safetensors"
    with (
        pytest.raises(TrainingDiverged, match=r"up to step 10 is saved as .*whole\.last_good\.safetensors"),
        last_good_saved(tmp_path / "whole.safetensors", save_identity),
    ):
        adapt(Breaking(), prior, photos(), OPTIONS)
    assert same(load_identity(kept), found.value.last_good)


def test_looking_more_often_does_not_make_it_another_run(prior: Prior, tmp_path: Path):
    path, whole = tmp_path / "run.safetensors", adapt(ToyHost(), prior, photos(), OPTIONS)
    with pytest.raises(TrainingCancelled):
        adapt(ToyHost(), prior, photos(), OPTIONS, on_progress=raise_at(10, TrainingCancelled()), checkpoint=path)
    looked = adapt(ToyHost(), prior, photos(), replace(OPTIONS, preview_every=7, preview_steps=2), checkpoint=path)
    assert looked.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(tensors(looked.identity), tensors(whole.identity), strict=True))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 0, "r_mid": -1}, "steps is 0.*r_mid is -1"),
        ({"start": "tepid"}, "tepid"),
        ({"r_mid": 5}, "learned start has rank 2"),
        ({"optimizer": "lion"}, "choose one of adamw"),
        ({"final_rate": 1.5}, "final_rate"),
    ],
)
def test_impossible_options_are_refused_before_work(change, words: str, prior: Prior):
    host = ToyHost()
    with pytest.raises(InvalidOptions, match=words):
        adapt(host, prior, photos(), replace(OPTIONS, **change))
    assert host.pictures_encoded == 0


@pytest.mark.parametrize(
    "training_set, words",
    [
        (replace(photos(), images=(), captions=()), "no photo"),
        (replace(photos(), captions=("one",)), "3 photos but 1 captions"),
        (replace(photos(1), images=(torch.rand(3, 8, 7),)), "divisible by 2"),
        (replace(photos(1), images=(torch.full((3, 8, 8), float("nan")),)), "outside 0..1"),
        (replace(photos(2), images=(torch.rand(3, 8, 8), torch.rand(3, 6, 8))), "differ in size"),
    ],
)
def test_unusable_photos_are_refused(training_set: TrainingSet, words: str, prior: Prior):
    with pytest.raises(UnusableReferences, match=words):
        adapt(ToyHost(), prior, training_set, replace(OPTIONS, batch_size=2))


def test_prior_of_another_model_and_checkpoint_of_another_run_are_refused(prior: Prior, tmp_path: Path):
    strange = replace(prior, layers={"double_blocks.0.img_attn.qkv": prior.layers["conv"]})
    with pytest.raises(IncompatibleBaseModel):
        adapt(ToyHost(), strange, photos(), OPTIONS)
    path = tmp_path / "run.safetensors"
    adapt(ToyHost(), prior, photos(), OPTIONS, checkpoint=path)
    with pytest.raises(InvalidOptions, match="other options"):
        adapt(ToyHost(), prior, photos(2), OPTIONS, checkpoint=path)


def test_a_layer_that_is_not_there_is_refused_and_no_checkpoint_is_left(prior: Prior, tmp_path: Path):
    host, path = ToyHost(), tmp_path / "run.safetensors"
    del host.model.conv
    with pytest.raises(IncompatibleBaseModel, match="applied 2 of 3 targets; missing: conv"):
        adapt(host, prior, photos(), OPTIONS, checkpoint=path)
    assert not path.exists()


def test_missing_optimizer_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(MissingDependency, match="pip install prodigyopt"):
        make_optimizer("prodigy", [{"params": [torch.zeros(1, requires_grad=True)], "lr": 1.0}])
