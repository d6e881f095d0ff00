"""Pictures with Content Credentials in ComfyUI's output folder, named as core's Save Image names them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...metalora_core.errors import MetaLoRAError
from ...metalora_core.files.atomic import atomic_write
from ...metalora_core.provenance.certificate import Certificate, certificate_of
from ...metalora_core.provenance.credentials import made_with, named, signed
from ...metalora_core.provenance.permission import PICTURES_SIGNED, SIGNED_WITH
from ...metalora_core.provenance.xmp import picture_bytes
from .audit import note_down, note_identity
from .consent import AskedAtStart, check_use
from .learned import LearnedIdentity
from .permissions import permissions


@dataclass(frozen=True)
class Saved:
    """What the node sends to the page.

    Attributes:
        pictures: Name, subfolder and type of each file, as the page asks for it.
        report: What they were signed with, and what for.
    """

    pictures: list[dict[str, str]]
    report: str


def certificate() -> Certificate:
    """What pictures are signed with, see `certificate_of`."""
    return certificate_of(permissions().installation, datetime.now(timezone.utc))


def cannot_sign() -> str:
    """Why no picture can be signed here, found out before anything is sampled; empty if it can."""
    try:
        certificate()
    except MetaLoRAError as reason:
        return str(reason)
    return ""


def identities_in(model: Any, *more: LearnedIdentity | None) -> list[LearnedIdentity]:
    """The identities that were applied to a MODEL, or to none, and others; each once."""
    from comfy.patcher_extension import WrappersMP

    wrappers = model.get_all_wrappers(WrappersMP.OUTER_SAMPLE) if model is not None else []
    found = [wrapper.learned for wrapper in wrappers if isinstance(wrapper, AskedAtStart)]
    return list({one.layers_sha256: one for one in [*found, *filter(None, more)]}.values())


def save_signed(
    images: Tensor,
    prefix: str,
    file_format: str,
    learned: Iterable[LearnedIdentity],
    notes: Mapping[str, Any],
    names: bool,
) -> Saved:
    """Sign and write pictures.

    Args:
        images: IMAGE.
        prefix: Of the file names, as for core's Save Image.
        file_format: "png" or "jpeg".
        learned: Identities that the pictures were made with; each must be permitted now.
        notes: Workflow and prompt, for PNG files.
        names: Whether to write the identities' names and permissions.

    Raises:
        ConsentRefused: If an identity is no longer permitted.
        UnreadableFile: If the certificate cannot be used.
        UnwritableFile: If a file cannot be written; those before it are kept.
    """
    import folder_paths

    own, learned = certificate(), list(learned)
    for one in learned:
        check_use(one)
    identities = [named(one.identity, names=names) for one in learned]
    root = folder_paths.get_output_directory()
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, *images[0].shape[1::-1])
    pictures: list[dict[str, str]] = []
    with _logged(pictures, own, learned) as warnings:
        for number, image in enumerate(images):
            start, kind = stem.replace("%batch_num%", str(number)), file_format.upper()
            # Core counts no file of a name with %batch_num%, and would replace the pictures of an earlier run.
            free_names = (f"{start}_{free:05}_.{file_format}" for free in itertools.count(counter + number))
            path = next(path for path in map(Path(folder).joinpath, free_names) if not path.exists())
            file = picture_bytes(_as_core_does(image), kind, made_with(identities), _texts(notes))
            atomic_write(path, [signed(file, kind, path.name, identities, own, _host())])
            pictures.append({"filename": path.name, "subfolder": subfolder, "type": "output"})
    made = ", ".join(named(one.identity).name for one in learned)
    told = f"Made with {made}." if made else "No identity was given, so none is named."
    report = [f"{len(pictures)} saved, first {_first(pictures)}. {told}", own.note, *warnings]
    return Saved(pictures, "\n".join(filter(None, report)))


@contextmanager
def _logged(pictures: list[dict[str, str]], own: Certificate, learned: list[LearnedIdentity]) -> Generator[list[str]]:
    """Note down what was signed inside, also if it stops half way; gives the audit log's warnings."""
    warnings = list[str]()
    try:
        yield warnings
    finally:
        if pictures:
            place = f"output/{_first(pictures)}"
            warnings += [note_identity(SIGNED_WITH, one.identity, place) for one in learned]
            warnings.append(note_down(PICTURES_SIGNED, file=place, pictures=len(pictures), signer=own.holder))


def _first(pictures: list[dict[str, str]]) -> str:
    return "/".join(filter(None, (pictures[0]["subfolder"], pictures[0]["filename"])))


def _as_core_does(image: Tensor) -> Image.Image:
    # Cut off, not rounded: the same pixels as in core's Save Image.
    return Image.fromarray((255.0 * image.cpu().float()).clamp(0, 255).to(torch.uint8).numpy())


def _texts(notes: Mapping[str, Any]) -> dict[str, str]:
    from comfy.cli_args import args

    return (
        {} if args.disable_metadata else {key: json.dumps(value) for key, value in notes.items() if value is not None}
    )


def _host() -> str:
    from comfyui_version import __version__

    return f"ComfyUI {__version__}"
