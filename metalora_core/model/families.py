"""What is known of each model family: one row a family, and the only place that names one beside the family's own host.

A family that the pack has no row for can still be used in ComfyUI; a row adds default targets, names for other loaders
and the diffusers host.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        context_width: Width of its text embedding, where that tells bases of one family apart.
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


@dataclass(frozen=True)
class Family:
    """One architecture.

    Args:
        name: As priors and identities record it.
        denoiser: Its class in diffusers.
        bases: Published lines of models; the first is the usual one.
        attention: Patterns of the attention projections, on target names.
        feed_forward: Patterns of the feed-forward layers.
        renames: Parts of diffusers' key names and what stands there in the original checkpoint, applied in order. They
            make the names that diffusers' own converter is asked for, which checks them.
        seeds: Keys of the original checkpoint without which the converter fails.
        comfyui: Classes of ComfyUI's models.
        component: The denoiser's name in a diffusers pipeline and in LoRA keys for it.
        patch: Latent pixels a token is wide; sides of a latent must be multiples.
        packed: Whether the model takes patches as channels.
        predicts: "flow" or "eps", unless a scheduler says otherwise.
        swaps_blocks: Whether its blocks are recomputed whole, so that they can be kept elsewhere.
        kohya_by_diffusers: Whether kohya's tools may name its layers as diffusers does.
    """

    name: str
    denoiser: str
    bases: tuple[Base, ...]
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    seeds: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()
    component: str = "transformer"
    patch: int = 2
    packed: bool = False
    predicts: str = "flow"
    swaps_blocks: bool = True
    kohya_by_diffusers: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """Patterns of attention projections and feed-forward layers, the default of both trainings."""
        return (*self.attention, *self.feed_forward)

    def base_of_widths(self, widths: Iterable[int]) -> Base:
        """The base that has a text embedding of one of these widths, else the last, which all others were told from."""
        found = set(widths)
        return next((base for base in self.bases if base.context_width in found), self.bases[-1])


FLUX = Family(
    name="flux",
    denoiser="FluxTransformer2DModel",
    bases=(Base("flux", "FLUX.1", "FluxPipeline", "flux-1-dev/lora", 0.3611, 0.1159, marks=("double_blocks.",)),),
    attention=("*_attn.qkv", "*_attn.proj", "single_blocks.*.linear1", "single_blocks.*.linear2"),
    feed_forward=("*_mlp.[02]",),
    renames=(("single_transformer_blocks.", "single_blocks."), ("transformer_blocks.", "double_blocks.")),
    seeds=("double_blocks.0.", "single_blocks.0."),
    comfyui=("Flux",),
    packed=True,
)  # its single blocks hold attention and MLP in one linear
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
    renames=((".attn2.", ".x_block.attn2."), ("transformer_blocks.", "joint_blocks."), ("norm_q.", "ln_q.")),
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
        ),
    ),
    attention=("*.attn[12].to_[qkv]", "*.attn[12].to_out.0"),
    feed_forward=("*.ff.net.0.proj", "*.ff.net.2"),
    comfyui=("BaseModel", "SDXL", "SDXLRefiner"),
    component="unet",
    patch=1,
    predicts="eps",
    swaps_blocks=False,
    kohya_by_diffusers=True,
)  # fmt: skip
FAMILIES = {family.name: family for family in (FLUX, SD3, UNET)}


def family_named(name: str) -> Family | None:
    """The row of a family as priors record it; None for one without a row."""
    return FAMILIES.get(name)


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
