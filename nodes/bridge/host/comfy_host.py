"""A ComfyUI MODEL, CLIP and VAE as the host that the training loops see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ....metalora_core.errors import IncompatibleBaseModel, InvalidOptions, TrainingCancelled
from ....metalora_core.model.compiled_pass import hooks_guarded
from ....metalora_core.model.host import Conditioning
from ....metalora_core.model.objective import Objective
from ....metalora_core.model.targets import Target
from .conditioning import encode_prompt, merge_conds, model_conds
from .digests import model_digest
from .gradients import exact_gradients
from .sampling_rules import objective_of, raw_prediction
from .targets import compile_wrappers, compute_dtype, family_of, targets_of

TRAINING_MEMORY_FACTOR = 4.0  # activations kept for the backward pass, in units of one sampling step's memory


class ComfyHost:
    """A loaded ComfyUI model as a `Host`.

    Nothing is copied or reloaded: the model is used through a clone of its patcher, so patches that stand before this
    node (LoRAs, attention patches) are part of the base. Leaving `training` or `sampling` restores everything. Where
    core's Torch Compile Model stands before it, passes of a training are compiled too.

    Args:
        model: ComfyUI's MODEL.
        clip: CLIP, needed for prompts only.
        vae: VAE, needed for pictures only.
        resolution: Side of the training pictures in pixels.
        guidance: Guidance that guidance-distilled models are trained at.
        checkpointing: Recompute blocks in the backward pass: less memory, about a third more time.
    """

    def __init__(
        self,
        model: Any,
        clip: Any = None,
        vae: Any = None,
        *,
        resolution: int = 512,
        guidance: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        self._patcher, self._clip, self._vae = model, clip, vae
        self._guidance = guidance
        self._constants: dict[str, Any] = {}
        self._active: Any = None
        self.checkpointing = checkpointing
        self._compilers = compile_wrappers(model)
        self.compiled = bool(self._compilers)
        self.resolution = resolution
        self._rules = model.get_model_object("model_sampling")
        self._objective = objective_of(self._rules)

    @property
    def family(self) -> str:
        return family_of(self._patcher)

    @property
    def model(self) -> nn.Module:
        return self._patcher.model.diffusion_model

    @property
    def objective(self) -> Objective:
        return self._objective

    @property
    def device(self) -> torch.device:
        return self._patcher.load_device

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self._patcher)

    @property
    def latent_channels(self) -> int:
        return self._patcher.model.latent_format.latent_channels

    @property
    def downscale(self) -> int:
        return int(getattr(self._patcher.model.latent_format, "spacial_downscale_ratio", 8))

    def targets(self) -> tuple[Target, ...]:
        return targets_of(self._patcher)

    def weights_digest(self) -> str:
        return model_digest(self._patcher)

    def encode_images(self, images: Tensor) -> Tensor:
        vae = _connected(self._vae, "VAE")
        with torch.inference_mode():
            latents = vae.encode(images.detach().float().cpu().movedim(1, -1))
            self._check_latents(latents)
            latents = self._patcher.model.process_latent_in(latents.float())
        with torch.inference_mode(False):
            return latents.clone().to(self.device)

    def _check_latents(self, latents: Tensor) -> None:
        if latents.dim() != 4 or latents.shape[1] != self.latent_channels:
            raise IncompatibleBaseModel(
                f"The connected VAE gives latents of shape {tuple(latents.shape[1:])}, the connected model takes "
                f"{self.latent_channels} channels of a still picture. Connect the VAE that belongs to the model."
            )

    def decode_latents(self, latents: Tensor) -> Tensor:
        if self._active is not None and self.device.type != "cpu":
            return self._quick_look(latents)
        vae = _connected(self._vae, "VAE")
        with torch.inference_mode():
            raw = self._patcher.model.process_latent_out(latents.detach().float().cpu())
            images = vae.decode(raw).movedim(-1, 1)
        with torch.inference_mode(False):
            return images.float().clamp(0, 1).cpu().clone()

    def _quick_look(self, latents: Tensor) -> Tensor:
        """Colours of a latent without the decoder, whose loading could push the model in training off the card."""
        form = self._patcher.model.latent_format
        factors = getattr(form, "latent_rgb_factors", None)
        if factors is None:
            return latents.detach()[:, :3].float().cpu().sigmoid()
        weights = torch.tensor(factors, dtype=torch.float32)
        rgb = torch.einsum("bchw,cr->brhw", latents.detach().float().cpu(), weights)
        bias = getattr(form, "latent_rgb_factors_bias", None) or [0.0, 0.0, 0.0]
        return ((rgb + torch.tensor(bias).view(1, 3, 1, 1) + 1) / 2).clamp(0, 1)

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        clip = _connected(self._clip, "CLIP")
        side = max(1, self.resolution // self.downscale)
        noise = torch.zeros(1, self.latent_channels, side, side)
        base = self._patcher.model
        with torch.inference_mode():
            entries = [encode_prompt(clip, prompt)[0] for prompt in prompts]
            rows = [model_conds(base, entry, noise, self.device, self._guidance) for entry in entries]
        conditioning, self._constants = merge_conds(rows, self.device)
        return conditioning

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        if self._active is None:
            with self.sampling():
                return self.predict(noisy, t, conditioning)
        from comfy.patcher_extension import merge_nested_dicts

        options = dict(self._active.model_options.get("transformer_options", {}))
        options["optimized_attention_override"] = _differentiable_attention
        compiled = self.compiled and torch.is_grad_enabled()
        if compiled:
            options["wrappers"] = merge_nested_dicts(dict(options.get("wrappers", {})), self._compilers)
        with _cancelling(), _explained(), hooks_guarded() if compiled else nullcontext():
            given = {name: _ordinary(value) for name, value in conditioning.items()}
            prediction = self._active.model.apply_model(
                _ordinary(noisy), _ordinary(t), transformer_options=options, **given, **self._constants
            )
        return prediction.to(noisy.dtype)

    @contextmanager
    def training(self) -> Iterator[ComfyHost]:
        gradients = exact_gradients(self.model, checkpointing=self.checkpointing)
        with self._loaded(TRAINING_MEMORY_FACTOR), _cancelling(), gradients:
            yield self

    @contextmanager
    def sampling(self) -> Iterator[ComfyHost]:
        """The model loaded for prediction without gradients."""
        with self._loaded(1.0), torch.no_grad():
            yield self

    @contextmanager
    def _loaded(self, memory_factor: float) -> Iterator[None]:
        from comfy import model_management

        if self._active is not None:
            yield
            return
        patcher = self._patcher.clone()
        patcher.add_object_patch("model_sampling", raw_prediction(self._rules, self._objective))
        side = max(1, self.resolution // self.downscale)
        memory = patcher.memory_required([2, self.latent_channels, side, side]) * memory_factor
        model_management.load_models_gpu([patcher], memory_required=memory)
        try:
            patcher.pre_run()
            self._active = patcher
            yield
        finally:
            self._active = None
            patcher.cleanup()
            patcher.unpatch_model(unpatch_weights=False)


def _connected(part: Any, name: str) -> Any:
    if part is None:
        raise InvalidOptions(f"No {name} is connected. Connect the {name} that belongs to the model.")
    return part


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save; what was made in inference mode is copied."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def _differentiable_attention(_default: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's own attention: faster kernels that a user may have switched on have no backward pass."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


@contextmanager
def _explained() -> Iterator[None]:
    """Say which connection is wrong where torch would only name two matrices."""
    try:
        yield
    except RuntimeError as error:
        if "mat1 and mat2 shapes" not in str(error):
            raise
        raise IncompatibleBaseModel(
            f"The connected text encoder does not fit the connected model ({error}). Connect the CLIP that belongs "
            "to the model."
        ) from error


@contextmanager
def _cancelling() -> Iterator[None]:
    """Turn ComfyUI's interruption, raised inside any operation, into the library's."""
    from comfy.model_management import InterruptProcessingException

    try:
        yield
    except InterruptProcessingException as interruption:
        raise TrainingCancelled("The run was cancelled.") from interruption
