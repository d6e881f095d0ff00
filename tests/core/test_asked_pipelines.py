"""Families without code of their own: what their pipeline tells is how the pipeline itself works."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_export import learned_on
from core.test_hosts import random_chains, to_original_names
from core.tiny_pipelines import ASKED, flux1, sd35
from torch import Tensor, nn

from metalora_core.commands.loading import load_base_model
from metalora_core.errors import IncompatibleBaseModel, InvalidOptions
from metalora_core.files.atomic import atomic_save_safetensors
from metalora_core.files.export import export_lora
from metalora_core.files.identity import chain_factors
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.hosts.load import host_of_pipeline, load_diffusers_host
from metalora_core.hosts.pipeline_calls import PipelineCalls
from metalora_core.hosts.target_map import layout_targets
from metalora_core.inject import Injection
from metalora_core.model.families import default_patterns
from metalora_core.model.targets import Target, choose_targets

NAMES = list(ASKED)
PROMPTS = ["a photo of ohwx mug", "a red mug on the table"]


@lru_cache(maxsize=1)
def pipeline_and_host(name: str) -> tuple[Any, DiffusersHost]:
    pipeline = ASKED[name]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, host_of_pipeline(pipeline)


def chosen_of(host: DiffusersHost) -> tuple[Target, ...]:
    return choose_targets(host.targets(), default_patterns(host.family))


def noisy_for(host: DiffusersHost, batch: int = 2) -> Tensor:
    return torch.randn(batch, host.latent_channels, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", NAMES)
def test_walking_the_pipelines_noise_levels_draws_the_pipelines_picture(name: str) -> None:
    pipeline, host = pipeline_and_host(name)
    side = 64 if host.downscale > 4 else 32
    unguided = {"guidance_scale": 0.0 if name in ("krea2", "zimage") else 1.0} if name != "qwenimage" else {}
    wanted = pipeline(
        prompt=PROMPTS[0], height=side, width=side, num_inference_steps=3, output_type="pt",
        generator=torch.Generator().manual_seed(5), **unguided,
    ).images  # fmt: skip
    levels = pipeline.scheduler.sigmas
    shape = (1, host.latent_channels, side // host.downscale, side // host.downscale)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * levels[0]
    conditioning = host.encode_prompts(PROMPTS[:1])
    with torch.no_grad():
        for now, then in pairwise(levels):
            x = x + (then - now) * host.predict(x, now.view(1), conditioning)
    torch.testing.assert_close(host.decode_latents(x), wanted, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_goes_to_latents_and_back_as_through_the_autoencoder_alone(name: str) -> None:
    pipeline, host = pipeline_and_host(name)
    pictures = torch.rand(2, 3, 64, 48)
    frames = pictures * 2 - 1
    frames = frames if name not in ("qwenimage", "krea2") else frames.unsqueeze(2)
    with torch.no_grad():
        wanted = pipeline.vae.decode(pipeline.vae.encode(frames).latent_dist.mode()).sample
        wanted = ((wanted if wanted.dim() == 4 else wanted[:, :, 0]) / 2 + 0.5).clamp(0, 1)
    latents = host.encode_images(pictures)
    assert latents.shape == (2, host.latent_channels, 64 // host.downscale, 48 // host.downscale)
    torch.testing.assert_close(host.decode_latents(latents), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_default_targets_are_the_linears_of_repeated_blocks_that_see_tokens(name: str) -> None:
    _, host = pipeline_and_host(name)
    seen: dict[str, int] = {}

    def note(path: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(path, inputs[0].numel() // inputs[0].shape[-1])

    hooks = [
        module.register_forward_hook(note(path))
        for path, module in host.model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        host.predict(noisy_for(host, 1), torch.tensor([0.5]), host.encode_prompts(PROMPTS[:1]))
    for hook in hooks:
        hook.remove()
    # A guidance layer sees one row per modulation, and a text fusion is no part of the denoiser proper.
    other = re.compile("distilled_guidance|text_fusion")
    blocks = {
        path for path, rows in seen.items() if rows > 1 and re.search(r"\.\d+\.", path) and not other.search(path)
    }
    assert {part.module for target in chosen_of(host) for part in target.parts} == blocks


@pytest.mark.parametrize("name", NAMES)
def test_two_identities_in_one_pass_are_a_pass_for_each(name: str) -> None:
    _, host = pipeline_and_host(name)
    targets, noisy, t = chosen_of(host), noisy_for(host), torch.tensor([0.3, 0.8])
    conditioning = host.encode_prompts(PROMPTS[:1] * 2)
    assert host.passes(conditioning) == [[0, 1]]
    ones, both = [random_chains(targets, seed) for seed in (3, 4)], random_chains(targets, 3)
    for key, chain in both.items():
        ones[1][key].meta_down = chain.meta_down
        chain.mid, chain.up = (torch.stack([getattr(one[key], part) for one in ones]) for part in ("mid", "up"))
    apart: list[Tensor] = []
    with torch.no_grad():
        for row, chains in enumerate(ones):
            alone = {"caption": conditioning["caption"][row : row + 1]}
            with Injection(host.model, targets, chains):
                apart.append(host.predict(noisy[row : row + 1], t[row : row + 1], alone))
        with Injection(host.model, targets, both):
            together = host.predict(noisy, t, conditioning)
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_prompts_of_two_lengths_equal_float64(name: str) -> None:
    pipeline = ASKED[name]()

    def gradients(dtype: torch.dtype, checkpointing: bool) -> list[Tensor]:
        pipeline.transformer.to(dtype)
        host = host_of_pipeline(pipeline)
        host.checkpointing = checkpointing
        targets = chosen_of(host)
        chains = random_chains(targets)
        for chain in chains.values():
            chain.meta_down = chain.meta_down.to(dtype)
            chain.mid, chain.up = (part.to(dtype).requires_grad_() for part in (chain.mid, chain.up))
        with host.training(), Injection(host.model, targets, chains):
            noisy, t = noisy_for(host).to(dtype), torch.tensor([0.3, 0.8])
            host.predict(noisy, t, host.encode_prompts(PROMPTS)).square().mean().backward()
        found = [part.grad for chain in chains.values() for part in (chain.mid, chain.up)]
        return [grad.double().flatten() for grad in found if grad is not None]

    rounded, exact = gradients(torch.float32, True), gradients(torch.float64, False)
    dead = 0
    for a, b in zip(exact, rounded, strict=True):
        dead += not bool(a.any())
        assert not a.any() or torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.9999
    assert dead <= len(exact) // 4  # the text half of a last block may be read by nothing


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_and_a_lone_file_beside_it_predict_as_the_pipeline(name: str, tmp_path: Path) -> None:
    pipeline, host = pipeline_and_host(name)
    pipeline.save_pretrained(tmp_path / "pipe")
    atomic_save_safetensors(tmp_path / "alone.safetensors", to_original_names(host.model))
    noisy, t = noisy_for(host), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        wanted = host.predict(noisy, t, host.encode_prompts(PROMPTS))
        for loaded in (
            load_diffusers_host(tmp_path / "pipe"),
            load_diffusers_host(tmp_path / "alone.safetensors", pipeline_config=tmp_path / "pipe"),
        ):
            assert loaded.targets() == host.targets() and loaded.objective.name == "flow"
            found = loaded.predict(noisy, t, loaded.encode_prompts(PROMPTS))
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_through_load_lora_weights_equals_the_chain(name: str, tmp_path: Path) -> None:
    pipeline = ASKED[name]()
    host, prior, identity = learned_on(host_of_pipeline(pipeline))
    named = layout_targets("diffusers", identity, prior)
    assert named == tuple(target for target in host.targets() if target.name in identity.layers)
    export_lora(tmp_path / "lora.safetensors", identity, prior, "diffusers", named)
    noisy, t = noisy_for(host), torch.tensor([0.3, 0.8])
    conditioning = host.encode_prompts(PROMPTS[:1] * 2)
    with torch.no_grad():
        base = host.predict(noisy, t, conditioning)
        with Injection(host.model, host.targets(), chain_factors(identity, prior)):
            chained = host.predict(noisy, t, conditioning)
        pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
        loaded = host.predict(noisy, t, conditioning)
    assert (base - chained).abs().max() > 1e-3
    torch.testing.assert_close(loaded, chained, rtol=1e-3, atol=1e-3)


def test_a_family_with_code_of_its_own_predicts_the_same_when_asked(tmp_path: Path) -> None:
    pipeline = sd35(tmp_path)
    own, asked = host_of_pipeline(pipeline), PipelineCalls(pipeline, "transformer", 1.0)
    noisy, t = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        wanted = own.predict(noisy, t, own.encode_prompts(PROMPTS))
        found = asked.denoise(own.model, noisy, t, asked.encode(PROMPTS))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pictures = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(asked.space.encode(pictures), own.encode_images(pictures), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [flux1, sd35])
def test_a_saved_pipeline_of_a_family_with_code_of_its_own_is_a_whole_host(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    pipeline = make(tmp_path)
    pipeline.save_pretrained(tmp_path / "pipe")
    host, loaded = host_of_pipeline(pipeline), load_diffusers_host(tmp_path / "pipe")
    noisy, t = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        wanted = host.predict(noisy, t, host.encode_prompts(PROMPTS))
        found = loaded.predict(noisy, t, loaded.encode_prompts(PROMPTS))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert loaded.objective == host.objective and loaded.decode_latents(noisy).shape == (2, 3, 64, 64)


def folder_of(tmp_path: Path, pipeline: str, denoiser: str, **config: int) -> Path:
    (tmp_path / "transformer").mkdir()
    index = {"_class_name": pipeline, "transformer": ["diffusers", denoiser], "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("pipeline", "denoiser", "config", "complaint"),
    [
        ("WanPipeline", "WanTransformer3DModel", {}, "is a WanPipeline"),
        ("QwenImageEditPipeline", "QwenImageTransformer2DModel", {}, "Use the QwenImagePipeline"),
        ("FluxFillPipeline", "FluxTransformer2DModel", {"in_channels": 384, "out_channels": 64}, "inpainting"),
    ],
)
def test_what_is_not_supported_is_refused_from_its_index(
    tmp_path: Path, pipeline: str, denoiser: str, config: dict[str, int], complaint: str
) -> None:
    folder = folder_of(tmp_path, pipeline, denoiser, **config)
    began = time.monotonic()
    with pytest.raises(IncompatibleBaseModel, match=complaint):
        load_diffusers_host(folder)
    assert time.monotonic() - began < 1


def test_an_unknown_checkpoint_is_taken_for_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    atomic_save_safetensors(path, {"model.diffusion_model.a.weight": torch.zeros(1), "text_encoders.b": torch.zeros(1)})
    with pytest.raises(IncompatibleBaseModel, match="unknown model; known are"):
        load_diffusers_host(path)


def test_a_whole_checkpoint_asks_no_server_for_its_configuration(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where) or [])
    path = tmp_path / "x.safetensors"
    mark = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    atomic_save_safetensors(path, {mark: torch.zeros(1, 768), "cond_stage_model.x": torch.zeros(1)})
    with pytest.raises(InvalidOptions, match="--pipeline-config FOLDER"):
        load_diffusers_host(path)
    assert asked == []


def test_a_denoiser_alone_is_told_which_options_there_are(tmp_path: Path) -> None:
    atomic_save_safetensors(tmp_path / "flux1-dev.safetensors", {"double_blocks.0.x": torch.zeros(1)})
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    for alone in ("flux1-dev.safetensors", "transformer"):
        with pytest.raises(InvalidOptions, match="add --pipeline-config FOLDER"):
            load_base_model(str(tmp_path / alone), "cpu", "float32")
