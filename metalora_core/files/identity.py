"""The identity file: what stage 2 learned of one subject.

With a prior it holds mid and up, a few hundred kilobytes beside that prior. Without one it holds its own meta_down too,
and is as large as an ordinary LoRA of its rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from ..chain import ChainFactors
from ..errors import DamagedFile, IncompatibleBaseModel, UnreadableFile
from ..functional import fold_into_down
from .atomic import atomic_save_safetensors
from .bounded import ReadLimits, bytes_of
from .metadata import FileMetadata, read_record, summarise, thumbnail_header
from .prior import Prior, PriorLayer, PriorMetadata, prior_sha256, require_rank

_SUFFIXES = ("mid", "up")
_OWN = "meta_down"
_LIMITS = ReadLimits(file_bytes=4 * 1024**3)
"""Every layer of the largest models at rank 128 stays below it, with a meta_down of its own too."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Seal(FileMetadata):
    """Ties what an identity says to what it learned, so that no field but its name can be changed or left out unseen.

    Args:
        sha256: See `content_sha256`.
        key: Name of the signing key.
        signature: Of ``sha256``, by the installation that learned the identity.
    """

    sha256: Sha256
    key: str
    signature: str


class IdentityMetadata(FileMetadata):
    """What was learned, with what, from what.

    Args:
        prior_sha256: SHA-256 of the prior file; an identity is useless without that prior.
        prior_name: For people.
        base_fingerprint: Of the prior's targets.
        family: Base family, as in the prior.
        trigger: The rare word that calls the subject, such as "ohwx".
        class_word: What the subject is, such as "person".
        name: For people; empty if never named.
        settings: The options of the adaptation.
        seed: Of its generator.
        steps: Optimizer steps taken.
        metrics: Losses and scores.
        consent_id: Of the consent record, or None.
        photo_hashes: SHA-256 of each reference photo.
        created_with: Package and version that wrote it.
        own_prior: Of an identity learned without a prior: the record of the one in its own file. See `own_prior`.
        seal: Of an identity that is tied to a consent record.
    """

    FORMAT: ClassVar[str] = "metalora.identity"
    VERSION: ClassVar[int] = 1
    prior_sha256: Sha256
    prior_name: str
    base_fingerprint: str
    family: str
    trigger: str
    class_word: str
    name: str = ""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    seed: int = 0
    steps: Annotated[int, Field(ge=0)] = 0
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    consent_id: str | None = None
    photo_hashes: list[Sha256] = Field(default_factory=list)
    created_with: str = ""
    own_prior: PriorMetadata | None = None
    seal: Seal | None = None

    @model_serializer(mode="wrap")
    def _fields(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Files of identities with a prior and without a record keep the bytes that earlier releases gave them.
        fields: dict[str, Any] = given(self)
        later = {"own_prior": self.own_prior, "seal": self.seal}
        absent = {name for name, value in later.items() if value is None}
        return {name: value for name, value in fields.items() if name not in absent}


@dataclass(frozen=True)
class IdentityLayer:
    """One target's share of an identity.

    Args:
        mid: Shape (r_mid, r_meta).
        up: Shape (out, r_mid).
        meta_down: Shape (r_meta, in) or (r_meta, in, kh, kw) if it was learned without a prior, else None.
    """

    mid: Tensor
    up: Tensor
    meta_down: Tensor | None = None


@dataclass(frozen=True)
class Identity:
    """A learned subject.

    Args:
        layers: Target name to its factors.
        metadata: The record.
    """

    layers: Mapping[str, IdentityLayer]
    metadata: IdentityMetadata

    @property
    def numbers(self) -> int:
        """How many numbers its file holds."""
        return sum(tensor.numel() for tensor in _tensors(self).values())

    def named(self, name: str) -> Identity:
        """The same identity by another name."""
        return replace(self, metadata=self.metadata.model_copy(update={"name": name}))


def own_prior(identity: Identity) -> Prior | None:
    """The prior that an identity carries in its own file, or None if it needs the one it was learned with."""
    record = identity.metadata.own_prior
    downs = {name: layer.meta_down for name, layer in identity.layers.items() if layer.meta_down is not None}
    if record is None or len(downs) < len(identity.layers):
        return None
    layers = {name: PriorLayer(down) for name, down in downs.items()}
    return Prior(layers, record, sha256=identity.metadata.prior_sha256, personal=True)


def self_contained(identity: Identity, prior: Prior) -> Identity:
    """The same identity with a prior of its own: ``mid · meta_down`` as meta_down, and nothing left in mid.

    So the file is as small as an ordinary LoRA, whatever the rank of the meta_down that it was learned with.

    Args:
        identity: mid and up of a subject.
        prior: What it was learned with, made for this subject alone.

    Raises:
        IncompatibleBaseModel: If the prior is a different one.
        RankMismatch: If a mid does not fit its meta_down.
    """
    chains = chain_factors(identity, prior)
    downs = {name: fold_into_down(chain.meta_down, chain.mid) for name, chain in chains.items()}
    layers = {n: IdentityLayer(torch.eye(len(downs[n])), layer.up, downs[n]) for n, layer in identity.layers.items()}
    record = prior.metadata.model_copy(update={"r_meta": max(map(len, downs.values()))})
    sha256 = prior_sha256(Prior({name: PriorLayer(down) for name, down in downs.items()}, record))
    told = {"own_prior": record, "prior_sha256": sha256, "prior_name": record.name}
    return Identity(layers, identity.metadata.model_copy(update=told))


def _tensors(identity: Identity) -> dict[str, Tensor]:
    found = {
        f"{name}.{suffix}": getattr(layer, suffix)
        for name, layer in identity.layers.items()
        for suffix in (*_SUFFIXES, _OWN)
    }
    return {key: tensor for key, tensor in found.items() if tensor is not None}


def layers_sha256(identity: Identity) -> str:
    """SHA-256 of what was learned: names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(identity).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


def content_sha256(identity: Identity) -> str:
    """SHA-256 of an identity's record without its seal and the name it goes by, and of what was learned."""
    header = identity.metadata.model_copy(update={"seal": None, "name": ""}).header()
    return hashlib.sha256(f"{header} {layers_sha256(identity)}".encode()).hexdigest()


def _checked_seal(file: str, identity: Identity) -> Identity:
    seal = identity.metadata.seal
    if seal is not None and seal.sha256 != content_sha256(identity):
        raise DamagedFile(
            f"{file} was changed after it was tied to its consent record. Restore the original file, or learn the "
            "subject again."
        )
    return identity


def save_identity(path: Path | str, identity: Identity, thumbnail: bytes = b"") -> str:
    """Write an identity, atomically; the same identity always gives the same bytes.

    Args:
        path: The file.
        identity: What was learned.
        thumbnail: A small JPEG for the file's header; `load_identity` leaves it there.

    Returns:
        SHA-256 of the file.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or full.
        UnreadableFile: If the identity is not one that `load_identity` would accept.
    """
    tensors = _tensors(identity)
    _checked_layers(Path(path).name, tensors, own=identity.metadata.own_prior is not None)
    _checked_seal(Path(path).name, identity)
    return atomic_save_safetensors(path, tensors, identity.metadata.header() | thumbnail_header(thumbnail))


def load_identity(path: Path | str) -> Identity:
    """Read and check an identity file.

    Raises:
        UnreadableFile: If it is damaged, oversized, not an identity, contains NaN or wrong shapes, or was changed after
            it was tied to a consent record.
    """
    metadata, file = read_record(IdentityMetadata, path, _LIMITS)
    own = metadata.own_prior is not None
    name = Path(path).name
    return _checked_seal(name, Identity(_checked_layers(name, file.tensors, own=own), metadata))


def _checked_layers(file: str, tensors: Mapping[str, Tensor], *, own: bool) -> dict[str, IdentityLayer]:
    wanted = {*_SUFFIXES, _OWN} if own else {*_SUFFIXES}
    groups: dict[str, dict[str, Tensor]] = {}
    findings: list[str] = []
    for key, tensor in tensors.items():
        target, _, suffix = key.rpartition(".")
        if target and suffix in wanted:
            groups.setdefault(target, {})[suffix] = tensor
        else:
            findings.append(f"unknown tensor {key!r}")
    for target, group in groups.items():
        if set(group) != wanted:
            needed = "mid, up and meta_down" if own else "mid and up"
            findings.append(f"{target} has only {', '.join(group)}; {needed} are needed")
        elif not _fits(group["mid"], group["up"]):
            shapes = f"mid {tuple(group['mid'].shape)} and up {tuple(group['up'].shape)}"
            findings.append(f"{target}: {shapes} are not floating-point (r_mid, r_meta) and (out, r_mid)")
        elif own and not _is_down(group[_OWN], group["mid"]):
            shape, rank = tuple(group[_OWN].shape), group["mid"].shape[1]
            findings.append(f"{target}: meta_down {shape} is not floating-point ({rank}, in) or ({rank}, in, kh, kw)")
    if not groups:
        findings.append("the '<target>.mid' tensors are missing")
    if findings:
        raise UnreadableFile(
            f"{file} is not a valid identity: {summarise(findings)}. Adapt again or choose another file."
        )
    return {target: IdentityLayer(**group) for target, group in sorted(groups.items())}


def _fits(mid: Tensor, up: Tensor) -> bool:
    floating = mid.is_floating_point() and up.is_floating_point()
    return floating and mid.ndim == up.ndim == 2 and mid.shape[0] == up.shape[1] and mid.numel() * up.numel() > 0


def _is_down(down: Tensor, mid: Tensor) -> bool:
    return down.is_floating_point() and down.ndim in (2, 4) and down.numel() > 0 and len(down) == mid.shape[1]


def check_prior(identity: Identity, prior: Prior) -> None:
    """Refuse a prior that an identity was not learned with.

    Raises:
        IncompatibleBaseModel: If the prior's hash or its layers are not the identity's.
        RankMismatch: If a mid does not fit its meta_down.
    """
    wanted, found = identity.metadata.prior_sha256, prior_sha256(prior)
    if wanted != found:
        raise IncompatibleBaseModel(
            f"The identity was learned with the prior {identity.metadata.prior_name!r} (SHA-256 {wanted[:12]}…), but "
            f"the loaded prior is {prior.metadata.name!r} (SHA-256 {found[:12]}…). Load the prior it was learned with."
        )
    missing = [name for name in identity.layers if name not in prior.layers]
    if missing:
        raise IncompatibleBaseModel(
            f"The identity has {len(missing)} layers that its prior lacks, first {missing[0]!r}. One of the two files "
            "was altered. Load the originals."
        )
    for name, layer in identity.layers.items():
        require_rank(name, layer.mid, prior.layers[name])


def chain_factors(
    identity: Identity, prior: Prior, strength: float = 1.0, device: torch.device | None = None
) -> dict[str, ChainFactors]:
    """Join an identity and its prior to the chain ΔW = scale · up · mid · meta_down of every target.

    Args:
        identity: mid and up of a subject.
        prior: meta_down and scale; it must be the prior that the identity was learned with.
        strength: The user's setting; 0 leaves the model unchanged.
        device: Where the factors should be; None for where they are.

    Returns:
        Target name to factors; tensors are shared with the arguments, not copied, unless they have to move.

    Raises:
        IncompatibleBaseModel: If the prior is a different one.
        RankMismatch: If a mid does not fit its meta_down.
    """
    check_prior(identity, prior)
    return {
        name: ChainFactors(
            meta_down=prior.layers[name].meta_down.to(device),
            mid=layer.mid.to(device),
            up=layer.up.to(device),
            scale=prior.metadata.scale,
            strength=strength,
        )
        for name, layer in identity.layers.items()
    }
