"""Every reader of a stranger's file, whole files for it, and how they are broken."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from metalora_core.checks import visible
from metalora_core.errors import MetaLoRAError
from metalora_core.files.bounded import read_keys, read_safetensors
from metalora_core.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metalora_core.files.identity import load_identity
from metalora_core.files.inspection import describe_file
from metalora_core.files.prior import load_prior
from metalora_core.photos.folder_files import read_caption
from metalora_core.photos.images import load_photo
from metalora_core.provenance.audit_log import AuditLog
from metalora_core.provenance.consent_store import read_record

OLD_FILES = Path(__file__).resolve().parents[1] / "fixtures" / "old_files"
LONGEST_MESSAGE = 2500
_NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
_NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 2**31, 2**63, 10**400, "", "F64", "\x1b[31m" * 20_000, "\ud800", [], {}, [0, 4],
    [2**40, 2**40], [1] * 70, {"a": 1}, [[[[[]]]]], "NaN", "x" * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One way into the program for a file.

    Attributes:
        suffix: Of the file's name.
        load: Reads it; may raise MetaLoRAError and nothing else.
        seeds: Whole files.
    """

    suffix: str
    load: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]


def _described(path: Path) -> None:
    found = describe_file(path)
    found.text().encode()
    json.dumps(found.fields(), default=str, ensure_ascii=False).encode()


def _checkpoint(path: Path) -> None:
    load_checkpoint(path, kind="adaptation", usual_bytes=10_000)


def _log(path: Path) -> None:
    log = AuditLog(path)
    log.verify()
    log.append("fuzzed", {"number": 1}, _NOW)
    assert path.read_bytes().splitlines()[-1].startswith(b'{"details":{"number":1},"event":"fuzzed"')
    for kept in path.parent.glob(f"{path.name}.damaged*"):
        kept.unlink()


def _caption(path: Path) -> None:
    read_caption(path.with_suffix(".png"))


@cache
def _safetensors() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.safetensors"
        state = {"losses": [0.5, 0.25], "optimizer": {"state": {0: {"step": torch.ones(())}}, "groups": [{"lr": 0.1}]}}
        tensors = {"mids": torch.ones(3), "ups": torch.ones(2)}
        save_checkpoint(path, Checkpoint("adaptation", 2, "d" * 64, tensors, state))
        return [path.read_bytes(), *(file.read_bytes() for file in sorted(OLD_FILES.glob("*.safetensors")))]


@cache
def _texts(pattern: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted(OLD_FILES.glob(pattern))]


@cache
def _pictures() -> list[bytes]:
    from PIL import Image

    pixels = torch.randint(0, 256, (24, 20, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    found: list[bytes] = []
    for mode, kind, options in (
        ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        ("CMYK", "JPEG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("I;16", "PNG", {}), ("RGB", "BMP", {}),
        ("P", "GIF", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGBA", "WEBP", {}),
    ):  # fmt: skip
        image = Image.fromarray(pixels).convert("I" if mode == "I;16" else mode).convert(mode)
        data = io.BytesIO()
        image.save(data, kind, **options)
        found.append(data.getvalue())
    return found


READERS: dict[str, Reader] = {
    "safetensors": Reader(".safetensors", read_safetensors, _safetensors),
    "keys": Reader(".safetensors", read_keys, _safetensors),
    "prior": Reader(".safetensors", load_prior, _safetensors),
    "identity": Reader(".safetensors", load_identity, _safetensors),
    "checkpoint": Reader(".safetensors", _checkpoint, _safetensors),
    "inspect": Reader(".safetensors", _described, _safetensors),
    "consent": Reader(".consent.json", read_record, lambda: _texts("*.consent.json")),
    "audit log": Reader(".jsonl", _log, lambda: _texts("*.jsonl")),
    "photo": Reader(".png", load_photo, _pictures),
    "caption": Reader(".json", _caption, lambda: [b'{"caption": "a photo of ohwx mug"}', b'"text"']),
}


def read(reader: Reader, path: Path, data: bytes) -> bool:
    """Give a reader a file; whether it was taken.

    Raises:
        AssertionError: If the refusal is long or unclean.
        Exception: Whatever the reader raises beside its documented errors.
    """
    path.write_bytes(data)
    try:
        reader.load(path)
    except MetaLoRAError as error:
        text = str(error)
        assert len(text) <= LONGEST_MESSAGE, f"a refusal of {len(text)} characters: {text[:200]}"
        assert visible(text) == text, f"a refusal with hidden characters: {text!r}"
        return False
    return True


def broken(reader: Reader, random: Random, start: bytes | None = None) -> bytes:
    """A file, or a whole one of the reader's, after one to four changes: of bytes, or of JSON in a header or a text."""
    data = random.choice(reader.seeds()) if start is None else start
    for _ in range(random.choice((1, 1, 2, 4))):
        if reader.suffix == ".safetensors" and random.random() < 0.5:
            data = _other_header(data, random)
        elif reader.suffix.endswith((".json", ".jsonl")) and random.random() < 0.5:
            data = b"\n".join(_other_json(line, random) for line in data.split(b"\n"))
        else:
            data = _other_bytes(data, random, reader.seeds())
    return data


def _other_bytes(data: bytes, random: Random, seeds: list[bytes]) -> bytes:
    at, length = random.randrange(len(data) + 1), random.choice((1, 2, 4, 8, 64, 1024))
    kind = random.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        return data[:at] + random.randbytes(length) + data[at + length :]
    if kind == 3:
        return data[:at] + data[at : at + length] * random.choice((2, 3, 50)) + data[at + length :]
    if kind == 4:
        size = random.choice((1, 2, 4, 8))
        number = (random.choice(_NUMBERS) % 256**size).to_bytes(size, random.choice(("little", "big")))
        return data[:at] + number + data[at + size :]
    if kind == 5:
        other = random.choice(seeds)
        return data[:at] + other[random.randrange(len(other) + 1) :]
    return data[:at] + bytes([(data[at] if at < len(data) else 0) ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _other_header(data: bytes, random: Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    text = _other_json(data[8 : 8 + length], random)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _other_json(text: bytes, random: Random) -> bytes:
    """The same JSON with one value exchanged at any depth, also in a text that is JSON itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if random.random() < 0.05:
        return b'{"a":' * 2000 + text + b"}" * 2000
    return json.dumps(_exchanged(value, random), ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def _exchanged(value: Any, random: Random) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "[") and random.random() < 0.8:
        return _other_json(value.encode("utf-8", "surrogatepass"), random).decode("utf-8", "surrogatepass")
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if random.random() < 0.1:
            return value | {random.choice((str(key) + "x", "\x1b[31m" * 20_000, "__metadata__")): value[key]}
        return value | {key: _exchanged(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        at = random.randrange(len(value))
        return [*value[:at], _exchanged(value[at], random), *value[at + 1 :]]
    return random.choice(_VALUES)
