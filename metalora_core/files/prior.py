"""The prior file: what stage 1 learned for one domain of subjects on one base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from ..errors import IncompatibleBaseModel, RankMismatch, UnreadableFile
from ..model.targets import Target
from ..references.domain import EXTRACTOR, MINIMUM_COUNT, FeatureStatistics, statistics_of
from .atomic import atomic_save_safetensors, safetensors_bytes, sha256_of
from .metadata import FileMetadata, read_record, summarise

_SUFFIXES = ("meta_down", "mid_init", "up_init", "step_size")
_FEATURES = "features."


class PriorMetadata(FileMetadata):
    """How a prior was made and what it fits.

    Args:
        name: For people, such as "avatars".
        family: Architecture of the base, under the name that its row in `model.families` has.
        base_fingerprint: `fingerprint` of the targets it was trained on.
        domain: What the subjects are, such as "avatars".
        class_words: Words that name a subject of the domain, such as "person".
        r_meta: Default rank of meta_down; single layers may differ, their shapes rule.
        r_mid: Default rank of the identities trained with it.
        scale: The factor inside ΔW = scale · up · mid · meta_down.
        base_name: The base model in words, such as "FLUX.1-dev".
        training: How it was made: subjects, steps, seed, rates and what else helps to repeat it.
        license: SPDX identifier or a sentence.
        created_with: Package and version that wrote it.
        feature_extractor: What computed the feature statistics; empty if there are none.
    """

    FORMAT: ClassVar[str] = "metalora.prior"
    VERSION: ClassVar[int] = 1
    name: str
    family: str
    base_fingerprint: str
    domain: str
    r_meta: Annotated[int, Field(ge=1)]
    r_mid: Annotated[int, Field(ge=1)]
    scale: Annotated[float, Field(gt=0)] = 1.0
    base_name: str = ""
    class_words: list[str] = Field(default_factory=list)
    training: dict[str, JsonValue] = Field(default_factory=dict)
    license: str = ""
    created_with: str = ""
    feature_extractor: str = ""

    @property
    def picture_px(self) -> int | None:
        """Side of the pictures that it was trained on, in pixels; None if the record does not say."""
        side = self.training.get("picture_px")
        return side if isinstance(side, int) and side >= 16 else None


@dataclass(frozen=True)
class PriorLayer:
    """One target's share of the prior.

    Args:
        meta_down: Shape (r_meta, in) or (r_meta, in, kh, kw) for a convolution.
        mid_init: Learned start of mid, shape (r_mid, r_meta), or None for a random start.
        up_init: Learned start of up, shape (out, r_mid), or None for zeros.
        step_size: Of earlier releases, no dimension or shape (2,); kept with the prior, but no training uses it.
    """

    meta_down: Tensor
    mid_init: Tensor | None = None
    up_init: Tensor | None = None
    step_size: Tensor | None = None

    @property
    def r_meta(self) -> int:
        """Rank of the shared projection."""
        return self.meta_down.shape[0]


@dataclass(frozen=True)
class Prior:
    """A prior in memory.

    Args:
        layers: Target name to its factors.
        metadata: The record.
        features: Statistics for the domain check, or None.
        sha256: Of the file it was loaded from, None before it was saved. See `prior_sha256`.
        personal: Made for one subject; an identity learned with it carries it in its own file.
    """

    layers: Mapping[str, PriorLayer]
    metadata: PriorMetadata
    features: FeatureStatistics | None = None
    sha256: str | None = None
    personal: bool = False

    def described(self, photo_features: Tensor, base_name: str) -> Prior:
        """The same prior, not yet saved, with the base model's name and statistics for the domain check.

        Args:
            photo_features: `picture_features` of training photos, (N, features); too few of them give no statistics.
            base_name: The base model in words.
        """
        statistics = statistics_of(photo_features) if len(photo_features) >= MINIMUM_COUNT else None
        told = {"feature_extractor": EXTRACTOR if statistics else "", "base_name": base_name}
        return replace(self, metadata=self.metadata.model_copy(update=told), features=statistics, sha256=None)


def _tensors(prior: Prior) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, layer in prior.layers.items():
        for suffix in _SUFFIXES:
            tensor: Tensor | None = getattr(layer, suffix)
            if tensor is not None:
                tensors[f"{name}.{suffix}"] = tensor
    if prior.features is not None:
        tensors |= prior.features.to_tensors(_FEATURES)
    return tensors


def prior_sha256(prior: Prior) -> str:
    """The hash that identities record: of the file it came from, or of the file it would be saved as."""
    return prior.sha256 or sha256_of([safetensors_bytes(_tensors(prior), prior.metadata.header())])


def save_prior(path: Path | str, prior: Prior) -> Prior:
    """Write a prior, atomically; the same prior always gives the same bytes.

    Returns:
        The prior with its file's hash.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or full.
        UnreadableFile: If the prior is not one that `load_prior` would accept.
    """
    tensors = _tensors(prior)
    _checked_layers(Path(path).name, tensors)
    sha256 = atomic_save_safetensors(path, tensors, prior.metadata.header())
    return replace(prior, sha256=sha256)


def load_prior(path: Path | str) -> Prior:
    """Read and check a prior file.

    Raises:
        UnreadableFile: If it is damaged, oversized, not a prior, or contains NaN or wrong shapes.
    """
    metadata, file = read_record(PriorMetadata, path)
    layers, features = _checked_layers(Path(path).name, file.tensors)
    return Prior(layers, metadata, features, file.sha256)


def _checked_layers(file: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, PriorLayer], FeatureStatistics | None]:
    groups: dict[str, dict[str, Tensor]] = {}
    findings: list[str] = []
    rest: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        target, _, suffix = key.rpartition(".")
        if target and suffix in _SUFFIXES:
            groups.setdefault(target, {})[suffix] = tensor
        else:
            rest[key] = tensor
    features = _checked_features(rest, findings)
    for target, group in groups.items():
        findings += [f"{target}: {finding}" for finding in _layer_findings(group)]
    if not groups:
        findings.append("the '<target>.meta_down' tensors are missing")
    findings += [f"unknown tensor {key!r}" for key in rest]
    if findings:
        raise UnreadableFile(
            f"{file} is not a valid prior: {summarise(findings)}. Train it again or choose another file."
        )
    return {target: PriorLayer(**group) for target, group in sorted(groups.items())}, features


def _checked_features(rest: dict[str, Tensor], findings: list[str]) -> FeatureStatistics | None:
    own = {key: rest.pop(key) for key in list(rest) if key.startswith(_FEATURES)}
    try:
        return FeatureStatistics.from_tensors(own, _FEATURES)
    except UnreadableFile as error:
        findings.append(str(error).rstrip("."))
        return None


def _layer_findings(group: Mapping[str, Tensor]) -> list[str]:
    down, mid, up, step = (group.get(suffix) for suffix in _SUFFIXES)
    if down is None:
        return ["meta_down is missing"]
    findings: list[str] = []
    if not all(tensor.is_floating_point() for tensor in group.values()):
        findings.append("all tensors must hold floating-point numbers")
    if down.ndim not in (2, 4) or down.numel() == 0:
        findings.append(f"meta_down has shape {tuple(down.shape)}; expected (r_meta, in) or (r_meta, in, kh, kw)")
        return findings
    if mid is not None and (mid.ndim != 2 or mid.shape[1] != down.shape[0] or mid.shape[0] == 0):
        findings.append(f"mid_init has shape {tuple(mid.shape)}; expected (r_mid, {down.shape[0]})")
    if up is not None and (up.ndim != 2 or up.numel() == 0 or (mid is not None and up.shape[1:] != mid.shape[:1])):
        findings.append(f"up_init has shape {tuple(up.shape)}; expected (out, r_mid) with mid_init's r_mid")
    if step is not None and (step.shape not in (torch.Size(()), torch.Size((2,))) or bool((step < 0).any())):
        findings.append(f"step_size has shape {tuple(step.shape)}; expected one or two numbers of at least 0")
    return findings


def targets_of_prior(prior: Prior, available: Sequence[Target]) -> tuple[Target, ...]:
    """The host's targets that a prior was made for, checked one by one.

    Args:
        prior: The prior.
        available: All targets of the connected model.

    Returns:
        One target per layer of the prior, in the prior's order.

    Raises:
        IncompatibleBaseModel: If a target is missing or has another shape; all findings in one message.
    """
    by_name = {target.name: target for target in available}
    findings: list[str] = []
    for name, layer in prior.layers.items():
        target = by_name.get(name)
        if target is None:
            findings.append(f"{name} is not in the model")
            continue
        if tuple(layer.meta_down.shape[1:]) != tuple(target.shape[1:]):
            findings.append(f"{name} has inputs {tuple(target.shape[1:])}, not {tuple(layer.meta_down.shape[1:])}")
        if layer.up_init is not None and layer.up_init.shape[0] != target.shape[0]:
            findings.append(f"{name} has {target.shape[0]} outputs, not {layer.up_init.shape[0]}")
    if findings:
        made_for = prior.metadata.base_name or f"a {prior.metadata.family} model"
        raise IncompatibleBaseModel(
            f"The prior {prior.metadata.name!r} was made for {made_for} and does not fit the connected model "
            f"({len(findings)} of {len(prior.layers)} layers differ): {summarise(findings, 3)}. "
            f"Connect {made_for}, or choose or train a prior for this model."
        )
    return tuple(by_name[name] for name in prior.layers)


def require_rank(name: str, mid: Tensor, layer: PriorLayer) -> None:
    """Raise `RankMismatch` unless mid (r_mid, r_meta) fits the layer's meta_down (r_meta, …)."""
    if mid.ndim != 2 or mid.shape[1] != layer.r_meta:
        raise RankMismatch(
            f"{name}: mid has shape {tuple(mid.shape)}, but the prior's meta_down has rank {layer.r_meta}; expected "
            f"mid (r_mid, {layer.r_meta}). Use the prior that this identity was learned with."
        )
