"""A ComfyUI MODEL, CLIP and VAE as the host that the training loops see."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ....metalora_core.errors import IncompatibleBaseModel, InvalidOptions, TrainingCancelled
from ....metalora_core.model.compiled_pass import hooks_guarded
from ....metalora_core.model.host import Conditioning
from ....metalora_core.model.objective import MixedObjective
from ....metalora_core.model.targets import Target
from ....metalora_core.photos.training_set import GivenCaption
from .carried import carried_wrappers, ordinary_adapters
from .conditioning import Captions, Conds, encode_prompt, model_conds
from .digests import model_digest
from .given import REFERENCE, Channels, blank, conds_with, entries_of
from .gradients import exact_gradients
from .latents import LatentFormat
from .sampling_rules import RawPrediction, objective_of
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
        guidance: Guidance value for training guidance-distilled models.
        checkpointing: Recompute blocks in the backward pass: less memory, about a third more time.

    Raises:
        InvalidOptions: If the model cannot take pictures of this resolution.

    Attributes:
        rows_together: Whether samples may share a pass; a trial finds models in which one row changes another.
        patcher: ComfyUI's MODEL.
        overwrites: Whether the model writes over what its backward pass needs; copies are then kept.
        pictures: What an edit or inpaint model is given beside a caption that brings no pictures of its own.
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
        self.patcher, self._clip, self._vae = model, clip, vae
        self._guidance, self.resolution = guidance, resolution
        self._active: Any = None
        self._latents = LatentFormat(model.model)
        if resolution % self.downscale or resolution < self.downscale:
            nearest = max(1, resolution // self.downscale) * self.downscale
            raise InvalidOptions(
                f"resolution is {resolution}; this model takes multiples of {self.downscale}, such as {nearest}."
            )
        self.captions = Captions(model.load_device)
        self.channels = Channels.of(model.model, self._latents.unfolded(self._zeros(torch.device("cpu"))))
        self.pictures: Mapping[str, Tensor] = blank(self._side * self.downscale) if self.channels.fills and vae else {}
        self._encoded: dict[int, tuple[Tensor, Tensor]] = {}
        self.rows_together, self.overwrites = True, False
        self.checkpointing = checkpointing
        self.swapped, self.can_swap = False, False  # ComfyUI moves weights by itself
        self._compilers, self._wrappers = compile_wrappers(model), carried_wrappers(model)
        self.compiled = bool(self._compilers)
        self._rules = model.get_model_object("model_sampling")
        self._objective = objective_of(self._rules)

    @property
    def family(self) -> str:
        return family_of(self.patcher)

    @property
    def model(self) -> nn.Module:
        return self.patcher.model.diffusion_model

    @property
    def objective(self) -> MixedObjective:
        return self._objective

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self.patcher)

    @property
    def latent_channels(self) -> int:
        return self._latents.channels

    @property
    def downscale(self) -> int:
        return self._latents.downscale

    def targets(self) -> tuple[Target, ...]:
        return targets_of(self.patcher)

    def weights_digest(self) -> str:
        return model_digest(self.patcher)

    def encode_images(self, images: Tensor) -> Tensor:
        vae = _connected(self._vae, "VAE")
        with torch.inference_mode():
            latents = self._latents.encode(vae, images)
        with torch.inference_mode(False):
            return latents.clone().to(self.device)

    def decode_latents(self, latents: Tensor) -> Tensor:
        if self._active is not None and self.device.type != "cpu":
            return self._latents.colours(latents)
        vae = _connected(self._vae, "VAE")
        with torch.inference_mode(), _cancelling():
            images = self._latents.decode(vae, latents)
        with torch.inference_mode(False):
            return images.float().clamp(0, 1).cpu().clone()

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        unknown = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.captions]
        if unknown:
            clip = _connected(self._clip, "CLIP")
            with torch.inference_mode():
                pictures = [self._pictures_of(prompt) for prompt in unknown]
                seen = [each.get(REFERENCE) for each in pictures]
                entries = [encode_prompt(clip, text, ref)[0] for text, ref in zip(unknown, seen, strict=True)]
                given = [entries_of(each, self._raw, self.channels) for each in pictures]
            # Some models refine the text with layers of their own, so they have to be loaded, as they are for sampling.
            with self.sampling(), torch.inference_mode(), _explained():
                for prompt, entry, beside in zip(unknown, entries, given, strict=True):
                    self.captions.keep(prompt, self._conds_of(entry, beside))
        return self.captions.numbered(prompts)

    def _conds_of(self, entry: list[Any], given: Mapping[str, Any]) -> Conds:
        noise, device = self._latents.unfolded(self._zeros(self.device)), self.device
        base, guidance = self.patcher.model, self._guidance
        return conds_with(lambda entries: model_conds(base, entry, noise, device, guidance, entries), given)

    def _pictures_of(self, prompt: str) -> Mapping[str, Tensor]:
        return prompt.pictures if isinstance(prompt, GivenCaption) else self.pictures

    def _raw(self, picture: Tensor) -> Tensor:
        """A picture (3, H, W) as the VAE gives it; what several captions share is encoded once."""
        if id(picture) not in self._encoded:  # the picture is kept, so that its id stays its own
            self._encoded[id(picture)] = picture, self._latents.raw(_connected(self._vae, "VAE"), picture[None])
        return self._encoded[id(picture)][1]

    def _zeros(self, device: torch.device) -> Tensor:
        return torch.zeros(1, self.latent_channels, self._side, self._side, device=device)

    def passes(self, conditioning: Conditioning) -> list[list[int]]:
        """Rows of a batch that go through the model together; the others follow in passes of their own."""
        groups = self.captions.groups(conditioning)
        # A wrapper such as a time window may check one noise level only.
        return groups if self.rows_together and not self._wrappers else [[row] for group in groups for row in group]

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        if self._active is None:
            with self.sampling():
                return self.predict(noisy, t, conditioning)
        passes = self.passes(conditioning)
        if len(passes) == 1:
            return self._pass(noisy, t, conditioning)
        done: dict[int, Tensor] = {}
        for rows in passes:
            given = {name: value[rows] for name, value in conditioning.items()}
            done |= zip(rows, self._pass(noisy[rows], t[rows], given).split(1), strict=True)
        return torch.cat([done[row] for row in sorted(done)])

    def _pass(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        latents = self._latents.unfolded(_ordinary(noisy))
        given = self.captions.joined(conditioning, latents.shape[2:])
        compiled = self.compiled and torch.is_grad_enabled()
        with _cancelling(), _explained(), hooks_guarded() if compiled else nullcontext():
            prediction = self._active.model.apply_model(
                latents, _ordinary(t), transformer_options=self._options(t, compiled), **given
            )
        return self._latents.folded(prediction).to(noisy.dtype)

    def _options(self, t: Tensor, compiled: bool) -> dict[str, Any]:
        """What models find beside their inputs, filled as core's sampler fills it in a step from t to the end."""
        from comfy.patcher_extension import merge_nested_dicts

        options = dict(self._active.model_options.get("transformer_options", {}))
        options["optimized_attention_override"] = _differentiable_attention
        options["cond_or_uncond"], options["uuids"] = [0] * len(t), [uuid.uuid4() for _ in t]
        options["sigmas"], options["sample_sigmas"] = t, torch.stack([t[0], torch.zeros_like(t[0])])
        # A model may keep a prompt's keys and values between steps unless a block is replaced; here its weights change.
        blocks = options.get("patches_replace", {})
        options["patches_replace"] = {**blocks, "dit": {**blocks.get("dit", {}), "metalora": None}}
        for wrappers in (self._wrappers, self._compilers if compiled else {}):
            options["wrappers"] = merge_nested_dicts(dict(options.get("wrappers", {})), wrappers)
        return options

    @property
    def _side(self) -> int:
        return max(1, self.resolution // self.downscale)

    @property
    def can_checkpoint(self) -> bool:
        # What is written over between a pass and its recomputation would spoil it, so such a model keeps everything.
        return not self.overwrites

    @contextmanager
    def training(self) -> Iterator[ComfyHost]:
        recomputed = self.checkpointing and self.can_checkpoint
        gradients = exact_gradients(self.model, checkpointing=recomputed, overwrites=self.overwrites)
        with self._loaded(TRAINING_MEMORY_FACTOR), _cancelling(), ordinary_adapters(self._active), gradients:
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
        patcher = self.patcher.clone()
        patcher.add_object_patch("model_sampling", RawPrediction(self._rules))
        rows = 4 if REFERENCE in self.pictures else 2  # a reference is read like a sample of its own
        memory = patcher.memory_required([rows, self.latent_channels, self._side, self._side]) * memory_factor
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
    """PyTorch's own attention: faster kernels that a user may have enabled have no backward pass."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


@contextmanager
def _explained() -> Iterator[None]:
    """Say which connection is wrong; torch would only name two matrices."""
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
