"""Ask a pipeline how it calls its denoiser and what its latents are, so that no family's call is written down here.

The pipeline runs on latents with numbered elements, and a stand-in takes the place of its denoiser. Where the numbers
arrive shows how latents are packed; what the scheduler gets for the stand-in's answer shows how predictions are read;
what reaches the autoencoder shows the map to its space. Everything else that the denoiser was given stands for the
prompt and the picture size, and is given again in every pass of a training. The numbers are float64: none is rounded,
and tensors in the type of the text embeddings are distinguishable from those that the pipeline makes in its own type.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import IncompatibleBaseModel

__all__ = ["Asked", "Call", "LatentMap", "ask", "at_path", "mapped"]

_STEPS = 3  # two give a straight line of timesteps, the third proves it
Path = tuple[Any, ...]
"""Where a tensor stands in a call: keys and positions from the outside in."""


@dataclass(frozen=True)
class Call:
    """How a pipeline calls its denoiser for one prompt at one size.

    Args:
        inputs: Positional and named inputs of one row.
        noisy_at: Where the latents stand in them.
        time_at: Where the timestep stands.
        noisy_shape: Of the latents there, one row.
        places: For every element there, which element of the plain latent (C, h, w) it is.
        answers: For every element of the plain latent, which element of the denoiser's output it is.
        sign: What the output is multiplied by.
        time: Offset and slope from the scheduler's timestep to the denoiser's.
    """

    inputs: dict[Any, Any]
    noisy_at: Path
    time_at: Path
    noisy_shape: tuple[int, ...]
    places: Tensor
    answers: Tensor
    sign: float
    time: tuple[float, float]


@dataclass(frozen=True)
class LatentMap:
    """From plain latents (C, h, w) to what the autoencoder decodes: ``scale · latents[places] + shift``, one row.

    Args:
        shape: Of what the autoencoder decodes.
        places: For every element of it, which element of the plain latent it is.
        scale: Per element.
        shift: Per element.
    """

    shape: tuple[int, ...]
    places: Tensor
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Asked:
    """What a pipeline revealed: its call, its latents' map and the plain latent's shape (C, h, w)."""

    call: Call
    latents: LatentMap
    shape: tuple[int, ...]


class _NotPlain(Exception):
    """The pipeline calls its denoiser more than once a step, or with more than one row."""


class _Decoding(Exception):
    """Ends a run of the pipeline where its autoencoder would begin."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents


class _Answer(tuple[Any, ...]):
    @property
    def sample(self) -> Any:
        return self[0]

    prev_sample = sample


class _StandIn:
    """Says of itself what a network says, but computes nothing."""

    dtype = torch.float64

    def __init__(self, network: nn.Module, **methods: Callable[..., Any]) -> None:
        self._network = network
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods[name] if name in self._methods else getattr(self._network, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._methods["forward"](*args, **kwargs)


class _NumberedNoise(TorchFunctionMode):
    """The first normal noise that is drawn inside is numbered from 1 instead."""

    shape: tuple[int, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.randn and not self.shape:
            self.shape = tuple(result.shape)
            return torch.arange(1, result.numel() + 1, dtype=torch.float64, device=result.device).view(self.shape)
        return result


class _Run:
    """One run of a pipeline with stand-ins; ``ending`` gives the last step's latents from those before."""

    def __init__(self, ending: Callable[[Tensor], Tensor]) -> None:
        self.inputs: list[dict[Any, Any]] = []
        self.noisy_at: Path = ()
        self.steps: list[tuple[Tensor, float, Tensor]] = []
        self.decoded: Tensor | None = None
        self.noise = _NumberedNoise()
        self._ending = ending

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        count = torch.Size(self.noise.shape).numel()
        found = [at for at, leaf in _leaves(given) if leaf.numel() == count and _is_numbered(leaf)]
        if len(found) != 1 or len(self.inputs) != len(self.steps):
            raise _NotPlain
        self.noisy_at = found[0]
        self.inputs.append(given)
        noisy: Tensor = at_path(given, self.noisy_at)
        numbers = torch.arange(1, count + 1, dtype=torch.float64, device=noisy.device).view(noisy.shape)
        answer = (numbers, torch.ones_like(numbers), torch.zeros_like(numbers))[min(len(self.steps), 2)]
        return _Answer(([answer],) if isinstance(at_path(given, self.noisy_at[:1]), list) else (answer,))

    def step(self, prediction: Tensor, t: Any, noisy: Tensor) -> Tensor:
        self.steps.append((prediction.double(), float(t), noisy))
        return (self._ending(noisy) if len(self.steps) >= _STEPS else noisy).to(prediction.dtype)

    def decode(self, latents: Tensor, *_: Any, **__: Any) -> Any:
        raise _Decoding(latents)


def ask(pipeline: Any, denoiser: str, prompt: str, size_px: tuple[int, int], guidance: float, known: Any) -> Asked:
    """Ask a pipeline how it treats a prompt at a picture size.

    Args:
        pipeline: Text-to-image, of diffusers; it and its networks stay as they are.
        denoiser: Its component that predicts.
        prompt: Of one picture.
        size_px: Height and width.
        guidance: For a guidance-distilled model.
        known: A dictionary that keeps what its text encoders gave, so that each prompt is encoded once.

    Raises:
        IncompatibleBaseModel: If the pipeline cannot be understood; the message says where.
    """
    network = getattr(pipeline, denoiser)
    distilled = bool(getattr(network.config, "guidance_embeds", False))
    # Without guidance the denoiser is called once a step; most pipelines mean none by 1, some by 0.
    for scale in (guidance, 1.0, 0.0) if distilled else (1.0, 0.0):
        try:
            numbered = _run(pipeline, denoiser, prompt, size_px, scale, known, lambda noisy: noisy)
            ends = [
                _run(pipeline, denoiser, prompt, size_px, scale, known, fill).decoded
                for fill in (torch.ones_like, torch.zeros_like)
            ]
        except _NotPlain:
            continue
        return _understood(type(pipeline).__name__, numbered, ends)
    raise IncompatibleBaseModel(
        f"A {type(pipeline).__name__} calls its {denoiser} more than once a step or not with plain latents, so it "
        "cannot be trained from the command line. Use a text-to-image pipeline, or the nodes in ComfyUI."
    )


def _run(
    pipeline: Any, denoiser: str, prompt: str, size_px: tuple[int, int], scale: float, known: Any,
    ending: Callable[[Tensor], Tensor],
) -> _Run:  # fmt: skip
    run = _Run(ending)
    asked = copy.copy(pipeline)
    vae = asked.vae
    stand_ins = {
        denoiser: _StandIn(getattr(asked, denoiser), forward=run.forward),
        "vae": _StandIn(vae, decode=run.decode),
        "scheduler": _listening(asked.scheduler, run),
        "encode_prompt": _remembering(pipeline.encode_prompt, known),
    }
    vars(asked).update(stand_ins)
    asked.set_progress_bar_config(disable=True)
    taken = inspect.signature(type(pipeline).__call__).parameters
    inputs = {
        "prompt": prompt, "height": size_px[0], "width": size_px[1], "num_inference_steps": _STEPS,
        "guidance_scale": scale, "true_cfg_scale": 1.0, "output_type": "pt",
    }  # fmt: skip
    try:
        with torch.no_grad(), run.noise:
            asked(**{name: value for name, value in inputs.items() if name in taken})
    except _Decoding as end:
        run.decoded = end.latents
    except _NotPlain:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise IncompatibleBaseModel(
            f"It could not be determined how a {type(pipeline).__name__} calls its model ({str(error)[:300]}). Use a "
            "text-to-image pipeline, or the nodes in ComfyUI."
        ) from error
    if run.decoded is None or len(run.steps) < _STEPS:
        raise _NotPlain
    return run


def _listening(scheduler: Any, run: _Run) -> Any:
    kind: Any = type(scheduler)

    class Listening(kind):
        init_noise_sigma = 1.0

        def scale_model_input(self, sample: Tensor, *_: Any, **__: Any) -> Tensor:
            return sample

        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **__: Any) -> Any:
            return _Answer((run.step(model_output, timestep, sample),))

    return Listening.from_config(scheduler.config)


def _remembering(encode: Callable[..., Any], known: dict[str, Any]) -> Callable[..., Any]:
    def remembered(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items())))
        if key not in known:
            with torch.no_grad():
                known[key] = encode(*args, **kwargs)
        return mapped(known[key], lambda leaf: leaf.double() if leaf.is_floating_point() else leaf)

    return remembered


def _understood(name: str, run: _Run, ends: list[Tensor | None]) -> Asked:
    plain = tuple(size for size in run.noise.shape[1:] if size != 1)
    prediction, _, noisy = run.steps[0]
    signs = run.steps[1][0].unique()
    times = [at for at, leaf in _leaves(run.inputs[0]) if not torch.equal(leaf, at_path(run.inputs[1], at))]
    if (
        len(plain) != 3
        or signs.numel() != 1
        or run.steps[2][0].any()
        or len(times) != 1
        or prediction.shape != noisy.shape
    ):
        raise IncompatibleBaseModel(
            f"A {name} uses latents {run.noise.shape}, predictions or timesteps in a way that cannot be trained here. "
            "Use the nodes in ComfyUI."
        )
    sign = float(signs)
    order = torch.empty(noisy.numel(), dtype=torch.long)
    order[_numbers(noisy)] = _numbers(prediction / sign)
    values = [float(at_path(inputs, times[0]).double().flatten()[0]) for inputs in run.inputs[:_STEPS]]
    call = Call(
        run.inputs[0], run.noisy_at, times[0], tuple(at_path(run.inputs[0], run.noisy_at).shape),
        _numbers(at_path(run.inputs[0], run.noisy_at)), order, sign, _line(name, [t for _, t, _ in run.steps], values),
    )  # fmt: skip
    return Asked(call, _latent_map(name, run.decoded, ends), plain)


def _line(name: str, theirs: list[float], values: list[float]) -> tuple[float, float]:
    slope = (values[1] - values[0]) / (theirs[1] - theirs[0])
    offset = values[0] - slope * theirs[0]
    if abs(offset + slope * theirs[2] - values[2]) > 1e-3 * max(1.0, abs(values[2])):
        raise IncompatibleBaseModel(
            f"A {name} passes timesteps to its denoiser in an unusual way. Use the nodes in ComfyUI."
        )
    return round(offset, 6), round(slope, 9)


def _latent_map(name: str, numbered: Tensor | None, ends: list[Tensor | None]) -> LatentMap:
    ones, zeros = ends
    if numbered is None or ones is None or zeros is None:
        raise IncompatibleBaseModel(f"A {name} decodes no latents. Use the nodes in ComfyUI.")
    shift, scale = zeros.double().cpu(), (ones - zeros).double().cpu()
    places = ((numbered.double().cpu() - shift) / scale).round().long().flatten() - 1
    return LatentMap(tuple(numbered.shape[1:]), places, scale.flatten().float(), shift.flatten().float())


def _numbers(tensor: Tensor) -> Tensor:
    return tensor.cpu().round().long().flatten() - 1


def _is_numbered(tensor: Tensor) -> bool:
    numbers = torch.arange(1, tensor.numel() + 1, dtype=torch.float64)
    return torch.equal(tensor.double().cpu().flatten().sort().values, numbers)


def _leaves(inputs: Any, at: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(inputs, Tensor):
        yield at, inputs
    elif isinstance(inputs, Mapping):
        for key, value in inputs.items():
            yield from _leaves(value, (*at, key))
    elif isinstance(inputs, (list, tuple)):
        for place, value in enumerate(inputs):
            yield from _leaves(value, (*at, place))


def at_path(inputs: Any, path: Path) -> Any:
    """What stands at a path of nested inputs."""
    for key in path:
        inputs = inputs[key]
    return inputs


def mapped(inputs: Any, change: Callable[[Tensor], Any]) -> Any:
    """Nested inputs with every tensor changed."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {key: mapped(value, change) for key, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(mapped(value, change) for value in inputs)
    return inputs
