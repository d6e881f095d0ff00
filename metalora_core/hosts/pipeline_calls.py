"""Predictions and latents of any family by what its pipeline revealed, see `asked`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import InvalidOptions
from ..model.host import Conditioning
from .asked import Asked, Call, LatentMap, ask, at_path, mapped
from .latents import LatentSpace

__all__ = ["PipelineCalls", "PipelineSpace"]

_ASKED_PX = 256  # a multiple of what every family's pictures must be multiples of


class PipelineCalls:
    """A pipeline's denoiser as `Denoiser`, its text encoders as a `TextEncoder`, its autoencoder as a `LatentSpace`.

    A conditioning is the number of a prompt that was encoded; captions of different lengths therefore go together.

    Args:
        pipeline: Text-to-image, of diffusers.
        denoiser: Its component that predicts.
        guidance: For a guidance-distilled model.

    Raises:
        IncompatibleBaseModel: If the pipeline cannot be understood.
    """

    def __init__(self, pipeline: Any, denoiser: str, guidance: float) -> None:
        self._pipeline, self._denoiser, self._guidance = pipeline, denoiser, guidance
        self._prompts: list[str] = []
        self._encoded: dict[str, Any] = {}
        self._asked: dict[tuple[str, int, int], Asked] = {}
        self._unit = 1.0
        if "FlowMatch" in type(pipeline.scheduler).__name__:
            self._unit = float(pipeline.scheduler.config.num_train_timesteps)
        first = self._ask("", (_ASKED_PX, _ASKED_PX))
        self.channels = first.shape[0]
        self.space = PipelineSpace(pipeline.vae, downscale=_ASKED_PX // first.shape[1], map_at=self._map_at)

    def encode(self, prompts: list[str]) -> Conditioning:
        """``caption`` (B,): numbers of the prompts."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._prompts:
                self._ask(prompt, (_ASKED_PX, _ASKED_PX))
                self._prompts.append(prompt)
        return {"caption": torch.tensor([self._prompts.index(prompt) for prompt in prompts])}

    def passes(self, conditioning: Conditioning) -> list[list[int]]:
        """Rows that may go through the model together: those with prompts of equal length."""
        numbers: list[int] = conditioning["caption"].tolist()
        groups: dict[str, list[int]] = {}
        for row, number in enumerate(numbers):
            call = self._ask(self._prompts[number], (_ASKED_PX, _ASKED_PX)).call
            groups.setdefault(_kind(call), []).append(row)
        return list(groups.values())

    def denoise(self, model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """One prediction; see `Denoiser`."""
        if "caption" not in conditioning:
            raise InvalidOptions("Encode the prompts with this model's own pipeline.")
        numbers: list[int] = conditioning["caption"].tolist()
        groups = self.passes(conditioning)
        if len(groups) == 1:
            return self._predict(model, noisy, t, numbers)
        found = [self._predict(model, noisy[rows], t[rows], [numbers[row] for row in rows]) for rows in groups]
        order = torch.tensor([row for rows in groups for row in rows], device=noisy.device).argsort()
        return torch.cat(found)[order]

    def _predict(self, model: Any, noisy: Tensor, t: Tensor, numbers: list[int]) -> Tensor:
        calls = [self._call(number, tuple(noisy.shape[-2:])) for number in numbers]
        call, count = calls[0], len(calls)
        inputs = _stacked([one.inputs for one in calls], noisy)
        offset, slope = call.time
        latents = noisy.flatten(1)[:, call.places.to(noisy.device)]
        listed = isinstance(at_path(inputs, call.noisy_at[:1]), list)
        latents = latents.view(count, *call.noisy_shape) if listed else latents.view(count, *call.noisy_shape[1:])
        inputs[call.noisy_at[0]] = list(latents.unbind()) if listed else latents
        inputs[call.time_at[0]] = offset + slope * self._unit * t.float()
        positional = [inputs.pop(place) for place in sorted(key for key in inputs if isinstance(key, int))]
        output = model(*positional, **inputs)
        output = output[0] if isinstance(output, tuple) else output.sample
        output = torch.stack(list(output)) if isinstance(output, (list, tuple)) else output
        return (call.sign * output.flatten(1)[:, call.answers.to(noisy.device)]).view(noisy.shape)

    def _call(self, number: int, size: tuple[int, ...]) -> Call:
        downscale = self.space.downscale
        return self._ask(self._prompts[number], (size[0] * downscale, size[1] * downscale)).call

    def _map_at(self, size: tuple[int, int]) -> LatentMap:
        return self._ask("", (size[0] * self.space.downscale, size[1] * self.space.downscale)).latents

    def _ask(self, prompt: str, size_px: tuple[int, int]) -> Asked:
        key = (prompt, *size_px)
        if key not in self._asked:
            self._asked[key] = ask(self._pipeline, self._denoiser, prompt, size_px, self._guidance, self._encoded)
        return self._asked[key]


def _kind(call: Call) -> str:
    """What has to be equal for prompts to share a pass: the shapes of their tensors; lists may hold any."""
    own = {key: value for key, value in call.inputs.items() if key not in (call.noisy_at[0], call.time_at[0])}
    return repr({key: list if isinstance(value, list) else mapped(value, _shape) for key, value in own.items()})


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _stacked(rows: list[dict[str, Any]], like: Tensor) -> dict[Any, Any]:
    """Inputs of several rows as those of one batch, on the model's device."""

    def placed(tensor: Tensor) -> Tensor:
        # float64 is what the pipeline made in the type of its text embeddings, which was raised to tell it apart.
        return tensor.to(like.device, like.dtype if tensor.dtype == torch.float64 else None)

    return {key: mapped(_joined([row[key] for row in rows]), placed) for key in rows[0]}


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor) and first.dim() and first.shape[0] == 1:
        if all(value is first for value in values):
            return first.expand(len(values), *first.shape[1:])
        return torch.cat(values)
    if isinstance(first, list) and len(cast("list[Any]", first)) == 1:
        return [item for value in values for item in value]
    return first


@dataclass(frozen=True)
class PipelineSpace(LatentSpace):
    """A pipeline's autoencoder with the map that the pipeline revealed.

    Args:
        map_at: Height and width of a latent to its map.
    """

    map_at: Callable[[tuple[int, int]], LatentMap] | None = None

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to the denoiser's latents (B, C, H / downscale, W / downscale), float32."""
        height, width = (side // self.downscale for side in images.shape[-2:])
        told = self._map(height, width)
        weight = next(self.autoencoder.parameters())
        pictures = images.to(weight.device, weight.dtype) * 2 - 1
        frames = pictures if len(told.shape) == 3 else pictures.unsqueeze(2)
        values = cast(Any, self.autoencoder).encode(frames).latent_dist.mode().float().flatten(1)
        latents = torch.empty_like(values)
        latents[:, told.places.to(values.device)] = (values - told.shift.to(values)) / told.scale.to(values)
        return latents.view(len(images), -1, height, width)

    def decode(self, latents: Tensor) -> Tensor:
        """The denoiser's latents (B, C, h, w) to pictures (B, 3, H, W) clamped to 0..1, float32."""
        height, width = latents.shape[-2:]
        told = self._map(height, width)
        weight = next(self.autoencoder.parameters())
        values = latents.float().flatten(1)[:, told.places.to(latents.device)]
        values = (values * told.scale.to(values) + told.shift.to(values)).view(len(latents), *told.shape)
        pictures = cast(Any, self.autoencoder).decode(values.to(weight.device, weight.dtype)).sample.float()
        return ((pictures if pictures.dim() == 4 else pictures[:, :, 0]) * 0.5 + 0.5).clamp(0, 1)

    def _map(self, height: int, width: int) -> LatentMap:
        if self.map_at is None:
            raise InvalidOptions("This autoencoder has no map to its latents. Load the whole pipeline.")
        return self.map_at((height, width))
