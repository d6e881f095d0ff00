"""The methods that are compared, each as the chain it starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InvalidOptions
from ...files.prior import Prior, targets_of_prior
from ...model.host import Host
from ...model.targets import Part, Target
from ...training.adaptation_options import AdaptationOptions
from ...training.personal_prior import random_down
from ...training.seeds import step_generator
from ...training.starts import ChainStart, identity_down, start_of, start_of_prior

__all__ = [
    "AUTO_RATE",
    "BASE",
    "CORE",
    "META_COLD",
    "META_OUTSIDE",
    "META_RANDOM",
    "META_WARM",
    "METHODS",
    "PLAIN",
    "Method",
    "chain_of",
    "method_named",
    "trained_methods",
]

RANK = 8
"""Rank of the plain LoRAs and of the identities, alike."""

SMALL_RANK = 32
"""Rank of LoRA-XS; its trained matrix is only rank × rank."""

PLAIN, META_COLD, META_WARM, META_OUTSIDE = "plain_lora", "meta_cold", "meta_warm", "meta_warm_outside"
META_RANDOM, AUTO_RATE = "meta_random", "auto_rate"
CORE = "core_train_lora"
BASE = "base_model"


@dataclass(frozen=True)
class Method:
    """One method of adaptation.

    Args:
        name: In rows and files.
        title: For people.
        start: From host, prior and seed to its chain; None where a ComfyUI trains by itself.
        uses_prior: Whether the prior matters beyond its list of layers.
        other_prior: Whether it gets the prior of another domain than its subject's.
        source: The paper.
        usual_rate: Middle of the learning rates that are tried.
        trained: Whether anything is learned; if not, it has one point, step 0.
        finds_rate: Whether every subject's learning rate is found on its photos.
    """

    name: str
    title: str
    start: Callable[[Host, Prior, int], ChainStart] | None
    uses_prior: bool = False
    other_prior: bool = False
    source: str = ""
    usual_rate: float = 3e-3
    trained: bool = True
    finds_rate: bool = False


def part_targets(targets: Sequence[Target]) -> tuple[Target, ...]:
    """One target for each host module: what peft adapts, where a fused layer has a LoRA for each of its parts."""
    return tuple(
        Target(
            part.module, (part.stop - part.start, *target.shape[1:]), (Part(part.module, 0, part.stop - part.start),)
        )
        for target in targets
        for part in target.parts
    )


def part_weight(host: Host, target: Target) -> Tensor:
    """Frozen weight of a one-part target as a float32 matrix, (out, in · kh · kw)."""
    weight = host.model.get_submodule(target.parts[0].module).get_parameter("weight")
    return weight.detach().float().flatten(1)


def _random_a(targets: tuple[Target, ...], seed: int) -> dict[str, Tensor]:
    """A as peft initialises it: uniform within ±1/√in."""
    generator, drawn = step_generator(seed, "plain LoRA"), dict[str, Tensor]()
    for target in targets:
        size = identity_down(target).shape[0]
        drawn[target.name] = (torch.rand(RANK, size, generator=generator) * 2 - 1) / size**0.5
    return drawn


def _plain(host: Host, prior: Prior, seed: int) -> ChainStart:
    """ΔW = B A."""
    targets = part_targets(targets_of_prior(prior, host.targets()))
    downs = {target.name: identity_down(target) for target in targets}
    ups = {target.name: torch.zeros(target.shape[0], RANK) for target in targets}
    return start_of(targets, downs, _random_a(targets, seed), ups)


def _plus(host: Host, prior: Prior, seed: int) -> ChainStart:
    """B has 16 times the learning rate of A, the ratio that the paper recommends."""
    start = _plain(host, prior, seed)
    rates = start.rates.clone()
    rates[start.layout.mid_total :] = 16.0
    return replace(start, rates=rates)


def _rank_stable(host: Host, prior: Prior, seed: int) -> ChainStart:
    """The scale is α / √r instead of α / r, with α = r."""
    return replace(_plain(host, prior, seed), scale=RANK**0.5)


def _frozen_a(host: Host, prior: Prior, seed: int) -> ChainStart:
    """A stays at its random start, only B is trained."""
    targets = part_targets(targets_of_prior(prior, host.targets()))
    drawn = _random_a(targets, seed)
    downs = {t.name: drawn[t.name].view(RANK, *t.shape[1:]) for t in targets}
    eyes = {target.name: torch.eye(RANK) for target in targets}
    ups = {target.name: torch.zeros(target.shape[0], RANK) for target in targets}
    return start_of(targets, downs, eyes, ups, mid_rates=0.0)


def _timestep_mask(host: Host, prior: Prior, seed: int) -> ChainStart:
    """Half of the rank at pure noise, full rank for the last details."""
    return replace(_plain(host, prior, seed), least_rank=0.5)


def _principal(host: Host, prior: Prior, seed: int) -> ChainStart:
    """A and B start as the weight's principal part; a frozen copy is subtracted, so that the model starts unchanged."""
    targets = part_targets(targets_of_prior(prior, host.targets()))
    downs = {target.name: identity_down(target) for target in targets}
    mids, ups, mid_rates, up_rates = ({} for _ in range(4))
    for target in targets:
        left, values, right = torch.linalg.svd(part_weight(host, target), full_matrices=False)
        root = values[:RANK].sqrt()
        a, b = root[:, None] * right[:RANK], left[:, :RANK] * root
        mids[target.name], ups[target.name] = torch.cat([a, a]), torch.cat([b, -b], dim=1)
        mid_rates[target.name] = torch.cat([torch.ones_like(a), torch.zeros_like(a)])
        up_rates[target.name] = torch.cat([torch.ones_like(b), torch.zeros_like(b)], dim=1)
    return start_of(targets, downs, mids, ups, mid_rates=mid_rates, up_rates=up_rates)


def _extra_small(host: Host, prior: Prior, seed: int) -> ChainStart:
    """Outer factors are the weight's singular vectors, frozen; the small matrix between them is trained."""
    targets = part_targets(targets_of_prior(prior, host.targets()))
    generator = step_generator(seed, "LoRA-XS")
    downs, mids, ups = ({} for _ in range(3))
    for target in targets:
        left, values, right = torch.linalg.svd(part_weight(host, target), full_matrices=False)
        rank = min(SMALL_RANK, len(values))
        downs[target.name] = right[:rank].reshape(rank, *target.shape[1:])
        mids[target.name] = 1e-5 * torch.randn(rank, rank, generator=generator)
        ups[target.name] = left[:, :rank] * values[:rank]
    return start_of(targets, downs, mids, ups, up_rates=0.0)


def _cold(host: Host, prior: Prior, seed: int) -> ChainStart:
    options = AdaptationOptions(start="cold", seed=seed)
    return start_of_prior(prior, targets_of_prior(prior, host.targets()), options)


def _random_cold(host: Host, prior: Prior, seed: int) -> ChainStart:
    """The prior with a random meta_down of the same rank in its place: what `meta_cold` has to beat."""
    generator, targets = step_generator(seed, "random meta-down"), targets_of_prior(prior, host.targets())
    layers = {
        target.name: replace(
            prior.layers[target.name],
            meta_down=random_down(target, len(prior.layers[target.name].meta_down), generator),
        )
        for target in targets
    }
    return start_of_prior(replace(prior, layers=layers), targets, AdaptationOptions(start="cold", seed=seed))


def _warm(host: Host, prior: Prior, seed: int) -> ChainStart:
    return start_of_prior(prior, targets_of_prior(prior, host.targets()), AdaptationOptions(seed=seed))


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(BASE, "base model, untrained", _plain, trained=False),
        Method(PLAIN, "plain LoRA", _plain, source="arXiv 2106.09685"),
        Method("lora_plus", "LoRA+", _plus, source="arXiv 2402.12354", usual_rate=5e-4),
        Method("rslora", "rsLoRA", _rank_stable, source="arXiv 2312.03732", usual_rate=1e-3),
        Method("pissa", "PiSSA", _principal, source="arXiv 2404.02948", usual_rate=1e-3),
        Method("lora_fa", "LoRA-FA", _frozen_a, source="arXiv 2308.03303"),
        Method("lora_xs", "LoRA-XS", _extra_small, source="arXiv 2405.17604", usual_rate=1e-2),
        Method("t_lora", "T-LoRA mask", _timestep_mask, source="arXiv 2507.05964"),
        Method(CORE, "ComfyUI's Train LoRA", None, source="its node, all layers", usual_rate=1e-3),
        Method(META_COLD, "Meta-LoRA, cold", _cold, True, source="arXiv 2503.22352"),
        Method(META_RANDOM, "random meta-down, cold", _random_cold, True, source="the control of cold"),
        Method(
            AUTO_RATE,
            "random meta-down, own rate",
            _random_cold,
            True,
            source="no prior, no tuned rate",
            finds_rate=True,
        ),
        Method(META_WARM, "Meta-LoRA, warm", _warm, True, source="arXiv 2503.22352"),
        Method(META_OUTSIDE, "Meta-LoRA, other prior", _warm, True, True, source="arXiv 2503.22352"),
    )
}
"""Every method by name."""


def trained_methods() -> tuple[str, ...]:
    """Every method that learns something at a rate that has to be tuned."""
    return tuple(name for name, method in METHODS.items() if method.trained and not method.finds_rate)


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        InvalidOptions: If there is none.
    """
    if name not in METHODS:
        raise InvalidOptions(f"Unknown method {name!r}; choose from {', '.join(METHODS)}.")
    return METHODS[name]


def chain_of(name: str, host: Host, prior: Prior, seed: int) -> ChainStart:
    """Where a method starts.

    Raises:
        InvalidOptions: If there is no such method, or it is not a chain of ours.
    """
    start = method_named(name).start
    if start is None:
        raise InvalidOptions(f"{name} is trained by ComfyUI and has no chain here; leave it out.")
    return start(host, prior, seed)
