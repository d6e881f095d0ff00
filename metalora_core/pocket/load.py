"""The pocket world's shipped files: where they are, their records, how they become models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, JsonValue
from torch import Tensor, nn

from ..errors import UnreadableFile
from ..files.atomic import atomic_save_safetensors
from ..files.bounded import read_safetensors
from ..files.metadata import FileMetadata, parse_record
from .world.factors import DOMAINS, Domain

if TYPE_CHECKING:
    from ..files.prior import Prior
    from ..hosts.diffusers import DiffusersHost
    from .readers import FactorReader
    from .text import WordTextEncoder

WEIGHTS = Path(__file__).parent / "weights"
AUTOENCODER_FILE = WEIGHTS / "pocket_vae.safetensors"
BASE_FILE = WEIGHTS / "pocket_flux.safetensors"
TEXT_FILE = WEIGHTS / "pocket_text.safetensors"


NAME = "Pocket Flux"


def prior_file(domain: Domain) -> Path:
    """Path of a domain's shipped prior."""
    return WEIGHTS / f"pocket_prior_{domain}.safetensors"


def reader_file(domain: Domain) -> Path:
    """Path of a domain's shipped scorer."""
    return WEIGHTS / f"pocket_reader_{domain}.safetensors"


class PocketMetadata(FileMetadata):
    """The record of a pocket model file.

    Args:
        part: "autoencoder", "base", "text" or "reader".
        name: For people.
        domain: Of a reader.
        training: How it was made: script, steps, seed, and the scores seen on validation photos.
        license: SPDX identifier.
    """

    FORMAT: ClassVar[str] = "metalora.pocket"
    VERSION: ClassVar[int] = 1
    part: str
    name: Annotated[str, Field(min_length=1)]
    domain: str = ""
    training: dict[str, JsonValue] = Field(default_factory=dict)
    license: str = "MIT"


def save_part(path: Path, state: dict[str, Tensor], metadata: PocketMetadata) -> str:
    """Write one pocket model in half precision, atomically; returns its SHA-256."""
    halved = {name: value.detach().half() if value.dim() else value.detach() for name, value in state.items()}
    return atomic_save_safetensors(path, halved, metadata.header())


def load_part(path: Path) -> tuple[dict[str, Tensor], PocketMetadata]:
    """Read one pocket model as float32.

    Raises:
        UnreadableFile: If the file is missing, damaged or of another kind.
    """
    file = read_safetensors(path)
    metadata = parse_record(PocketMetadata, path.name, file.metadata)
    return {name: value.float() for name, value in file.tensors.items()}, metadata


def _load_into(module: Any, path: Path) -> Any:
    state, _ = load_part(path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UnreadableFile(f"{path.name} does not fit this release: {error}. Reinstall the pack.") from error
    return module.eval().requires_grad_(False)


def load_text_encoder() -> WordTextEncoder:
    """The pocket text encoder."""
    from .text import WordTextEncoder

    return _load_into(WordTextEncoder(), TEXT_FILE)


def load_autoencoder() -> Any:
    """The pocket autoencoder in its slim form; its encoder's own output is the latent."""
    from ..hosts.latents import load_latent_space
    from ..model.families import FLUX
    from .autoencoder import narrow

    return (
        narrow(load_latent_space(AUTOENCODER_FILE, FLUX.bases[0]).autoencoder.state_dict()).eval().requires_grad_(False)
    )


def load_pocket_host() -> DiffusersHost:
    """The pocket model as a host: diffusers' Flux, the slim autoencoder, the word encoder."""
    from ..hosts.diffusers import DiffusersHost
    from ..model.objective import FlowObjective
    from .flux import make_base_model

    model: nn.Module = _load_into(make_base_model(), BASE_FILE)
    return DiffusersHost(model, load_autoencoder(), load_text_encoder().encode, FlowObjective())


def load_pocket_prior(domain: Domain) -> Prior:
    """The shipped prior of a domain."""
    from ..files.prior import load_prior

    return load_prior(prior_file(domain))


@lru_cache(maxsize=1)
def load_readers() -> Mapping[Domain, FactorReader]:
    """The shipped scorers of all domains."""
    from .readers import FactorReader

    return {domain: _load_into(FactorReader(domain), reader_file(domain)) for domain in DOMAINS}
