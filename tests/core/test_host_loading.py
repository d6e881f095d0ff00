"""Loading hosts from folders and single files, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_hosts import latents_for, timesteps_for, to_original_names
from core.tiny_models import MODELS, conditioning_for, tiny_autoencoder, tiny_flux, tiny_unet

from metalora_core.commands.loading import load_base_model
from metalora_core.errors import InvalidOptions, UnreadableFile
from metalora_core.files.atomic import atomic_save_safetensors
from metalora_core.hosts.block_store import BlockPlace
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.hosts.load import load_diffusers_host
from metalora_core.hosts.pipelines import objective_of
from metalora_core.hosts.single_file import load_denoiser
from metalora_core.model.objective import EpsObjective, FlowObjective, VObjective

FP8 = torch.float8_e4m3fn


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_single_file_with_comfyui_names_gives_the_same_predictions(tmp_path: Path, name: str, prefix: str) -> None:
    model = MODELS[name]()
    path = tmp_path / "model.safetensors"
    atomic_save_safetensors(path, {prefix + key: value for key, value in to_original_names(model).items()})
    ours, loaded = DiffusersHost(model), load_diffusers_host(path)
    noisy, t, conditioning = latents_for(ours), timesteps_for(ours), conditioning_for(name)
    with torch.no_grad():
        assert torch.equal(ours.predict(noisy, t, conditioning), loaded.predict(noisy, t, conditioning))
    assert loaded.targets() == ours.targets()


def test_a_flux_file_with_diffusers_names_loads_too(tmp_path: Path) -> None:
    model = tiny_flux(guidance=True)
    atomic_save_safetensors(tmp_path / "f.safetensors", model.state_dict())
    loaded: Any = load_denoiser(tmp_path / "f.safetensors")
    assert loaded.config.guidance_embeds
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", list(MODELS))
def test_a_folder_gives_the_same_predictions(tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path / "unet")
    tiny_autoencoder(4 if name.startswith("sd1") else 16).save_pretrained(tmp_path / "vae")  # type: ignore[operator]
    loaded = load_diffusers_host(tmp_path / "unet", autoencoder=tmp_path / "vae")
    ours = DiffusersHost(model)
    noisy, t, conditioning = latents_for(ours), timesteps_for(ours), conditioning_for(name)
    with torch.no_grad():
        assert torch.equal(ours.predict(noisy, t, conditioning), loaded.predict(noisy, t, conditioning))
        assert loaded.encode_images(torch.rand(1, 3, 32, 32)).shape[-1] == 4


def test_a_model_loads_with_its_blocks_in_eight_bits_and_is_told_apart(tmp_path: Path) -> None:
    tiny_flux().save_pretrained(tmp_path)
    whole, kept = load_diffusers_host(tmp_path), load_diffusers_host(tmp_path, blocks=BlockPlace(dtype=FP8))
    assert {p.dtype for p in kept.model.parameters()} == {torch.float32, FP8} and kept.dtype == torch.float32
    assert kept.targets() == whole.targets() and kept.weights_digest() != whole.weights_digest()
    noisy, t, conditioning = latents_for(whole), timesteps_for(whole), conditioning_for("flux")
    with torch.no_grad():
        difference = kept.predict(noisy, t, conditioning) - whole.predict(noisy, t, conditioning)
        assert 0 < float(difference.norm()) < 0.2 * float(whole.predict(noisy, t, conditioning).norm())


def test_a_processor_has_no_other_memory_to_keep_blocks_in(tmp_path: Path) -> None:
    tiny_flux().save_pretrained(tmp_path)
    with pytest.raises(InvalidOptions, match="already in main memory"):
        load_diffusers_host(tmp_path, blocks=BlockPlace(in_main_memory=True))
    with pytest.raises(InvalidOptions, match="remove --compile"):
        load_base_model(str(tmp_path), "cpu", "float32", compiled=True, blocks=BlockPlace(dtype=FP8))
    with pytest.raises(InvalidOptions, match="remove --swap-blocks"):
        load_base_model("pocket", "", "float32", blocks=BlockPlace(in_main_memory=True))


def tiny_clip_tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def tiny_clip(width: int, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=projection or width, bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    return (CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)).eval()


def test_an_sd15_pipeline_folder_is_a_whole_host(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=tiny_autoencoder(4), text_encoder=tiny_clip(12), tokenizer=tiny_clip_tokenizer(tmp_path / "t"),
        unet=tiny_unet(), scheduler=DDIMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # type: ignore[arg-type] # fmt: skip
    pipeline.save_pretrained(tmp_path / "pipe")
    host = load_diffusers_host(tmp_path / "pipe")
    conditioning = host.encode_prompts(["a mug", "a red mug"])
    wanted = pipeline.encode_prompt(["a mug", "a red mug"], "cpu", 1, False)[0]
    assert torch.equal(conditioning["context"], wanted) and conditioning["context"].shape == (2, 16, 12)
    assert isinstance(host.objective, VObjective)
    assert host.predict(latents_for(host), timesteps_for(host), conditioning).shape == (2, 4, 8, 8)
    assert host.decode_latents(host.encode_images(torch.rand(1, 3, 16, 16))).shape == (1, 3, 16, 16)


def test_an_sdxl_pipeline_folder_is_a_whole_host(tmp_path: Path) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    unet = tiny_unet(sdxl=True)
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_autoencoder(4), text_encoder=tiny_clip(4), text_encoder_2=tiny_clip(8, 24),
        tokenizer=tiny_clip_tokenizer(tmp_path / "t"), tokenizer_2=tiny_clip_tokenizer(tmp_path / "t"),
        unet=unet, scheduler=EulerDiscreteScheduler(),
    )  # type: ignore[arg-type] # fmt: skip
    pipeline.save_pretrained(tmp_path / "pipe")
    host = load_diffusers_host(tmp_path / "pipe")
    conditioning = host.encode_prompts(["a mug"])
    assert conditioning["context"].shape == (1, 16, 12) and conditioning["pooled"].shape == (1, 24)
    assert host.predict(latents_for(host, 1), timesteps_for(host, 1), conditioning).shape == (1, 4, 8, 8)


def test_objectives_follow_the_scheduler() -> None:
    flow = objective_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    assert isinstance(flow, FlowObjective) and flow.shift == 3.0
    dev = objective_of(
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "use_dynamic_shifting": True,
            "shift": 3.0,
            "max_shift": 1.15,
        }
    )
    assert isinstance(dev, FlowObjective) and dev.shift == pytest.approx(3.158, abs=1e-3)
    eps = objective_of({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
                        "beta_end": 0.012})  # fmt: skip
    assert type(eps) is EpsObjective and eps.alphas_cumprod[-1] == pytest.approx(0.0047, abs=1e-4)
    with pytest.raises(InvalidOptions, match="sample"):
        objective_of({"_class_name": "DDPMScheduler", "prediction_type": "sample"})


def test_what_is_no_model_is_refused_in_words(tmp_path: Path) -> None:
    atomic_save_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(UnreadableFile, match="not a known denoiser"):
        load_diffusers_host(tmp_path / "x.safetensors")
    (tmp_path / "m.ckpt").write_bytes(b"PK")
    with pytest.raises(UnreadableFile, match="other formats are not opened"):
        load_diffusers_host(tmp_path / "m.ckpt")
    with pytest.raises(UnreadableFile, match="could not be opened"):
        load_diffusers_host(tmp_path / "missing.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableFile, match="is not a diffusers model"):
        load_diffusers_host(tmp_path / "empty")


def test_a_model_that_lacks_layers_is_refused_by_name(tmp_path: Path) -> None:
    state = to_original_names(tiny_flux())
    del state["double_blocks.0.img_mlp.0.weight"]
    atomic_save_safetensors(tmp_path / "m.safetensors", state)
    with pytest.raises(UnreadableFile, match=r"double_blocks\.0\.img_mlp\.0\.weight"):
        load_denoiser(tmp_path / "m.safetensors")
    del state["txt_in.weight"]
    atomic_save_safetensors(tmp_path / "n.safetensors", state)
    with pytest.raises(UnreadableFile, match=r"txt_in\.weight"):
        load_denoiser(tmp_path / "n.safetensors")


def test_an_autoencoder_that_is_none_is_refused(tmp_path: Path) -> None:
    model = tiny_flux()
    model.save_pretrained(tmp_path / "flux")
    atomic_save_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    for autoencoder in (tmp_path / "flux", tmp_path / "x.safetensors"):
        with pytest.raises(UnreadableFile, match=r"not a known autoencoder|not an AutoencoderKL"):
            load_diffusers_host(tmp_path / "flux", autoencoder=autoencoder)
