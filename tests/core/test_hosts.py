"""Laws of the diffusers host: names, spaces, predictions, flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from core.tiny_models import MODELS, conditioning_for, tiny_autoencoder, tiny_flux, tiny_sd3, tiny_unet
from torch import nn

from metalora_core.chain import ChainFactors
from metalora_core.errors import IncompatibleBaseModel, InvalidOptions
from metalora_core.hosts.architecture import family_of
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.hosts.flux import pack, unpack
from metalora_core.hosts.latents import LatentSpace, load_latent_space
from metalora_core.hosts.target_map import find_targets, key_map, named_targets
from metalora_core.inject import Injection
from metalora_core.model.families import FLUX, default_patterns
from metalora_core.model.targets import Target, choose_targets

NAMES = list(MODELS)
BASE = FLUX.bases[0]
# Their rows leave the converter in another order, so that no whole module computes them.
REORDERED = {"norm_out.linear", "transformer_blocks.1.norm1_context.linear"}


def random_chains(targets: tuple[Target, ...], seed: int = 3) -> dict[str, ChainFactors]:
    generator = torch.Generator().manual_seed(seed)
    return {
        target.name: ChainFactors(
            torch.randn(3, *target.shape[1:], generator=generator) * 0.1,
            torch.randn(2, 3, generator=generator),
            torch.randn(target.shape[0], 2, generator=generator) * 0.1,
            scale=0.7,
        )
        for target in targets
    }


def latents_for(host: DiffusersHost, batch: int = 2, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch, host.latent_channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def timesteps_for(host: DiffusersHost, batch: int = 2) -> torch.Tensor:
    return torch.linspace(0.2, 0.9, batch) * (1 if host.objective.name == "flow" else 999)


@pytest.mark.parametrize("name", NAMES)
def test_every_linear_and_convolution_belongs_to_exactly_one_target(name: str) -> None:
    model = MODELS[name]()
    targets = find_targets(model)
    parts = [part.module for target in targets for part in target.parts]
    layers = {path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    assert len(parts) == len(set(parts))
    assert set(parts) == layers - REORDERED
    assert len({target.name for target in targets}) == len(targets)


@pytest.mark.parametrize("name", NAMES)
def test_parts_tile_their_target_and_have_its_inputs(name: str) -> None:
    model = MODELS[name]()
    for target in find_targets(model):
        position = 0
        for part in target.parts:
            weight = model.get_submodule(part.module).weight
            assert part.start == position and part.stop - part.start == weight.shape[0]
            assert tuple(weight.shape[1:]) == target.shape[1:]
            position = part.stop
        assert position == target.shape[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flux", {"double_blocks.0.img_attn.qkv": (384, 128), "single_blocks.1.linear1": (896, 128)}),
        ("sd3", {"joint_blocks.1.x_block.attn.qkv": (384, 128), "joint_blocks.0.x_block.attn2.proj": (128, 128)}),
        (
            "sd15",
            {"input_blocks.1.1.transformer_blocks.0.attn2.to_k": (16, 12), "output_blocks.2.1.conv": (32, 32, 3, 3)},
        ),
        ("sdxl", {"middle_block.1.transformer_blocks.1.ff.net.2": (32, 128), "label_emb.0.0": (64, 72)}),
    ],
)
def test_targets_have_comfyui_names_and_whole_shapes(name: str, expected: dict[str, tuple[int, ...]]) -> None:
    shapes = {target.name: target.shape for target in find_targets(MODELS[name]())}
    assert expected.items() <= shapes.items()


@pytest.mark.parametrize("name", NAMES)
def test_the_default_patterns_find_layers_in_every_family(name: str) -> None:
    host = DiffusersHost(MODELS[name]())
    chosen = choose_targets(host.targets(), default_patterns(host.family))
    assert 0 < len(chosen) < len(host.targets())


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_alone_give_the_targets_of_the_model(name: str) -> None:
    host = DiffusersHost(MODELS[name]())
    chosen = choose_targets(host.targets(), default_patterns(host.family))
    named = named_targets(family_of(host.model), {target.name: target.shape for target in chosen})
    assert named == chosen


@pytest.mark.parametrize(("sdxl", "layers"), [(True, 1), (True, 3), (False, 3)])
def test_names_alone_tell_a_pruned_unet_from_the_published_ones(sdxl: bool, layers: int) -> None:
    host = DiffusersHost(tiny_unet(sdxl=sdxl, layers=layers))
    chosen = choose_targets(host.targets(), default_patterns(host.family))
    named = named_targets(family_of(host.model), {target.name: target.shape for target in chosen})
    assert named == chosen


@pytest.mark.parametrize("name", ["sd3", "sd15", "sdxl"])
def test_the_map_places_rows_as_the_converter_places_real_weights(name: str) -> None:
    from diffusers.loaders import single_file_utils

    model = MODELS[name]()
    original = to_original_names(model)
    if name == "sd3":
        converted = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(dict(original))
    else:
        prefixed = {f"model.diffusion_model.{key}": value for key, value in original.items()}
        converted = single_file_utils.convert_ldm_unet_checkpoint(prefixed, dict(model.config))
    state = model.state_dict()
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[key], state[key]) for key in state)


def to_original_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state under the names that ComfyUI keeps: the key map, read backwards."""
    state = model.state_dict()
    places = key_map(model)
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for key, runs in places.items():
        if key not in state:
            continue
        rows = sum(run.stop - run.start for run in runs)
        position = 0
        for run in runs:
            count = (run.stop - run.start) * state[key].shape[0] // rows
            pieces.setdefault(run.source, []).append((run.start, state[key][position : position + count]))
            position += count
    return {key: torch.cat([piece for _, piece in sorted(found, key=lambda p: p[0])]) for key, found in pieces.items()}


@pytest.mark.parametrize("name", NAMES)
def test_injected_chains_equal_merged_weights(name: str) -> None:
    host = DiffusersHost(MODELS[name]().double())
    targets, noisy, t = host.targets(), latents_for(host).double(), timesteps_for(host)
    conditioning = {key: value.double() for key, value in conditioning_for(name).items()}
    chains = random_chains(targets)
    with torch.no_grad():
        base = host.predict(noisy, t, conditioning)
        with Injection(host.model, targets, chains) as injection:
            chained = host.predict(noisy, t, conditioning)
        after = host.predict(noisy, t, conditioning)
        for target in targets:
            delta = chains[target.name].delta().double()
            for part in target.parts:
                host.model.get_submodule(part.module).weight.add_(delta[part.start : part.stop])
        merged = host.predict(noisy, t, conditioning)
    assert injection.coverage.applied == len(targets)
    assert torch.equal(base, after)
    assert (base - merged).abs().max() > 1e-3
    torch.testing.assert_close(chained, merged, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_training_equal_float64(name: str, checkpointing: bool) -> None:
    def gradients(dtype: torch.dtype, checkpointing: bool) -> list[torch.Tensor]:
        host = DiffusersHost(MODELS[name]().to(dtype), gradient_checkpointing=checkpointing)
        targets = choose_targets(host.targets(), default_patterns(host.family))
        chains = random_chains(targets)
        for chain in chains.values():
            chain.meta_down = chain.meta_down.to(dtype)
            chain.mid = chain.mid.to(dtype).requires_grad_()
            chain.up = chain.up.to(dtype).requires_grad_()
        conditioning = {key: value.to(dtype) for key, value in conditioning_for(name).items()}
        with host.training(), Injection(host.model, targets, chains):
            prediction = host.predict(latents_for(host).to(dtype), timesteps_for(host), conditioning)
            prediction.square().mean().backward()
        assert all(parameter.grad is None for parameter in host.model.parameters())
        grads = [g for chain in chains.values() for g in (chain.mid.grad, chain.up.grad) if g is not None]
        assert len(grads) == 2 * len(targets)
        return [grad.double().flatten() for grad in grads]

    exact, ours = gradients(torch.float64, False), gradients(torch.float32, checkpointing)
    for a, b in zip(exact, ours, strict=True):
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99999


def test_training_restores_every_flag_also_after_an_error() -> None:
    model = tiny_flux()
    model.train()
    model.proj_out.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    host = DiffusersHost(model, gradient_checkpointing=True)
    with pytest.raises(KeyError), torch.no_grad(), host.training():
        assert torch.is_grad_enabled() and not any(p.requires_grad for p in model.parameters())
        raise KeyError
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert model.training and not model.gradient_checkpointing


def test_pack_and_unpack_are_inverse() -> None:
    latents = torch.randn(2, 16, 6, 10)
    tokens = pack(latents)
    assert tokens.shape == (2, 15, 64)
    assert torch.equal(unpack(tokens, 6, 10), latents)


def test_pack_agrees_with_the_flux_pipeline() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 6, 10)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 6, 10))


def test_guidance_reaches_a_distilled_flux() -> None:
    model = tiny_flux(guidance=True)
    noisy, t, conditioning = torch.randn(1, 16, 4, 4), torch.tensor([0.5]), conditioning_for("flux", 1)
    weak, strong = (DiffusersHost(model, guidance=g).predict(noisy, t, conditioning) for g in (1.0, 4.0))
    told = DiffusersHost(model, guidance=1.0).predict(noisy, t, {**conditioning, "guidance": torch.tensor([4.0])})
    assert not torch.equal(weak, strong) and torch.equal(told, strong)


def test_sdxl_is_told_the_picture_size() -> None:
    host = DiffusersHost(tiny_unet(sdxl=True))
    noisy, t, conditioning = torch.randn(1, 4, 8, 8), torch.tensor([10.0]), conditioning_for("sdxl", 1)
    usual = host.predict(noisy, t, conditioning)
    same, other = (torch.tensor([[64.0, 64, 0, crop, 64, 64]]) for crop in (0, 8))
    assert torch.equal(usual, host.predict(noisy, t, {**conditioning, "time_ids": same}))
    assert not torch.equal(usual, host.predict(noisy, t, {**conditioning, "time_ids": other}))


def test_missing_conditioning_is_named() -> None:
    host = DiffusersHost(tiny_sd3())
    with pytest.raises(InvalidOptions, match="pooled"):
        host.predict(latents_for(host), timesteps_for(host), {"context": torch.zeros(2, 5, 16)})


def test_another_model_is_refused() -> None:
    with pytest.raises(IncompatibleBaseModel, match="Linear"):
        DiffusersHost(nn.Linear(2, 2))


def test_latents_of_a_tiny_autoencoder_are_its_raw_output() -> None:
    autoencoder: Any = tiny_autoencoder()
    host = DiffusersHost(tiny_flux(), autoencoder)
    images = torch.rand(1, 3, 32, 48)
    latents = host.encode_images(images)
    assert latents.shape == (1, 16, 4, 6) and host.downscale == 8
    with torch.no_grad():
        assert torch.equal(latents, autoencoder.encoder(images * 2 - 1))
        wanted = (autoencoder.decoder(latents) * 0.5 + 0.5).clamp(0, 1)
    assert torch.equal(host.decode_latents(latents), wanted)


def test_latents_of_a_full_vae_are_shifted_and_scaled() -> None:
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=2, latent_channels=16, scaling_factor=0.5, shift_factor=0.25,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    space = LatentSpace.of(vae)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        mode = vae.encode(images * 2 - 1).latent_dist.mode()
        torch.testing.assert_close(space.encode(images), (mode - 0.25) * 0.5)
        torch.testing.assert_close(space.decode((mode - 0.25) * 0.5), (vae.decode(mode).sample / 2 + 0.5).clamp(0, 1))
    assert space.downscale == 2


@pytest.mark.parametrize("constants", [(BASE.scale, BASE.shift), (1.0, 0.0)])
def test_a_taesd_file_means_what_it_means_in_comfyui(tmp_path: Path, constants: tuple[float, float]) -> None:
    from metalora_core.files.atomic import atomic_save_safetensors

    autoencoder: Any = tiny_autoencoder()
    state: dict[str, torch.Tensor] = {"vae_scale": torch.tensor(constants[0]), "vae_shift": torch.tensor(constants[1])}
    for key, value in autoencoder.state_dict().items():
        side, _, index, rest = key.split(".", 3)
        state[f"taesd_{side}.{int(index) + (side == 'decoder')}.{rest}"] = value
    atomic_save_safetensors(tmp_path / "taesd.safetensors", state)
    space = load_latent_space(tmp_path / "taesd.safetensors", BASE)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        raw = autoencoder.encoder(images * 2 - 1)
        scale, shift = (BASE.scale, BASE.shift)
        torch.testing.assert_close(space.encode(images), (raw / constants[0] + constants[1] - shift) * scale)
        torch.testing.assert_close(space.decode(space.encode(images)), (autoencoder.decoder(raw) / 2 + 0.5).clamp(0, 1))


def test_pictures_that_do_not_divide_are_refused() -> None:
    host = DiffusersHost(tiny_flux(), tiny_autoencoder())
    with pytest.raises(InvalidOptions, match="multiples of 16"):
        host.encode_images(torch.rand(1, 3, 24, 32))
    with pytest.raises(InvalidOptions, match="no text encoder"):
        host.encode_prompts(["a mug"])
    with pytest.raises(InvalidOptions, match="no autoencoder"):
        DiffusersHost(tiny_flux()).decode_latents(torch.zeros(1, 16, 4, 4))
