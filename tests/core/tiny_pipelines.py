"""Whole text-to-image pipelines of diffusers with tiny random weights, text encoders and tokenizers included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from core.test_host_loading import tiny_clip, tiny_clip_tokenizer
from core.tiny_models import settled, tiny_flux, tiny_sd3

WORDS = ["a", "photo", "of", "ohwx", "mug", "red", "the", "on", "table", "beach", "in", "and", "prompt", "image"]
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def word_tokenizer(padding_side: str = "right") -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(["<pad>", "<unk>", "<eos>", *WORDS])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", model_max_length=64,
        padding_side=padding_side, chat_template=CHAT,
    )  # fmt: skip


def _kl(channels: int = 16) -> Any:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=channels, scaling_factor=0.36,
        shift_factor=0.12, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    return settled(vae, 1)


def _qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    torch.manual_seed(0)
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0],
    ).eval()  # fmt: skip


def _qwen3(layers: int = 2, kind: str = "Qwen3Model") -> Any:
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    return settled(getattr(transformers, kind)(config), 2)


def _t5(kind: str = "T5EncoderModel") -> Any:
    import transformers

    config = getattr(transformers, kind.replace("EncoderModel", "Config"))(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return settled(getattr(transformers, kind)(config), 2)


def _flow(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def flux2_klein() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    model = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    vae = settled(vae, 1)
    vae.bn.running_mean.copy_(torch.linspace(-1, 1, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    return Flux2KleinPipeline(
        scheduler=_flow(use_dynamic_shifting=True), vae=vae, text_encoder=_qwen3(28, "Qwen3ForCausalLM"),
        tokenizer=word_tokenizer(), transformer=settled(model, 0),
    )  # fmt: skip


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    model = ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[4, 6, 6], axes_lens=[256, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(
        scheduler=_flow(shift=3.0), vae=_kl(), text_encoder=_qwen3(), tokenizer=word_tokenizer(),
        transformer=settled(model, 0),
    )  # fmt: skip


def qwen_image() -> Any:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return QwenImagePipeline(
        scheduler=_flow(use_dynamic_shifting=True), vae=_qwen_vae(), text_encoder=_qwen3(), tokenizer=word_tokenizer(),
        transformer=settled(model, 0),
    )  # fmt: skip


def krea2() -> Any:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    text = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2], "mrope_interleaved": True,
        },
    }  # fmt: skip
    vision = {
        "hidden_size": 8, "depth": 1, "num_heads": 1, "intermediate_size": 8, "out_hidden_size": 16,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    encoder = settled(Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)), 2)
    model = Krea2Transformer2DModel(
        in_channels=16, num_layers=2, num_attention_heads=2, num_key_value_heads=1,
        attention_head_dim=16, axes_dims_rope=(4, 6, 6), text_hidden_dim=16, num_text_layers=2,
        text_num_attention_heads=2, text_num_key_value_heads=2, timestep_embed_dim=16,
        num_layerwise_text_blocks=1, num_refiner_text_blocks=1, intermediate_size=32, text_intermediate_size=16,
    )  # fmt: skip
    return Krea2Pipeline(
        scheduler=_flow(use_dynamic_shifting=True), vae=_qwen_vae(), text_encoder=encoder, tokenizer=word_tokenizer(),
        transformer=settled(model, 0), text_encoder_select_layers=(1, 2),
    )  # fmt: skip


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    model = ChromaTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=16, axes_dims_rope=(16, 56, 56), approximator_num_channels=64,
        approximator_hidden_dim=32, approximator_layers=2,
    )  # fmt: skip
    return ChromaPipeline(
        scheduler=_flow(), vae=_kl(), text_encoder=_t5(), tokenizer=word_tokenizer(), transformer=settled(model, 0)
    )


def lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = Lumina2Transformer2DModel(
        sample_size=16, in_channels=16, hidden_size=48, num_layers=2, num_refiner_layers=1, num_attention_heads=3,
        num_kv_heads=1, axes_dim_rope=(4, 6, 6), axes_lens=(300, 512, 512), cap_feat_dim=16, multiple_of=8,
    )  # fmt: skip
    return Lumina2Pipeline(
        scheduler=_flow(shift=6.0), vae=_kl(), text_encoder=settled(Gemma2Model(config), 2), tokenizer=word_tokenizer(),
        transformer=settled(model, 0),
    )  # fmt: skip


def aura_flow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    model = AuraFlowTransformer2DModel(
        sample_size=64, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=32, out_channels=4,
        pos_embed_max_size=1024,
    )  # fmt: skip
    return AuraFlowPipeline(
        scheduler=_flow(shift=1.73), vae=_kl(4), text_encoder=_t5("UMT5EncoderModel"), tokenizer=word_tokenizer(),
        transformer=settled(model, 0),
    )  # fmt: skip


def flux1(folder: Path) -> Any:
    from diffusers import FluxPipeline

    return FluxPipeline(
        scheduler=_flow(use_dynamic_shifting=True), vae=_kl(), transformer=tiny_flux(guidance=True),
        text_encoder=tiny_clip(8), tokenizer=tiny_clip_tokenizer(folder / "t"), text_encoder_2=_t5(),
        tokenizer_2=word_tokenizer(),
    )  # fmt: skip


def sd35(folder: Path) -> Any:
    from diffusers import StableDiffusion3Pipeline

    tokenizer = tiny_clip_tokenizer(folder / "t")
    return StableDiffusion3Pipeline(
        scheduler=_flow(shift=3.0), transformer=tiny_sd3(), vae=_kl(), text_encoder=tiny_clip(8, 12),
        text_encoder_2=tiny_clip(8, 12), text_encoder_3=_t5(), tokenizer=tokenizer, tokenizer_2=tokenizer,
        tokenizer_3=word_tokenizer(),
    )  # fmt: skip


ASKED: dict[str, Callable[[], Any]] = {
    "flux2": flux2_klein,
    "zimage": z_image,
    "qwenimage": qwen_image,
    "krea2": krea2,
    "chroma": chroma,
    "lumina2": lumina2,
    "auraflow": aura_flow,
}
