"""Put chains into a model with forward hooks, and take them out without a trace."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .chain import ChainFactors
from .errors import IncompatibleBaseModel
from .functional import ConvGeometry, add_rows, add_up, apply_mid, check_chain, middle_of, project_down
from .model.targets import Part, Target

__all__ = ["Coverage", "Injection"]


@dataclass(frozen=True)
class Coverage:
    """How many chains found their layer.

    Args:
        applied: Targets whose every part was found.
        total: Targets with factors.
        missing: Names of those that were not found.
    """

    applied: int
    total: int
    missing: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for a user, e.g. "applied 20 of 20 targets"."""
        shown = ", ".join(self.missing[:5]) + (" and more" if len(self.missing) > 5 else "")
        return f"applied {self.applied} of {self.total} targets" + (f"; missing: {shown}" if self.missing else "")


class _SharedProjection:
    """A target's ``mid · meta_down · x``, computed once for all parts that see the same input.

    Each part takes the result once; a second request by the same part belongs to another forward pass, and when every
    part has been served nothing is kept. The input is only weakly referenced, so no activation lives longer.
    """

    def __init__(self, factors: ChainFactors, sizes: list[int]) -> None:
        self.factors = factors
        self.sizes = sizes
        self.served: set[int] = set()
        self.source: weakref.ref[Tensor] | None = None
        self.result: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def add(self, part: int, x: Tensor, output: Tensor, conv: ConvGeometry | None) -> Tensor:
        """The output of a part with its rows of the chain added."""
        f = self.factors
        scale = f.scale * f.strength
        if scale == 0:
            return output
        frozen = conv is None and f.mid.dim() == 2 and not f.meta_down.requires_grad
        middle, up = self._take(part, x, frozen, conv)
        middle, up = middle.to(output.dtype), up.to(output.dtype)
        return add_rows(output, middle, up, scale) if frozen else add_up(output, middle, up, scale, conv)

    def _take(self, part: int, x: Tensor, frozen: bool, conv: ConvGeometry | None) -> tuple[Tensor, Tensor]:
        """Middle activation for this input, and the part's rows of up."""
        if len(self.sizes) == 1:
            return self._middle(x, frozen, conv), self.factors.up
        same_input = self.source is not None and self.source() is x
        result = self.result
        if result is None or not same_input or part in self.served:
            result = self._middle(x, frozen, conv), self.factors.up.split(self.sizes, dim=-2)
            self.served.clear()
            self.source, self.result = weakref.ref(x), result
        self.served.add(part)
        if len(self.served) == len(self.sizes):
            self.source = self.result = None
        return result[0], result[1][part]

    def _middle(self, x: Tensor, frozen: bool, conv: ConvGeometry | None) -> Tensor:
        down, mid = self.factors.meta_down.to(x.dtype), self.factors.mid.to(x.dtype)
        if self.factors.direct:
            return apply_mid(x, mid)
        return middle_of(x, down, mid) if frozen else apply_mid(project_down(x, down, conv), mid, conv)


class _PartHook:
    """Forward hook of one part: adds its rows of the chain to the module's output."""

    def __init__(self, shared: _SharedProjection, part: int, conv: ConvGeometry | None) -> None:
        self.shared = shared
        self.part = part
        self.conv = conv

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.shared.add(self.part, inputs[0], output, self.conv)


class Injection:
    """Chains put into a model; a context manager that takes them out on leaving.

    The module tree, the parameters and the state dict stay as they are, so ejecting restores the model's bits, and
    several injections may be ejected in any order.

    Args:
        model: The host's model.
        targets: Targets of the model; those without factors are left alone.
        factors: Chain per target name. The objects are read at every forward pass, so a caller may reassign ``mid``,
            ``up`` and ``strength`` between passes.

    Raises:
        RankMismatch: If factors do not form a chain.
        IncompatibleBaseModel: If factors do not fit the shape of their target, or parts do not tile its rows.
    """

    def __init__(self, model: nn.Module, targets: Iterable[Target], factors: Mapping[str, ChainFactors]) -> None:
        by_name = {target.name: target for target in targets}
        self._handles: list[RemovableHandle] = []
        modules: dict[str, list[nn.Module]] = {}
        for name, chain in factors.items():
            target = by_name.get(name)
            if target is None:
                continue
            _check_fit(target, chain)
            found = [_find(model, part) for part in target.parts]
            present = [module for module in found if module is not None]
            if present and len(present) == len(found):
                modules[name] = present
        missing = tuple(name for name in factors if name not in modules)
        self.coverage = Coverage(len(modules), len(factors), missing)
        for name, present in modules.items():
            self._hook(by_name[name], present, factors[name])

    def _hook(self, target: Target, modules: list[nn.Module], chain: ChainFactors) -> None:
        order = sorted(range(len(modules)), key=lambda i: target.parts[i].start)
        shared = _SharedProjection(chain, [target.parts[i].stop - target.parts[i].start for i in order])
        for rank, i in enumerate(order):
            hook = _PartHook(shared, rank, _geometry(modules[i], target))
            self._handles.append(modules[i].register_forward_hook(hook))

    def require_all(self) -> None:
        """Raise ``IncompatibleBaseModel`` unless every chain found its layer."""
        if self.coverage.missing:
            raise IncompatibleBaseModel(
                f"Only some layers were found in the connected model: {self.coverage.text}. Load the base model that "
                "the prior was made for, or train a prior for this model."
            )

    def eject(self) -> None:
        """Take the chains out; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Injection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.eject()


def _find(model: nn.Module, part: Part) -> nn.Module | None:
    try:
        return model.get_submodule(part.module)
    except AttributeError:
        return None


def _check_fit(target: Target, chain: ChainFactors) -> None:
    check_chain(chain.meta_down, chain.mid, chain.up, target.name)
    wanted = (chain.up.shape[-2], *chain.meta_down.shape[1:])
    if wanted != target.shape:
        raise IncompatibleBaseModel(
            f"{target.name}: the factors fit a weight of shape {tuple(wanted)}, but the connected model has "
            f"{target.shape}. Load the base model that the prior was made for, or train a prior for this model."
        )
    rows = sorted((part.start, part.stop) for part in target.parts)
    edges = [0, *(stop for _, stop in rows)]
    if [start for start, _ in rows] != edges[:-1] or edges[-1] != target.shape[0]:
        raise IncompatibleBaseModel(
            f"{target.name}: its parts compute rows {rows}, expected them to cover 0 to {target.shape[0]} without "
            "gaps. The host's map from ComfyUI names to modules is wrong for this model."
        )


def _geometry(module: nn.Module, target: Target) -> ConvGeometry | None:
    if len(target.shape) == 2:
        return None
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or module.padding_mode != "zeros":
        raise IncompatibleBaseModel(
            f"{target.name}: found {type(module).__name__}; only 2-D convolutions with one group and zero padding can "
            "be adapted. Leave this layer out with an exclude pattern."
        )
    return ConvGeometry(module.stride, module.padding, module.dilation)
