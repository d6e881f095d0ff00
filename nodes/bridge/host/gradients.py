"""Exact gradients through a ComfyUI model, and every change undone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

_FLAG = "in_training"


@contextmanager
def exact_gradients(network: nn.Module, *, checkpointing: bool = False, overwrites: bool = False) -> Iterator[None]:
    """Make autograd through a loaded network exact.

    Inside, inference mode is off, base parameters are frozen ordinary tensors that share the loaded storage, norms keep
    a copy of their input (some blocks add to it in place later), ComfyUI runs its differentiable code paths, and
    kernels without a backward pass give way to the plain formulas that their package holds beside them.

    Args:
        network: The diffusion model, already on its device.
        checkpointing: Recompute each block in the backward pass instead of keeping its activations.
        overwrites: The network writes over what its backward pass needs, so whatever is kept for it is copied; that
            costs memory and time.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_training_flag())
        stack.enter_context(_ordinary_tensors(network))
        stack.enter_context(_plain_formulas())
        stack.enter_context(_cloned_norm_inputs(network))
        if overwrites:
            stack.enter_context(_saved_copies())
            stack.enter_context(_ResultsApart())
        if checkpointing:
            stack.enter_context(_checkpointed(network))
        yield


def _saved_copies() -> Any:
    # torch has allow_mutation_on_saved_tensors for this; it knows tensors by their address, and was wrong now and then.
    def kept(tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()

    return torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor)


class _ResultsApart(TorchFunctionMode):
    """Lets operations give their result back instead of writing it into a tensor that was handed in for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if given.get("out") is not None and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            del given["out"]
        return func(*args, **given)


@contextmanager
def _training_flag() -> Iterator[None]:
    from comfy import model_management

    if not hasattr(model_management, _FLAG):  # hosts before the flag have one code path only
        yield
        return
    before = getattr(model_management, _FLAG)
    setattr(model_management, _FLAG, True)
    try:
        yield
    finally:
        setattr(model_management, _FLAG, before)


@contextmanager
def _plain_formulas() -> Iterator[None]:
    try:
        import comfy_kitchen
        from comfy_kitchen.backends.eager import adaln, rope
    except ImportError:  # hosts before fused kernels
        yield
        return
    plain = {name: formula for module in (rope, adaln) for name, formula in vars(module).items()}
    kept = {name: getattr(comfy_kitchen, name) for name in plain if name in comfy_kitchen.__all__}
    try:
        for name in kept:
            if not name.endswith("_"):  # one that writes into its input has no backward pass in either form
                setattr(comfy_kitchen, name, plain[name])
        yield
    finally:
        for name, kernel in kept.items():
            setattr(comfy_kitchen, name, kernel)


def _without_inference_mode(tensor: Tensor) -> Tensor:
    """An ordinary tensor over the same storage; autograd cannot save an inference tensor."""
    bare = torch.Tensor.as_subclass(tensor.data, Tensor)
    plain = torch.empty(0, dtype=bare.dtype, device=bare.device)
    plain.set_(bare.untyped_storage(), bare.storage_offset(), bare.shape, bare.stride())
    if type(tensor) in (Tensor, nn.Parameter):
        return plain
    packed = plain.as_subclass(type(tensor))  # GGUF's tensors carry their format and true shape beside their bytes
    packed.__dict__.update({name: value for name, value in vars(tensor).items() if not name.startswith("_is_")})
    return packed


def ordinary(tensor: Tensor) -> Tensor:
    """A tensor that autograd can save, over the same storage if it was made in inference mode."""
    return _without_inference_mode(tensor) if _needs_wrapping(tensor) else tensor


def _needs_wrapping(tensor: Any) -> bool:
    # A quantised weight of core's is several tensors behind one; it is expanded in the forward pass and never saved.
    return isinstance(tensor, Tensor) and not hasattr(tensor, "_qdata") and tensor.is_inference()


@contextmanager
def _ordinary_tensors(network: nn.Module) -> Iterator[None]:
    undo: list[Callable[[], Any]] = []
    try:
        for module in network.modules():
            for name, parameter in list(module._parameters.items()):
                if _needs_wrapping(parameter):
                    undo.append(_setter(module._parameters, name, parameter))
                    module._parameters[name] = _as_parameter(_without_inference_mode(parameter))
                elif parameter is not None and parameter.requires_grad:
                    undo.append(_flag_setter(parameter))
                    parameter.requires_grad_(False)
            for name, buffer in list(module._buffers.items()):
                if _needs_wrapping(buffer):
                    undo.append(_setter(module._buffers, name, buffer))
                    module._buffers[name] = _without_inference_mode(buffer)
            for name in ("_v_weight", "_v_bias"):  # weights that a dynamic loader keeps beside the parameters
                if _needs_wrapping(module.__dict__.get(name)):
                    undo.append(_setter(module.__dict__, name, module.__dict__[name]))
                    module.__dict__[name] = _without_inference_mode(module.__dict__[name])
        yield
    finally:
        for step in reversed(undo):
            step()


def _as_parameter(tensor: Tensor) -> Any:
    return nn.Parameter(tensor, requires_grad=False) if type(tensor) is Tensor else tensor


def _setter(store: dict[str, Any], name: str, value: Any) -> Callable[[], Any]:
    return lambda: store.__setitem__(name, value)


def _flag_setter(parameter: nn.Parameter) -> Callable[[], Any]:
    return lambda: parameter.requires_grad_(True)


@contextmanager
def _cloned_norm_inputs(network: nn.Module) -> Iterator[None]:
    norms = [m for m in network.modules() if "norm" in type(m).__name__.lower() and next(m.children(), None) is None]
    handles = [norm.register_forward_pre_hook(_clone_input) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clone_input(_norm: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not (torch.is_grad_enabled() and inputs and isinstance(inputs[0], Tensor) and inputs[0].requires_grad):
        return None
    return (inputs[0].clone(), *inputs[1:])


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network at any depth: members of lists, or of the sequences in those lists.

    A UNet walks through its sequences layer by layer without calling them, so there the layers are the blocks.
    """
    found: list[nn.Module] = []
    for child in network.children():
        inside = list(child) if isinstance(child, nn.ModuleList | nn.Sequential) else []
        for member in inside:
            if isinstance(member, nn.ModuleList | nn.Sequential):
                found += blocks_of(nn.ModuleList([member]))
            elif next(member.children(), None) is not None:
                found.append(member)
        if not inside:
            found += blocks_of(child)
    return found


@contextmanager
def _checkpointed(network: nn.Module) -> Iterator[None]:
    blocks = blocks_of(network)
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = _recomputing(block.forward)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Any:
        # Blocks add to their inputs in place; the recomputation must find the inputs as they were.
        return forward(*map(_own_copy, args), **{key: _own_copy(value) for key, value in kwargs.items()})

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # The caller writes the block's number into the options it hands to every block, so freeze them here.
        frozen = {key: dict(value) if isinstance(value, dict) else value for key, value in kwargs.items()}
        return checkpoint(body, *args, use_reentrant=False, preserve_rng_state=False, **frozen)

    return run


def _own_copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return dict(value) if isinstance(value, dict) else value
