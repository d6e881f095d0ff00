"""A folded export is the chain, whoever loads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_hosts import latents_for, timesteps_for
from core.tiny_models import MODELS, conditioning_for, tiny_unet

from metalora_core.errors import IncompatibleBaseModel, InvalidOptions
from metalora_core.files.bounded import read_safetensors
from metalora_core.files.export import export_lora, fold_identity
from metalora_core.files.identity import Identity, IdentityLayer, IdentityMetadata, chain_factors
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata, prior_sha256
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.hosts.target_map import layout_targets
from metalora_core.inject import Injection
from metalora_core.model.families import default_patterns
from metalora_core.model.targets import choose_targets

# SD1.5 and SDXL also get convolutions: what users of a UNet LoRA call LoCon.
EXTRA = {"sd15": ("*.in_layers.2", "*.skip_connection"), "sdxl": ("*.emb_layers.1", "*.0.op")}


def learned(name: str, r_meta: int = 6, r_mid: int = 3) -> tuple[DiffusersHost, Prior, Identity]:
    """A host, a prior and an identity with random factors of unequal ranks."""
    return learned_on(DiffusersHost(MODELS[name]()), EXTRA.get(name, ()), r_meta, r_mid)


def learned_on(
    host: DiffusersHost, extra: tuple[str, ...] = (), r_meta: int = 6, r_mid: int = 3
) -> tuple[DiffusersHost, Prior, Identity]:
    """The same on a host that is there."""
    chosen = choose_targets(host.targets(), (*default_patterns(host.family), *extra))
    generator = torch.Generator().manual_seed(4)
    ranks = {target.name: r_mid + i % 2 * r_meta for i, target in enumerate(chosen)}  # some above r_meta, some below
    prior = Prior(
        {t.name: PriorLayer(torch.randn(r_meta, *t.shape[1:], generator=generator) * 0.1) for t in chosen},
        PriorMetadata(
            name="p", family=host.family, base_fingerprint="0" * 64, domain="mugs", r_meta=r_meta, r_mid=r_mid,
            scale=0.6, license="MIT",
        ),
    )  # fmt: skip
    layers = {
        t.name: IdentityLayer(
            torch.randn(ranks[t.name], r_meta, generator=generator) * 0.5,
            torch.randn(t.shape[0], ranks[t.name], generator=generator) * 0.1,
        )
        for t in chosen
    }
    metadata = IdentityMetadata(
        prior_sha256=prior_sha256(prior), prior_name="p", base_fingerprint="0" * 64, family=host.family,
        trigger="ohwx", class_word="mug",
    )  # fmt: skip
    return host, prior, Identity(layers, metadata)


def pipeline_around(name: str, model: Any) -> Any:
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    none = dict.fromkeys(["vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
    if name == "flux":
        return diffusers.FluxPipeline(scheduler=scheduler, transformer=model, **none)  # type: ignore[arg-type]
    if name == "sd3":
        none |= {"text_encoder_3": None, "tokenizer_3": None}
        return diffusers.StableDiffusion3Pipeline(scheduler=scheduler, transformer=model, **none)  # type: ignore[arg-type]
    if name == "sdxl":
        return diffusers.StableDiffusionXLPipeline(scheduler=diffusers.DDIMScheduler(), unet=model, **none)  # type: ignore[arg-type]
    del none["text_encoder_2"], none["tokenizer_2"]
    none |= {"safety_checker": None, "feature_extractor": None}
    scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    return diffusers.StableDiffusionPipeline(
        scheduler=scheduler, unet=model, requires_safety_checker=False, **none  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("flux", "diffusers"),
        ("sd3", "diffusers"),
        ("sd15", "diffusers"),
        ("sdxl", "diffusers"),
        ("sd15", "kohya"),
        ("sdxl", "kohya"),
    ],
)
def test_an_export_through_load_lora_weights_equals_the_chain(tmp_path: Path, name: str, layout: Any) -> None:
    host, prior, identity = learned(name)
    noisy, t, conditioning = latents_for(host), timesteps_for(host), conditioning_for(name)
    export_lora(tmp_path / "lora.safetensors", identity, prior, layout, host.targets(), strength=0.8)
    with torch.no_grad():
        base = host.predict(noisy, t, conditioning)
        with Injection(host.model, host.targets(), chain_factors(identity, prior, strength=0.8)):
            chained = host.predict(noisy, t, conditioning)
        pipeline_around(name, host.model).load_lora_weights(tmp_path, weight_name="lora.safetensors")
        loaded = host.predict(noisy, t, conditioning)
    assert (base - chained).abs().max() > 1e-3
    torch.testing.assert_close(loaded, chained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["comfyui", "kohya"])
@pytest.mark.parametrize("name", list(MODELS))
def test_exported_tensors_multiply_to_the_chain(tmp_path: Path, name: str, layout: Any) -> None:
    _, prior, identity = learned(name)
    export_lora(tmp_path / "l.safetensors", identity, prior, layout)
    tensors = read_safetensors(tmp_path / "l.safetensors").tensors
    assert len(tensors) == 3 * len(identity.layers)
    for target, chain in chain_factors(identity, prior).items():
        key = f"diffusion_model.{target}" if layout == "comfyui" else f"lora_unet_{target.replace('.', '_')}"
        down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
        assert down.shape[0] == up.shape[1] == (min(chain.mid.shape) if layout == "comfyui" else 6)
        delta = tensors[f"{key}.alpha"] / down.shape[0] * (up.flatten(1) @ down.flatten(1))
        torch.testing.assert_close(delta.reshape(chain.delta().shape), chain.delta(), rtol=1e-5, atol=1e-6)


def test_no_key_is_called_lora_mid(tmp_path: Path) -> None:
    host, prior, identity = learned("sd15")
    for layout in ("comfyui", "kohya", "diffusers"):
        export_lora(tmp_path / "l.safetensors", identity, prior, layout, host.targets())
        assert not any("lora_mid" in key for key in read_safetensors(tmp_path / "l.safetensors").tensors)


def test_metadata_follows_model_spec_and_names_the_trigger(tmp_path: Path) -> None:
    _, prior, identity = learned("flux")
    first = export_lora(tmp_path / "a.safetensors", identity, prior)
    file = read_safetensors(tmp_path / "a.safetensors")
    assert file.metadata["modelspec.trigger_phrase"] == "ohwx mug"
    assert identity.metadata.prior_sha256 in file.metadata["modelspec.description"]
    assert export_lora(tmp_path / "b.safetensors", identity, prior) == first


@pytest.mark.parametrize(("width", "architecture"), [(3072, "flux-1-dev/lora"), (128, "flux/lora")])
def test_only_a_model_as_wide_as_the_published_one_is_called_by_its_name(
    tmp_path: Path, width: int, architecture: str
) -> None:
    """The pocket model is a Flux too, but no loader of FLUX.1 can use what was learned on it."""
    _, prior, identity = learned("flux")
    prior = Prior({name: PriorLayer(torch.zeros(6, width)) for name in prior.layers}, prior.metadata)
    identity = replace(identity, metadata=identity.metadata.model_copy(update={"prior_sha256": prior_sha256(prior)}))
    export_lora(tmp_path / "a.safetensors", identity, prior)
    assert read_safetensors(tmp_path / "a.safetensors").metadata["modelspec.architecture"] == architecture


def test_strength_is_linear_in_the_fold() -> None:
    _, prior, identity = learned("flux")
    for one, two in zip(fold_identity(identity, prior, 0.3), fold_identity(identity, prior, 0.6), strict=True):
        assert torch.equal(one.down, two.down) and two.scale == pytest.approx(2 * one.scale)


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    _, prior, identity = learned("flux")
    sizes: list[int] = []
    for dtype in (torch.float32, torch.bfloat16):
        export_lora(tmp_path / "l.safetensors", identity, prior, dtype=dtype)
        sizes.append(
            sum(v.numel() * v.element_size() for v in read_safetensors(tmp_path / "l.safetensors").tensors.values())
        )
    assert sizes[0] == 2 * sizes[1]


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    host, prior, identity = learned("flux")
    with pytest.raises(InvalidOptions, match="needs the base model's targets"):
        export_lora(tmp_path / "l.safetensors", identity, prior, "diffusers")
    with pytest.raises(InvalidOptions, match="comfyui, kohya, diffusers"):
        export_lora(tmp_path / "l.safetensors", identity, prior, "webui")  # type: ignore[arg-type]
    with pytest.raises(IncompatibleBaseModel, match="not in the given model"):
        export_lora(tmp_path / "l.safetensors", identity, prior, "diffusers", host.targets()[:3])
    assert not list(tmp_path.iterdir())


def test_sdxl_in_kohyas_layout_has_the_names_of_its_checkpoint_and_loads(tmp_path: Path) -> None:
    host, prior, identity = learned_on(DiffusersHost(tiny_unet(sdxl=True, context=2048)))
    export_lora(tmp_path / "l.safetensors", identity, prior, "kohya", layout_targets("kohya", identity, prior))
    file = read_safetensors(tmp_path / "l.safetensors")
    assert any(key.startswith("lora_unet_input_blocks_") for key in file.tensors)
    assert file.metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    noisy, t = latents_for(host), timesteps_for(host)
    conditioning = conditioning_for("sdxl") | {"context": torch.randn(2, 5, 2048)}
    with torch.no_grad():
        with Injection(host.model, host.targets(), chain_factors(identity, prior)):
            chained = host.predict(noisy, t, conditioning)
        pipeline_around("sdxl", host.model).load_lora_weights(tmp_path, weight_name="l.safetensors")
        torch.testing.assert_close(host.predict(noisy, t, conditioning), chained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(MODELS))
def test_names_for_diffusers_need_no_model(name: str) -> None:
    host, prior, identity = learned(name)
    found = layout_targets("diffusers", identity, prior)
    by_name = {target.name: target for target in host.targets()}
    assert found is not None and [by_name[target.name] for target in found] == list(found)
    unknown = Prior(prior.layers, prior.metadata.model_copy(update={"family": "new"}))
    with pytest.raises(InvalidOptions, match="not known here"):
        layout_targets("diffusers", identity, unknown)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_finite_factors_with_a_product_beyond_the_dtype_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    _, prior, identity = learned("flux")
    large = 1e3 if dtype == torch.float16 else 1e30
    layers = {name: IdentityLayer(layer.mid * large, layer.up * large) for name, layer in identity.layers.items()}
    for layout in ("comfyui", "kohya"):
        with pytest.raises(InvalidOptions, match="too large for float"):
            export_lora(tmp_path / "l.safetensors", Identity(layers, identity.metadata), prior, layout, dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_metadata_has_what_lora_managers_show(tmp_path: Path) -> None:
    _, prior, identity = learned("flux")
    known = prior.metadata.model_copy(update={"training": {"picture_px": 512}, "base_name": "FLUX.1-dev"})
    prior = Prior(prior.layers, known)
    identity = Identity(identity.layers, identity.metadata.model_copy(update={"prior_sha256": prior_sha256(prior)}))
    export_lora(tmp_path / "l.safetensors", identity, prior, author="Ada", thumbnail=b"jpeg")
    found = read_safetensors(tmp_path / "l.safetensors").metadata
    assert found["modelspec.resolution"] == "512x512" and found["ss_sd_model_name"] == "FLUX.1-dev"
    assert found["modelspec.author"] == "Ada" and found["modelspec.license"] == "MIT"
    assert found["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert "ohwx mug" in found["ss_tag_frequency"] and found["ss_base_model_version"] == "flux"
