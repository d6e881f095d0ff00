"""What is known of each model family: one row per family. Only this file and the family's own host name a family.

A family that the pack has no row for can still be used in ComfyUI; a row adds default targets, names for other loaders
and the diffusers host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import IncompatibleBaseModel

__all__ = [
    "FAMILIES",
    "FLUX",
    "SD3",
    "UNET",
    "Base",
    "Family",
    "bases",
    "default_patterns",
    "family_in_comfyui",
    "family_named",
    "family_of_denoiser",
    "family_of_shapes",
]


@dataclass(frozen=True)
class Base:
    """One published line of models of a family.

    Args:
        name: Key of the base.
        title: In words.
        pipeline: Its text-to-image pipeline in diffusers.
        modelspec: Its architecture in ModelSpec's list.
        scale: Denoiser space = (VAE space - shift) · scale.
        shift: See scale.
        side_px: Usual side of a picture.
        marks: Beginnings of keys, below ``model.diffusion_model.``, that only its checkpoints have.
        context_width: Width of its text embedding, if that distinguishes bases of one family.
        width: Of its layers, if smaller models of the same build exist that nobody should take for it.
        kohya_by_diffusers: Whether kohya's tools name its layers as diffusers does, not as its checkpoints do.
    """

    name: str
    title: str
    pipeline: str
    modelspec: str
    scale: float = 1.0
    shift: float = 0.0
    side_px: int = 1024
    marks: tuple[str, ...] = ()
    context_width: int = 0
    width: int = 0
    kohya_by_diffusers: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture.

    Args:
        name: As priors and identities record it.
        denoiser: Its class in diffusers.
        bases: Published lines of models; the first is the usual one.
        attention: Patterns of the attention projections, on target names.
        feed_forward: Patterns of the feed-forward layers.
        renames: Patterns in diffusers' key names and what stands there in the original checkpoint, applied in order.
            They make the names that diffusers' own converter is asked for, which checks them.
        seeds: Keys of the original checkpoint without which the converter fails.
        probe_rows: Rows with which a converter is asked, for those that cut at the published width.
        qkv_ratio: Rows of a fused attention projection per input, if that distinguishes it from its twin in ComfyUI.
        comfyui: Classes of ComfyUI's models.
        component: The denoiser's name in a diffusers pipeline and in LoRA keys for it.
        patch: Latent pixels a token is wide; sides of a latent must be multiples.
        packed: Whether the model takes patches as channels.
        predicts: "flow" or "eps", unless a scheduler says otherwise.
        swaps_blocks: Whether its blocks are recomputed whole, so that they can be kept elsewhere.
        recomputes_rightly: Whether diffusers' checkpointing gives its blocks all that the forward pass gave them.
    """

    name: str
    denoiser: str
    bases: tuple[Base, ...]
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    seeds: tuple[str, ...] = ()
    probe_rows: int = 7 * 3072
    qkv_ratio: float = 0.0
    comfyui: tuple[str, ...] = ()
    component: str = "transformer"
    patch: int = 2
    packed: bool = False
    predicts: str = "flow"
    swaps_blocks: bool = True
    recomputes_rightly: bool = True

    @property
    def targets(self) -> tuple[str, ...]:
        """Patterns of attention projections and feed-forward layers, the default of both trainings."""
        return (*self.attention, *self.feed_forward)

    def base_of_widths(self, widths: Iterable[int]) -> Base:
        """The base that has a text embedding of one of these widths, else the last one."""
        found = set(widths)
        return next((base for base in self.bases if base.context_width in found), self.bases[-1])


# Flux's single blocks, and of those that follow it, hold attention and feed-forward in one linear.
_STREAMS = ("*_attn.qkv", "*_attn.proj", "single_blocks.*.linear1", "single_blocks.*.linear2")
_SINGLE = (r"^single_transformer_blocks\.", "single_blocks.")
_DOUBLE = (r"^transformer_blocks\.", "double_blocks.")
FLUX = Family(
    name="flux",
    denoiser="FluxTransformer2DModel",
    bases=(
        Base(
            "flux", "FLUX.1", "FluxPipeline", "flux-1-dev/lora", 0.3611, 0.1159, marks=("double_blocks.",), width=3072
        ),
    ),
    attention=_STREAMS,
    feed_forward=("*_mlp.[02]",),
    renames=(_SINGLE, _DOUBLE),
    seeds=("double_blocks.0.", "single_blocks.0."),
    comfyui=("Flux",),
    packed=True,
)
SD3 = Family(
    name="sd3",
    denoiser="SD3Transformer2DModel",
    bases=(
        Base(
            "sd3", "Stable Diffusion 3", "StableDiffusion3Pipeline", "stable-diffusion-v3-medium/lora", 1.5305, 0.0609,
            marks=("joint_blocks.",),
        ),
    ),
    attention=("*.attn.qkv", "*.attn.proj", "*.attn2.qkv", "*.attn2.proj"),
    feed_forward=("*.mlp.fc[12]",),
    renames=((r"\.attn2\.", ".x_block.attn2."), (r"^transformer_blocks\.", "joint_blocks."), (r"norm_q\.", "ln_q.")),
    seeds=("joint_blocks.0.",),
    comfyui=("SD3",),
)  # fmt: skip
UNET = Family(
    name="unet",
    denoiser="UNet2DConditionModel",
    bases=(
        Base(
            "sdxl", "SDXL", "StableDiffusionXLPipeline", "stable-diffusion-xl-v1-base/lora", 0.13025,
            marks=("label_emb.",), context_width=2048,
        ),
        Base(
            "sd15", "Stable Diffusion 1.5", "StableDiffusionPipeline", "stable-diffusion-v1/lora", 0.18215, side_px=512,
            marks=("input_blocks.1.1.transformer_blocks.0.attn2.to_k.",), context_width=768,
            kohya_by_diffusers=True,
        ),
    ),
    attention=("*.attn[12].to_[qkv]", "*.attn[12].to_out.0"),
    feed_forward=("*.ff.net.0.proj", "*.ff.net.2"),
    comfyui=("BaseModel", "SDXL", "SDXLRefiner"),
    component="unet",
    patch=1,
    predicts="eps",
    swaps_blocks=False,
)  # fmt: skip
FLUX2 = Family(
    name="flux2",
    denoiser="Flux2Transformer2DModel",
    bases=(
        Base(
            "flux2-klein",
            "FLUX.2 klein",
            "Flux2KleinPipeline",
            "flux-2-klein/lora",
            marks=("double_stream_modulation_img.",),
        ),
        Base("flux2", "FLUX.2", "Flux2Pipeline", "flux-2-dev/lora"),
    ),
    attention=_STREAMS,
    feed_forward=("*_mlp.[02]",),
    renames=(
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_out", r"single_blocks.\1.linear2"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.", r"single_blocks.\1.norm."),
        _DOUBLE,
        (r"\.attn\.(norm_added_|add_)([qkv])(_proj)?", r".txt_attn.\1\2"),
        (r"\.attn\.to_add_out", ".txt_attn.proj"),
        (r"\.attn\.to_out\.0", ".img_attn.proj"),
        (r"\.attn\.", ".img_attn."),
        (r"_attn\.(to_|add_)[qkv]", "_attn.qkv"),
        (r"norm_(added_)?q\.weight", "norm.query_norm.scale"),
        (r"norm_(added_)?k\.weight", "norm.key_norm.scale"),
        (r"norm\.norm\.", "norm."),
        (r"\.ff\.linear_in", ".img_mlp.0"),
        (r"\.ff\.linear_out", ".img_mlp.2"),
        (r"\.ff_context\.linear_in", ".txt_mlp.0"),
        (r"\.ff_context\.linear_out", ".txt_mlp.2"),
        (r"^x_embedder", "img_in"),
        (r"^context_embedder", "txt_in"),
        (r"^time_guidance_embed\.timestep_embedder\.", "time_in."),
        (r"^time_guidance_embed\.guidance_embedder\.", "guidance_in."),
        (r"_in\.linear_1", "_in.in_layer"),
        (r"_in\.linear_2", "_in.out_layer"),
        (r"(_stream_modulation.*)\.linear\.", r"\1.lin."),
        (r"^proj_out", "final_layer.linear"),
        (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    ),
    comfyui=("Flux2",),
    patch=1,
)
CHROMA = Family(
    name="chroma",
    denoiser="ChromaTransformer2DModel",
    bases=(Base("chroma", "Chroma", "ChromaPipeline", "chroma/lora", marks=("distilled_guidance_layer.",)),),
    attention=_STREAMS,
    feed_forward=("*_mlp.[02]",),
    renames=(_SINGLE, _DOUBLE),
    seeds=("double_blocks.0.", "single_blocks.0.", "distilled_guidance_layer.layers.0."),
    comfyui=("Chroma",),
    swaps_blocks=False,
    recomputes_rightly=False,
)
QWEN_IMAGE = Family(
    name="qwenimage",
    denoiser="QwenImageTransformer2DModel",
    bases=(Base("qwen-image", "Qwen-Image", "QwenImagePipeline", "qwen-image/lora"),),
    attention=("*.attn.to_[qkv]", "*.attn.add_[qkv]_proj", "*.attn.to_out.0", "*.attn.to_add_out"),
    feed_forward=("*_mlp.net.0.proj", "*_mlp.net.2"),
    comfyui=("QwenImage",),
)
Z_IMAGE = Family(
    name="zimage",
    denoiser="ZImageTransformer2DModel",
    bases=(Base("z-image", "Z-Image", "ZImagePipeline", "z-image/lora"),),
    attention=("*.attention.qkv", "*.attention.out"),
    feed_forward=("*.feed_forward.w[123]",),
    renames=(
        (r"^all_final_layer\.2-1\.", "final_layer."),
        (r"^all_x_embedder\.2-1\.", "x_embedder."),
        (r"\.attention\.to_out\.0", ".attention.out"),
        (r"\.attention\.to_[qkv]\.", ".attention.qkv."),
        (r"\.attention\.norm_([qk])", r".attention.\1_norm"),
    ),
    qkv_ratio=3.0,
    comfyui=("Lumina2",),
)
LUMINA2 = Family(
    name="lumina2",
    denoiser="Lumina2Transformer2DModel",
    bases=(Base("lumina2", "Lumina-Image 2.0", "Lumina2Pipeline", "lumina-2/lora"),),
    attention=("*.attention.qkv", "*.attention.out"),
    feed_forward=("*.feed_forward.w[123]",),
    renames=(
        (r"^time_caption_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
        (r"^time_caption_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
        (r"^time_caption_embed\.caption_embedder", "cap_embedder"),
        (r"^norm_out\.linear_1", "final_layer.adaLN_modulation.1"),
        (r"^norm_out\.linear_2", "final_layer.linear"),
        (r"\.attn\.to_out\.0", ".attention.out"),
        (r"\.attn\.to_[qkv]\.", ".attention.qkv."),
        (r"\.attn\.norm_([qk])", r".attention.\1_norm"),
        (r"\.feed_forward\.linear_([123])", r".feed_forward.w\1"),
        (r"\.norm1\.linear", ".adaLN_modulation.1"),
        (r"\.norm1(\.norm)?\.", ".attention_norm1."),
        (r"\.norm2\.", ".attention_norm2."),
    ),
    probe_rows=2304 + 2 * 768,
    qkv_ratio=5 / 3,
    comfyui=("Lumina2",),
)
KREA2 = Family(
    name="krea2",
    denoiser="Krea2Transformer2DModel",
    bases=(Base("krea2", "Krea 2", "Krea2Pipeline", "krea-2/lora", marks=("txtfusion.",)),),
    attention=("blocks.*.attn.w[qkvo]", "blocks.*.attn.gate"),
    feed_forward=("blocks.*.mlp.*",),
    renames=(
        (r"^img_in\.", "first."),
        (r"^time_embed\.linear_1", "tmlp.0"),
        (r"^time_embed\.linear_2", "tmlp.2"),
        (r"^time_mod_proj", "tproj.1"),
        (r"^txt_in\.norm\.weight", "txtmlp.0.scale"),
        (r"^txt_in\.linear_1", "txtmlp.1"),
        (r"^txt_in\.linear_2", "txtmlp.3"),
        (r"^text_fusion\.", "txtfusion."),
        (r"^transformer_blocks\.", "blocks."),
        (r"^final_layer\.linear", "last.linear"),
        (r"^final_layer\.norm\.weight", "last.norm.scale"),
        (r"^final_layer\.scale_shift_table", "last.modulation.lin"),
        (r"\.attn\.to_out\.0\.", ".attn.wo."),
        (r"\.attn\.to_gate\.", ".attn.gate."),
        (r"\.attn\.to_([qkv])\.", r".attn.w\1."),
        (r"\.attn\.norm_([qk])\.weight", r".attn.qknorm.\1norm.scale"),
        (r"\.ff\.", ".mlp."),
        (r"\.norm1\.weight", ".prenorm.scale"),
        (r"\.norm2\.weight", ".postnorm.scale"),
        (r"\.scale_shift_table", ".mod.lin"),
    ),
    comfyui=("Krea2",),
)
AURA_FLOW = Family(
    name="auraflow",
    denoiser="AuraFlowTransformer2DModel",
    bases=(Base("auraflow", "AuraFlow", "AuraFlowPipeline", "auraflow/lora", marks=("cond_seq_linear.",)),),
    attention=("*_layers.*.attn.w[12][qkvo]",),
    feed_forward=("*_layers.*.mlp*.c_*",),
    renames=((r"^single_transformer_blocks\.", "single_layers."), (r"^joint_transformer_blocks\.", "double_layers.")),
    seeds=("double_layers.0.", "single_layers.0."),
    comfyui=("AuraFlow",),
)
FAMILIES = {
    family.name: family for family in (CHROMA, FLUX2, FLUX, SD3, UNET, QWEN_IMAGE, LUMINA2, Z_IMAGE, KREA2, AURA_FLOW)
}


def family_named(name: str) -> Family | None:
    """The row of a family as priors record it; None for one without a row."""
    return FAMILIES.get(name)


def family_of_shapes(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """The row of a recorded family, or of its twin: ComfyUI has one class for some pairs; their layers differ.

    Args:
        name: As recorded.
        shapes: Weight shapes of its layers, by target name.
    """
    row = family_named(name)
    fused = next((shape for target, shape in shapes.items() if target.endswith(".qkv")), None)
    if row is None or not row.qkv_ratio or fused is None:
        return row
    twins = [family for family in FAMILIES.values() if set(family.comfyui) & set(row.comfyui)]
    return next((family for family in twins if abs(fused[0] / fused[1] - family.qkv_ratio) < 1e-6), row)


def bases() -> list[Base]:
    """Every base of every family."""
    return [base for family in FAMILIES.values() for base in family.bases]


def family_of_denoiser(kind: str) -> Family:
    """The family of a diffusers class.

    Raises:
        IncompatibleBaseModel: If no row has it.
    """
    for family in FAMILIES.values():
        if family.denoiser == kind:
            return family
    known = ", ".join(family.denoiser for family in FAMILIES.values())
    raise IncompatibleBaseModel(f"The model is a {kind}; expected one of {known}.")


def family_in_comfyui(kind: str) -> str:
    """Architecture of a ComfyUI model by its class; the class in small letters where no row has it."""
    return next((family.name for family in FAMILIES.values() if kind in family.comfyui), kind.lower())


def default_patterns(family: str) -> tuple[str, ...]:
    """Attention and feed-forward layers of a family; everything for a family without a row."""
    row = family_named(family)
    return row.targets if row else ("*",)
