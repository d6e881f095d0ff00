"""Pictures to latents and back, in the one space that the denoiser sees.

ComfyUI's LATENT lies between: its VAE divides by nothing and the model's latent format maps ``(x - shift) · scale`` on
the way in. A TAESD file undoes that map inside (``vae_scale``, ``vae_shift``), because its encoder is trained to give
the denoiser's space directly. So for the same file both hosts feed the denoiser the same numbers: the encoder's raw
output for a TAESD, ``(mode - shift) · scale`` for a full VAE.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checks import optional
from ..errors import InvalidOptions, UnreadableFile
from ..files.bounded import read_safetensors
from ..model.families import Base
from .diffusers_door import diffusers_class


@dataclass(frozen=True)
class LatentSpace:
    """An autoencoder together with the map from its latents to the denoiser's.

    Args:
        autoencoder: diffusers' AutoencoderKL or AutoencoderTiny.
        scale: See `Base`; 1 for a TAESD.
        shift: See `Base`; 0 for a TAESD.
        downscale: Picture pixels per latent pixel.
    """

    autoencoder: nn.Module
    scale: float = 1.0
    shift: float = 0.0
    downscale: int = 8

    @classmethod
    def of(cls, autoencoder: nn.Module) -> LatentSpace:
        """The space that the autoencoder's own configuration declares."""
        config: Any = getattr(autoencoder, "config", None)
        blocks = getattr(config, "block_out_channels", None) or getattr(config, "encoder_block_out_channels", ())
        return cls(
            autoencoder,
            float(getattr(config, "scaling_factor", None) or 1.0),
            float(getattr(config, "shift_factor", None) or 0.0),
            2 ** (len(blocks) - 1) if blocks else 8,
        )

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to the denoiser's latents (B, C, H / downscale, W / downscale), float32.

        A full VAE's mode is taken, not a sample, so that the same photo always gives the same latent.
        """
        weight = next(self.autoencoder.parameters())
        encoder: Any = self.autoencoder
        encoded = encoder.encode(images.to(weight.device, weight.dtype) * 2 - 1)
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents.float() - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """The denoiser's latents (B, C, h, w) to pictures (B, 3, H, W) clamped to 0..1, float32."""
        weight = next(self.autoencoder.parameters())
        decoder: Any = self.autoencoder
        values = (latents.float() / self.scale + self.shift).to(weight.device, weight.dtype)
        return (decoder.decode(values).sample.float() * 0.5 + 0.5).clamp(0, 1)


def load_latent_space(path: Path | str, base: Base) -> LatentSpace:
    """Load an autoencoder: a diffusers folder, a TAESD file as ComfyUI's VAELoader takes it, or an original VAE file.

    Args:
        path: Folder with a config.json, or a .safetensors file.
        base: Of the denoiser, for files that do not say what their latents are.

    Raises:
        UnreadableFile: If there is no autoencoder at that path.
    """
    path = Path(path)
    if path.is_dir():
        return LatentSpace.of(_load_folder(path))
    tensors = read_safetensors(path).tensors
    if "taesd_decoder.1.weight" in tensors:
        return _load_taesd(path.name, tensors, base)
    if "decoder.conv_in.weight" in tensors:
        return _load_original_vae(path.name, tensors, base)
    raise UnreadableFile(
        f"{path.name} is not a known autoencoder: expected the key 'taesd_decoder.1.weight' (TAESD) or "
        "'decoder.conv_in.weight' (VAE). Choose another file."
    )


def _load_folder(path: Path) -> nn.Module:
    try:
        kind = str(diffusers_class("AutoencoderKL").load_config(str(path), local_files_only=True).get("_class_name"))
        if kind not in ("AutoencoderKL", "AutoencoderTiny"):
            raise ValueError(f"found a {kind}")
        return diffusers_class(kind).from_pretrained(str(path), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UnreadableFile(
            f"{path} is not an AutoencoderKL or AutoencoderTiny in safetensors form ({error}). Choose another folder."
        ) from error


def _load_taesd(name: str, tensors: dict[str, Tensor], base: Base) -> LatentSpace:
    state: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        side, _, rest = key.removeprefix("taesd_").partition(".")
        index, _, tail = rest.partition(".")
        if key.startswith("taesd_") and index.isdigit():
            # The file counts the clamp that starts the decoder as a layer, diffusers does not.
            state[f"{side}.layers.{int(index) - (side == 'decoder')}.{tail}"] = tensor
    width, channels = tensors["taesd_decoder.1.weight"].shape[:2]
    model: nn.Module = diffusers_class("AutoencoderTiny")(
        encoder_block_out_channels=(width,) * 4, decoder_block_out_channels=(width,) * 4, latent_channels=channels
    )
    _load_strictly(name, model, state)
    scale, shift = _single(tensors, "vae_scale", 1.0), _single(tensors, "vae_shift", 0.0)
    if scale == 0:
        raise UnreadableFile(f"{name} has vae_scale 0, which maps all pictures to the same one. Choose another file.")
        # Encoder output e stands for the VAE latent e / scale + shift; the base's format is then applied to that.
    return LatentSpace(model.eval(), base.scale / scale, scale * (base.shift - shift))


def _single(tensors: dict[str, Tensor], key: str, default: float) -> float:
    return float(tensors[key].float().reshape(-1)[0]) if key in tensors and tensors[key].numel() else default


def _load_original_vae(name: str, tensors: dict[str, Tensor], base: Base) -> LatentSpace:
    convert = optional("diffusers.loaders.single_file_utils", "Its VAE", "convert_ldm_vae_checkpoint")
    levels = len({key.split(".")[2] for key in tensors if key.startswith("encoder.down.")})
    depth = len({key.split(".")[4] for key in tensors if key.startswith("encoder.down.0.block.")})
    quant = "quant_conv.weight" in tensors
    model: Any = diffusers_class("AutoencoderKL")(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(tensors[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)),
        layers_per_block=depth,
        latent_channels=tensors["decoder.conv_in.weight"].shape[1],
        norm_num_groups=32,
        scaling_factor=base.scale,
        shift_factor=base.shift,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )
    _load_strictly(name, model, convert(dict(tensors), dict(model.config)))
    return LatentSpace.of(model.eval())


def _load_strictly(name: str, model: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True)
    except RuntimeError as error:
        raise UnreadableFile(f"{name} does not fit {type(model).__name__}: {str(error)[:400]}") from error


def require_multiple(images: Tensor, multiple: int) -> None:
    """Refuse pictures that are not a batch of (3, H, W) or have sides that the model cannot divide.

    Raises:
        InvalidOptions: With the sizes found and the multiple needed.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise InvalidOptions(f"The pictures have shape {tuple(images.shape)}; expected (B, 3, H, W).")
    height, width = images.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        raise InvalidOptions(
            f"The pictures are {width}×{height} px; both sides must be multiples of {multiple} px. Crop or scale them "
            "first."
        )
