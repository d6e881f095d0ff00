"""A trial pass before a run: what the model's layers do, and whether this ComfyUI computes as expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ....metalora_core.chain import ChainFactors
from ....metalora_core.errors import HostChanged, MetaLoRAError, is_out_of_memory
from ....metalora_core.inject import Injection
from ....metalora_core.model.families import default_patterns
from ....metalora_core.model.host import Conditioning
from ....metalora_core.model.objective import loss_scale
from ....metalora_core.model.structure import LayerFacts, dead_layers, role_of, structural_targets
from ....metalora_core.model.targets import Target, choose_targets
from .comfy_host import ComfyHost
from .targets import PREFIX

REPORT = "https://github.com/meta-lora/meta-lora/issues"
_LEVEL, _OTHER_LEVEL = 0.6, 0.3
_SMALLEST = 16  # latent pixels; larger latents are tried at half their side
_SHARE = {True: 0.02, False: 0.1}  # of the loss, by which a slope is measured; in float32, and in fewer bits
_SLOPE = {True: 0.05, False: 0.35}  # relative error that rounding and curvature may leave
_SHORTER = {True: (1, 8, 64, 512), False: (1, 8, 64)}
_SETTLED = 0.1  # relative change between two steps, below which a slope is that of the tangent
_EFFECT = {True: 0.999, False: 0.6}  # cosine of what a hook and a patched weight change in the prediction


@dataclass(frozen=True)
class Trial:
    """What the trial found.

    Args:
        facts: Per layer that was tried.
        rows_together: Whether every layer keeps a sample in a row, so that samples with chains of their own share a
            pass.
    """

    facts: Mapping[str, LayerFacts]
    rows_together: bool

    @property
    def dead(self) -> tuple[str, ...]:
        """Layers that cannot learn."""
        return dead_layers(self.facts)


def try_out(host: ComfyHost, targets: Sequence[Target], caption: str) -> Trial:
    """Run the model once forwards and backwards and a few times forwards, on one latent, and set the host by it.

    Args:
        host: Its ``rows_together`` and ``overwrites`` are set.
        targets: Layers that may be trained.
        caption: One that the run will use.

    Raises:
        HostChanged: If hooked and patched weights disagree, or a gradient does not agree with the loss's slope.
    """
    conditioning = host.encode_prompts([caption])
    whole = max(1, host.resolution // host.downscale)
    half = whole // 2 if whole >= 2 * _SMALLEST and whole % 4 == 0 else whole
    compiled, host.compiled = host.compiled, False
    try:
        try:
            return _within_memory(host, targets, conditioning, half)
        except (MetaLoRAError, torch.OutOfMemoryError):
            raise
        except Exception:
            if half == whole:
                raise
            return _within_memory(host, targets, conditioning, whole)  # a few models take their trained sizes only
    except Exception as error:
        if isinstance(error, MetaLoRAError) or is_out_of_memory(error):
            raise
        said = (str(error) or "no message").splitlines()[0]
        raise _changed(f"a training pass ended with {type(error).__name__}: {said}") from error
    finally:
        host.compiled = compiled


def trainable_layers(host: ComfyHost, caption: str) -> tuple[str, ...]:
    """Layers that a prior for this model trains: the family's, or by structure where the family is unknown."""
    patterns = default_patterns(host.family)
    offered = choose_targets(host.targets(), patterns)
    trial = try_out(host, offered, caption)
    if patterns == ("*",):
        return structural_targets(trial.facts)
    return tuple(name for name in trial.facts if name not in trial.dead)


def _within_memory(host: ComfyHost, targets: Sequence[Target], conditioning: Conditioning, side: int) -> Trial:
    try:
        return _tried(host, targets, conditioning, side)
    except Exception as error:
        if host.checkpointing or not is_out_of_memory(error):
            raise
    host.checkpointing = True
    return _tried(host, targets, conditioning, side)


def _tried(host: ComfyHost, targets: Sequence[Target], conditioning: Conditioning, side: int) -> Trial:
    try:
        passes = _Passes(host, targets, conditioning, side)
    except RuntimeError as error:
        if host.overwrites or not _is_overwriting(error):
            raise
        host.overwrites = True
        passes = _Passes(host, targets, conditioning, side)
    trial = Trial(passes.facts, passes.rows_agree())
    host.rows_together = trial.rows_together
    return trial


def _is_overwriting(error: RuntimeError) -> bool:
    return any(words in str(error) for words in ("inplace operation", "in-place operation", "out=... arguments"))


class _Passes:
    """The passes themselves; the first one, with its gradients, is run at once."""

    def __init__(self, host: ComfyHost, targets: Sequence[Target], conditioning: Conditioning, side: int) -> None:
        self.host, self.targets, self.conditioning = host, targets, conditioning
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(2, 1, host.latent_channels, side, side, generator=generator)
        self.latent, self.noise = drawn.to(host.device)
        self.levels = host.objective.timesteps_from_uniform(torch.tensor([_LEVEL, _OTHER_LEVEL])).to(host.device)
        self.exact = host.dtype == torch.float32 and all(_is_whole(host.model.get_submodule(t.name)) for t in targets)
        self.factors = {target.name: _chain(target, generator, host.device) for target in targets}
        with host.training():
            self.loss, gradients, rows = self._backward()
        self.facts = {
            target.name: LayerFacts(target.shape, rows.get(target.name, 0), bool(gradients[target.name].any()))
            for target in targets
        }
        sample = {role_of(name): name for name, fact in reversed(self.facts.items()) if fact.learns}
        if not sample:
            raise _changed("no layer got a gradient")
        self.ups = {name: gradients[name] for name in sample.values()}

    def _backward(self) -> tuple[float, dict[str, Tensor], dict[str, int]]:
        """Loss of the unchanged model, its gradient to every up, and the vectors that every layer was given."""
        rows: dict[str, int] = {}
        scale = loss_scale(self.host.dtype)
        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
            for name, chain in self.factors.items():
                chain.up = torch.zeros_like(chain.up, requires_grad=True)
                layer = self.host.model.get_submodule(name)
                stack.callback(layer.register_forward_pre_hook(_counter(rows, name)).remove)
            stack.enter_context(Injection(self.host.model, self.targets, self.factors))
            loss = self._losses(self._predict(self.levels[:1]))[0]
            (loss * scale).backward()
        found = {name: chain.up.grad for name, chain in self.factors.items()}
        zeros = {name: torch.zeros_like(chain.up) for name, chain in self.factors.items()}
        return loss.item(), {n: zeros[n] if grad is None else grad / scale for n, grad in found.items()}, rows

    def _predict(self, t: Tensor) -> Tensor:
        rows = len(t)
        latents, noise = self.latent.expand(rows, -1, -1, -1), self.noise.expand(rows, -1, -1, -1)
        noisy = self.host.objective.make_noisy(latents, noise, t).to(self.host.dtype)
        given = {name: value.expand(rows) for name, value in self.conditioning.items()}
        return self.host.predict(noisy, t, given).float()

    def _losses(self, predictions: Tensor) -> Tensor:
        rows = len(predictions)
        wanted = self.host.objective.target(self.latent, self.noise, self.levels[:1]).expand(rows, -1, -1, -1)
        return (predictions - wanted).square().flatten(1).mean(1)

    @torch.no_grad()
    def rows_agree(self) -> bool:
        """Test hooks and gradients; returns whether rows of a batch are samples in every layer.

        One batch holds the chains moved along their gradient, against it, and not at all at another noise level.
        """
        with self.host.training(), torch.no_grad():
            step = _SHARE[self.exact] * self.loss / 2 / self._steepness
            patched = self._patched(step)
            hooked = self._hooked_together(step)
            together = hooked is not None and (patched is None or self._same_effect(hooked, patched))
            if hooked is None or not together:
                hooked = self._hooked_apart(step)
                if patched is not None and not self._same_effect(hooked, patched):
                    raise _changed("a layer gives different results with hooks than with patched weights")
            self._check_slopes(hooked, step)
        return together

    def _same_effect(self, hooked: Tensor, patched: Tensor) -> bool:
        ours, core = (hooked[0] - hooked[1]).flatten(), (patched - hooked[1]).flatten()
        return float(torch.cosine_similarity(ours, core, dim=0)) >= _EFFECT[self.exact] and bool(
            (ours - core).norm() <= 2 * (1 - _EFFECT[self.exact]) ** 0.5 * core.norm()
        )

    def _check_slopes(self, hooked: Tensor, step: float) -> None:
        """Hold the gradient against differences of the loss, over shorter steps where a longer one is curved.

        In few bits rounding may hide the slope of a short step; then only one that settles elsewhere is an error.
        """
        before, settled = float("inf"), self.exact
        for shorter in _SHORTER[self.exact]:
            found = self._slope(hooked if shorter == 1 else self._hooked_apart(step / shorter), step / shorter)
            if abs(found - 1) <= _SLOPE[self.exact]:
                return
            settled = settled or abs(found - before) <= _SETTLED * abs(found)
            before = found
        if settled:
            raise _changed(f"along its gradient the loss rises {before:.3g} times as fast as the gradient says")

    def _slope(self, hooked: Tensor, step: float) -> float:
        """Rise of the loss along its gradient, in units of what the gradient says."""
        up, down = self._losses(hooked).tolist()
        return (up - down) / (2 * step * self._steepness)

    @property
    def _steepness(self) -> float:
        return sum(float(up.square().sum()) for up in self.ups.values())

    def _moved(self, step: float) -> dict[str, ChainFactors]:
        return {name: replace(self.factors[name], up=step * up) for name, up in self.ups.items()}

    def _hooked_apart(self, step: float) -> Tensor:
        rows = []
        for sign in (1, -1):
            with Injection(self.host.model, self.targets, self._moved(sign * step)):
                rows.append(self._predict(self.levels[:1]))
        return torch.cat(rows)

    def _hooked_together(self, step: float) -> Tensor | None:
        signs = torch.tensor([1.0, -1.0, 0.0], device=self.host.device)[:, None, None]
        chains = {
            name: replace(chain, mid=chain.mid.expand(3, -1, -1), up=signs * chain.up)
            for name, chain in self._moved(step).items()
        }
        try:
            with Injection(self.host.model, self.targets, chains):
                return self._predict(self.levels[[0, 0, 1]])[:2]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return None

    def _patched(self, step: float) -> Tensor | None:
        """The prediction with core's own patches in the weights, or None where a layer takes no patch while it runs."""
        moved = self._moved(step)
        layers = {name: self.host.model.get_submodule(name) for name in moved}
        if not all(hasattr(layer, "weight_function") and _is_cores(layer) for layer in layers.values()):
            return None
        with ExitStack() as stack:
            for name, chain in moved.items():
                stack.enter_context(_weight_changed(layers[name], _patch(name, chain)))
            return self._predict(self.levels[:1])


def _chain(target: Target, generator: torch.Generator, device: torch.device) -> ChainFactors:
    with torch.inference_mode(False):
        down = torch.randn(2, *target.shape[1:], generator=generator) / target.shape[1] ** 0.5
        return ChainFactors(
            down.to(device), torch.eye(2, device=device), torch.zeros(target.shape[0], 2, device=device)
        )


def _counter(rows: dict[str, int], name: str) -> Callable[..., None]:
    def count(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows[name] = max(rows.get(name, 0), inputs[0].numel() // inputs[0].shape[-1])

    return count


def _is_whole(layer: nn.Module) -> bool:
    weight: Any = layer.weight
    return type(weight.data) is Tensor and weight.dtype == torch.float32


def _is_cores(layer: nn.Module) -> bool:
    """Whether core's own code casts the weight; other loaders' tensors carry their patches with them."""
    weight: Any = layer.weight
    return type(weight.data) is Tensor or hasattr(weight, "_qdata")


def _patch(name: str, chain: ChainFactors) -> Callable[[Tensor], Tensor]:
    from comfy.lora import calculate_weight
    from comfy.weight_adapter import LoRAAdapter

    down, up = chain.fold()
    adapter = LoRAAdapter(set(), (up.contiguous(), down.contiguous(), chain.scale * down.shape[0], None, None, None))
    key = f"{PREFIX}{name}.weight"
    return lambda weight: calculate_weight([(1.0, adapter, 1.0, None, None)], weight, key)


@contextmanager
def _weight_changed(layer: Any, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    before = layer.weight_function
    layer.weight_function = [*before, function]
    try:
        yield
    finally:
        layer.weight_function = before


def _changed(finding: str) -> HostChanged:
    try:
        from comfyui_version import __version__ as version
    except ImportError:
        version = "of unknown version"
    return HostChanged(
        f"This ComfyUI ({version}) does not compute with this model as Meta-LoRA expects: {finding}. Nothing was "
        f"trained. Update Meta-LoRA; if that does not help, report this line and the model's name at {REPORT}"
    )
