"""What is broken off: every way in which the program writes something that a user would miss."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import torch

from metalora_core import pocket
from metalora_core.commands import cli
from metalora_core.errors import MetaLoRAError, UnreadableFile
from metalora_core.files.checkpoint import load_checkpoint
from metalora_core.files.identity import load_identity, save_identity
from metalora_core.files.prior import load_prior, save_prior
from metalora_core.photos.pictures import save_picture, to_pil
from metalora_core.provenance.audit_log import GAP, AuditLog
from metalora_core.provenance.consent import record_consent
from metalora_core.provenance.consent_store import ConsentStore

STEPS, ENTRIES, RECORDS = 4, 12, 4
_NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
_OFTEN = ("--size", 32, "--steps", STEPS, "--set", "checkpoint_every=1", "--set", "read_every=1")
_IDENTITY, _PRIOR, _LORA, LOG = "identity.safetensors", "prior.safetensors", "lora.safetensors", "audit.jsonl"


@dataclass(frozen=True)
class Operation:
    """Something that writes files into a folder, and can be run again after it was broken off.

    Attributes:
        run: Does it; arguments are the folder and the inputs.
        replaces: Names of files that are there before, from an earlier run.
        grows: Name of a file that is neither old nor new while the operation runs.
        count: How far that file has come; raises MetaLoRAError if it is damaged.
        whole: Whether that file ends as it should; None if it has to be gone.
    """

    run: Callable[[Path, Path], None]
    replaces: tuple[str, ...] = ()
    grows: str = ""
    count: Callable[[Path], int] = lambda path: 0
    whole: Callable[[Path], bool] | None = None

    def prepare(self, folder: Path, inputs: Path) -> dict[str, bytes]:
        """Put the older files there; returns them."""
        older = {name: (inputs / name).read_bytes()[:-1] + b"\x01" for name in self.replaces}
        for name, content in older.items():
            (folder / name).write_bytes(content)
        return older

    def promises(self, path: Path) -> bool:
        """Whether a file has the same bytes after every run; a log beside a result tells when it was made."""
        return (self.grows == LOG and path.name == LOG) or path.name not in (LOG, f".{LOG}.lock")

    def progress(self, folder: Path, new: dict[str, bytes]) -> int:
        """How much is safely on the disk; whatever breaks a run off must not take it back."""
        done = [name for name, content in new.items() if name != self.grows and is_file_of(folder / name, content)]
        far = self.count(folder / self.grows) if (folder / self.grows).is_file() and not done else 0
        return 1000 * len(done) + far


def is_file_of(path: Path, content: bytes) -> bool:
    """Whether there is a file with exactly this content."""
    return path.is_file() and path.read_bytes() == content


def make_inputs(inputs: Path) -> None:
    """Photos for the trainings, and what the trainings make for the other operations.

    From now on the copies of this process have the base model in common; loading it writes nothing. They also have a
    home folder for the key that signs what the commands log.
    """
    os.environ["HOME"] = str(inputs)
    pocket.load_pocket_host = cache(pocket.load_pocket_host)
    for number in range(3):
        for photo in range(2):
            place = inputs / "subjects" / f"s{number}"
            place.mkdir(parents=True, exist_ok=True)
            generator = torch.Generator().manual_seed(10 * number + photo)
            save_picture(to_pil(torch.rand(3, 64, 64, generator=generator)), place / f"{photo}.png")
    _adapt(inputs, inputs)
    _meta_train(inputs, inputs)
    _export(inputs, inputs)


def _command(*words: object) -> None:
    """The real command line; an error that it explains is raised as MetaLoRAError."""
    try:
        cli.main([*map(str, words), "--json"])
    except SystemExit as stop:
        if stop.code:
            raise MetaLoRAError(f"{words[0]} ended with code {stop.code}") from stop


def _adapt(folder: Path, inputs: Path) -> None:
    photo = inputs / "subjects" / "s0" / "0.png"
    _command("adapt", photo, "--class-word", "mug", "--output", folder / _IDENTITY, *_OFTEN)


def _meta_train(folder: Path, inputs: Path) -> None:
    ranks = ("--batch", 2, "--r-meta", 4, "--r-mid", 2)
    _command(
        "meta-train", inputs / "subjects", "--class-word", "mug", "--output", folder / _PRIOR, *ranks, *_OFTEN
    )  # fmt: skip


def _export(folder: Path, inputs: Path) -> None:
    _command("export", inputs / _IDENTITY, "--prior", "products", "--output", folder / _LORA)


def _save(folder: Path, inputs: Path) -> None:
    save_identity(folder / _IDENTITY, load_identity(inputs / _IDENTITY))
    save_prior(folder / _PRIOR, load_prior(inputs / _PRIOR))


def _log(folder: Path, inputs: Path) -> None:
    """Add the entries that are not there yet."""
    audit = AuditLog(folder / LOG)
    for number in sorted(set(range(ENTRIES)) - set(_numbers(audit))):
        audit.append("adapted", {"number": number, "note": "x" * 700}, _NOW + timedelta(seconds=number))


def _numbers(audit: AuditLog) -> list[object]:
    found: list[object] = []
    with suppress(UnreadableFile):  # what is left of a last line
        found += (entry.details.get("number") for entry in audit.entries() if entry.event != GAP)
    return found


def _is_whole_log(path: Path) -> bool:
    audit = AuditLog(path)
    return audit.verify().intact and _numbers(audit) == list(range(ENTRIES))


def _consent(folder: Path, inputs: Path) -> None:
    for number in range(RECORDS):
        record = record_consent(
            subject=f"mug {number}", kind="product", granted_by="the potter", basis="own work", photo_scope="any",
            purposes=["training"], valid_from=_NOW, expires=_NOW + timedelta(days=365), licence="y" * 400,
        )  # fmt: skip
        ConsentStore(folder).save(record)


def _steps_in(kind: str) -> Callable[[Path], int]:
    return lambda path: load_checkpoint(path, kind=kind).step


OPERATIONS: dict[str, Operation] = {
    "adapt": Operation(_adapt, (_IDENTITY,), "identity.checkpoint.safetensors", _steps_in("adaptation")),
    "meta-train": Operation(_meta_train, (_PRIOR,), "prior.checkpoint.safetensors", _steps_in("meta-training")),
    "save": Operation(_save, (_IDENTITY, _PRIOR)),
    "export": Operation(_export, (_LORA,)),
    "log": Operation(_log, (), LOG, lambda path: AuditLog(path).verify().entries, _is_whole_log),
    "consent": Operation(_consent),
}
