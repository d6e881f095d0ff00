"""A diffusers model as a host of both training loops and of the sampler."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import IncompatibleBaseModel, InvalidOptions
from ..model.compiled_pass import compiled_pass, fast_pass
from ..model.families import Family
from ..model.host import Conditioning
from ..model.objective import EpsObjective, FlowObjective, Objective, scaled_linear_alphas
from ..model.targets import Target
from ..model.weights_digest import weights_digest
from .architecture import Denoiser, architecture_of, base_of, family_of
from .block_store import BlockPlace, BlockStore, repeated_blocks
from .latents import LatentSpace, require_multiple
from .pipeline_calls import PipelineCalls
from .target_map import find_targets

TextEncoder = Callable[[list[str]], Conditioning]
"""Prompts to conditioning: ``context`` (B, T, C) and mostly ``pooled`` (B, C); batch first."""


_ALONE = (
    "This model has only the denoiser and no {}. Give a diffusers pipeline folder as the model, or add "
    "--pipeline-config FOLDER, a pipeline folder of the same family with the rest."
)


class DiffusersHost:
    """A denoiser of diffusers with its autoencoder and text encoder; see `metalora_core.model.host.Host`.

    Args:
        model: A denoiser of one of the families in `metalora_core.model.families`.
        autoencoder: AutoencoderKL, AutoencoderTiny or a `LatentSpace`; None if pictures are never needed.
        text_encoder: Prompts to conditioning; None if prompts are never needed.
        objective: How the model was trained; None means the family's usual one: rectified flow, or eps with Stable
            Diffusion's schedule.
        guidance: The guidance input of a guidance-distilled model; 3.5 is usual for FLUX.1-dev.
        gradient_checkpointing: Trade a second forward pass for memory in `training`.
        compiled: Compile the passes in `training`: a minute or more for the first one, faster steps afterwards.
        calls: What the model's pipeline revealed, for a family without code of its own.
        swapped: Keep the blocks in main memory during `training`; needs gradient_checkpointing to save anything.

    Raises:
        IncompatibleBaseModel: If the model is of another class or a variant with extra input channels.
    """

    def __init__(
        self,
        model: nn.Module,
        autoencoder: nn.Module | LatentSpace | None = None,
        text_encoder: TextEncoder | None = None,
        objective: Objective | None = None,
        *,
        guidance: float = 3.5,
        gradient_checkpointing: bool = False,
        compiled: bool = False,
        swapped: bool = False,
        calls: PipelineCalls | None = None,
    ) -> None:
        self._row = family_of(model)
        code = architecture_of(self._row)
        self.family = self._row.name
        self.base = base_of(model)
        self.model = model
        self.objective = objective or _usual_objective(self._row)
        self.guidance = guidance
        self._wants_guidance = bool(getattr(getattr(model, "config", None), "guidance_embeds", False))
        self.checkpointing, self.can_checkpoint = gradient_checkpointing, True
        self.compiled = compiled
        self.swapped = swapped
        self.latent_channels = calls.channels if calls else _latent_channels(model, self._row)
        self._space = LatentSpace.of(autoencoder) if isinstance(autoencoder, nn.Module) else autoencoder
        self._text_encoder = text_encoder
        if code is None and calls is None:
            raise InvalidOptions(f"{self.base.title} needs its complete pipeline; load the pipeline folder.")
        self.denoise: Denoiser = code.denoise if code else cast(PipelineCalls, calls).denoise
        self._steady = code.steady if code else nullcontext
        if calls is not None:
            self.passes = calls.passes
        self._targets: tuple[Target, ...] | None = None
        self._mode = ""
        self._store: BlockStore | None = None
        self._store_is_lent = False

    @property
    def device(self) -> torch.device:
        """Of the model's weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return next(self.model.parameters()).dtype

    @property
    def can_swap(self) -> bool:
        """Whether `swapped` would save anything: on a card, and unless the blocks are kept elsewhere for good.

        Some families recompute smaller parts than their blocks.
        """
        return self.device.type == "cuda" and self._row.swaps_blocks and (self._store is None or self._store_is_lent)

    @property
    def downscale(self) -> int:
        """Picture pixels per latent pixel."""
        return self._space.downscale if self._space else 8

    def targets(self) -> tuple[Target, ...]:
        """Every layer that can be adapted, under ComfyUI's names."""
        if self._targets is None:
            self._targets = find_targets(self.model)
        return self._targets

    def weights_digest(self) -> str:
        """Of the denoiser's parameters, and of how passes are computed, so that a training resumes as it began."""
        digest = weights_digest(self.model.named_parameters())
        return f"{digest} {self._mode or 'compiled' * self.compiled}".rstrip()

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures to latents in the denoiser's own (scaled) space; see `LatentSpace`.

        Args:
            images: (B, 3, H, W) in 0..1; sides must be multiples of `downscale` times the family's patch.

        Raises:
            InvalidOptions: If the sides do not fit or the host has no autoencoder.
        """
        space = self._require_space()
        require_multiple(images, space.downscale * self._row.patch)
        return space.encode(images).to(self.device)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents in the denoiser's space to pictures (B, 3, H, W) in 0..1.

        Raises:
            InvalidOptions: If the host has no autoencoder.
        """
        return self._require_space().decode(latents)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """Prompts to conditioning, one row each, on the model's device.

        Raises:
            InvalidOptions: If the host has no text encoder.
        """
        if self._text_encoder is None:
            raise InvalidOptions(_ALONE.format("text encoder"))
        return {name: value.to(self.device) for name, value in self._text_encoder(prompts).items()}

    def passes(self, conditioning: Conditioning) -> list[list[int]]:
        """All rows of a batch in one pass."""
        return [list(range(len(next(iter(conditioning.values())))))]

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The model's prediction.

        Args:
            noisy: (B, C, h, w).
            t: (B,) in the objective's unit: 0..1 for flow, 0..999 for eps and v.
            conditioning: As `encode_prompts` gives it; ``guidance`` (B,) overrides the host's, ``time_ids`` (B, 6) the
                picture size, where the model takes one.

        Returns:
            Like noisy, in its dtype.
        """
        if self._wants_guidance and "guidance" not in conditioning:
            guidance = torch.full((len(noisy),), self.guidance, device=noisy.device)
            conditioning = {**conditioning, "guidance": guidance}
        return self.denoise(self.model, noisy.to(self.dtype), t, conditioning).to(noisy.dtype)

    @contextmanager
    def fast_training(self) -> Generator[None]:
        """Passes of a training in this block are compiled and in bfloat16, see `fast_pass`; sampling stays."""
        with self._passes_by(partial(fast_pass, device_type=self.device.type), "fast"):
            yield

    @contextmanager
    def _passes_by(self, make: Callable[[Callable[..., Tensor]], Callable[..., Tensor]], mode: str) -> Generator[None]:
        """Let passes with gradients go through what is made of the plain one."""
        plain, mode_before = self.denoise, self._mode
        made = make(partial(plain, self.model))

        def denoise(model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            return made(noisy, t, conditioning) if torch.is_grad_enabled() else plain(model, noisy, t, conditioning)

        self.denoise, self._mode = denoise, mode
        try:
            yield
        finally:
            self.denoise, self._mode = plain, mode_before

    @contextmanager
    def training(self) -> Generator[None]:
        """Gradients on, base parameters frozen, dropout off; all flags are restored afterwards, whatever happens."""
        model = self.model
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        was_training = model.training
        try:
            model.requires_grad_(False).eval()
            compiling = self.compiled and not self._mode
            passes = self._passes_by(compiled_pass, "compiled") if compiling else nullcontext()
            self._lend_blocks(wanted=self.swapped and self.can_swap)
            with torch.inference_mode(False), torch.enable_grad(), self._steady(model), self._recomputing(), passes:
                yield
            self._lend_blocks(wanted=False)
        finally:
            model.train(was_training)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    @contextmanager
    def _recomputing(self) -> Generator[None]:
        model, blocks = cast(Any, self.model), list[Any]()
        if self.checkpointing and self._row.recomputes_rightly:
            model.enable_gradient_checkpointing()
        elif self.checkpointing:
            blocks = repeated_blocks(model)
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        try:
            yield
        finally:
            for block in blocks:
                del block.forward
            if self.checkpointing and not blocks:
                model.disable_gradient_checkpointing()

    def keep_blocks(self, place: BlockPlace) -> None:
        """Keep the blocks elsewhere or in fewer bits from now on; the plain place brings them back.

        Args:
            place: Where.

        Raises:
            InvalidOptions: If this model's blocks cannot be kept there.
        """
        place.check(self.device, self._row)
        if self._store is not None:
            self._store.onload()
            self._store, self._store_is_lent = None, False
        if place != BlockPlace():
            offload_device = torch.device("cpu") if place.in_main_memory else self.device
            self._store = BlockStore(self.model, self.device, offload_device, place.dtype)

    def _lend_blocks(self, *, wanted: bool) -> None:
        """Put the blocks into main memory for a training, or bring them back from it.

        After a training that failed they stay there until the next one: the card may still be full.
        """
        if wanted and self._store is None:
            self._store, self._store_is_lent = BlockStore(self.model, self.device, torch.device("cpu")), True
        elif not wanted and self._store is not None and self._store_is_lent:
            self._store.onload()
            self._store, self._store_is_lent = None, False

    def _require_space(self) -> LatentSpace:
        if self._space is None:
            raise InvalidOptions(_ALONE.format("autoencoder"))
        return self._space


def _usual_objective(family: Family) -> Objective:
    return EpsObjective(scaled_linear_alphas()) if family.predicts == "eps" else FlowObjective()


def _latent_channels(model: nn.Module, family: Family) -> int:
    config: Any = getattr(model, "config", None)
    channels, out = config.in_channels, config.out_channels or config.in_channels
    if channels != out:
        raise IncompatibleBaseModel(
            f"The model has {channels} input and {out} output channels: an inpainting or control variant. Use the "
            "family's text-to-image model."
        )
    return channels // family.patch**2 if family.packed else channels
