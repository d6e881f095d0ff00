"""Finds an identity's prior: its own, or the installed one with its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...metalora_core.errors import UnreadableFile
from ...metalora_core.files.atomic import file_sha256
from ...metalora_core.files.identity import Identity, own_prior
from ...metalora_core.files.prior import Prior, load_prior
from ...metalora_core.pocket.load import prior_file
from ...metalora_core.pocket.world.factors import DOMAINS
from .folders import PRIORS, file_in, listed

_hashes: dict[tuple[str, int, int], str] = {}
"""(path, size, time) to SHA-256, so that a folder of large priors is read once per session."""


def prior_of(identity: Identity, connected: Prior | None = None) -> Prior:
    """The prior that an identity was learned with: in its own file, connected, or installed.

    Args:
        identity: To be used.
        connected: What is looked at before the installed ones.

    Raises:
        UnreadableFile: If no installed prior has its hash.
    """
    at_hand = own_prior(identity) or connected
    if at_hand is not None:
        return at_hand
    wanted = identity.metadata.prior_sha256
    installed = [file_in(PRIORS, name) for name in listed(PRIORS)]
    # A file of the recorded name is the likely one, and large priors take seconds to hash.
    installed.sort(key=lambda path: path.stem != identity.metadata.prior_name)
    embedded: list[Any] = [prior_file(domain) for domain in DOMAINS]
    for path in [*embedded, *installed]:
        if path.is_file() and _hash_of(path) == wanted:
            return load_prior(path)
    raise UnreadableFile(
        f"The identity needs the prior {identity.metadata.prior_name!r} (SHA-256 {wanted[:12]}…), which is not among "
        f"the "
        f"{len(installed)} files in models/{PRIORS}. Put that file there and press R, or connect it to the prior input."
    )


def _hash_of(path: Path) -> str:
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = file_sha256(path)
    return _hashes[key]
