"""The validated record that every file of this package carries in its header."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from ..checks import plain_line
from ..errors import DamagedFile, InvalidOptions, UnreadableFile
from .bounded import ReadLimits, SafetensorsFile, read_metadata, read_safetensors

METADATA_KEY = "metalora"
THUMBNAIL_KEY = "modelspec.thumbnail"
JPEG_ADDRESS = "data:image/jpeg;base64,"
THUMBNAIL_BYTES_AT_MOST = 256 * 1024
"""Of a picture that is handed on: one of 256 px takes a tenth of it."""
# Control characters, which a terminal would act on, and marks that reverse the reading direction.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class FileMetadata(BaseModel):
    """Base of the records: unknown fields, wrong types and non-finite numbers are refused.

    Subclasses set `FORMAT` (what the file is) and `VERSION` (of that format), which are in the record as ``format`` and
    ``format_version``, and `OLDER`, the earlier versions that are still read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
    FORMAT: ClassVar[str]
    VERSION: ClassVar[int]
    OLDER: ClassVar[tuple[int, ...]] = ()

    def header(self) -> dict[str, str]:
        """The record as one canonical JSON text under the header key ``metalora``.

        Raises:
            InvalidOptions: If a setting or metric is NaN or infinite, or half a character, which JSON cannot say.
        """
        fields = _cleaned(self.model_dump()) | {"format": self.FORMAT, "format_version": self.VERSION}
        try:
            text = json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False)
            text.encode()
            return {METADATA_KEY: text}
        except ValueError as error:
            raise InvalidOptions(
                f"the {self.FORMAT} record cannot be written ({error}); remove values that are not finite."
            ) from error


Record = TypeVar("Record", bound=FileMetadata)


def raw_record(file_name: str, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The undecoded record of a header with its texts cleaned, or None if the file is not one of ours.

    Raises:
        DamagedFile: If the entry is there but not a JSON object.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        fields: Any = from_json(metadata[METADATA_KEY], allow_inf_nan=False)
    except ValueError as error:
        said = plain_line(str(error), 200)
        raise DamagedFile(f"The Meta-LoRA record of {file_name} is not JSON ({said}). Make the file again.") from error
    if not isinstance(fields, dict):
        raise DamagedFile(f"The Meta-LoRA record of {file_name} is not a JSON object. Make the file again.")
    return _cleaned(fields)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _HIDDEN.sub(" ", value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in cast("dict[Any, Any]", value).items()}
    return [_cleaned(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def parse_record(record: type[Record], file_name: str, metadata: Mapping[str, str]) -> Record:
    """Validate a header's record.

    Args:
        record: The class that the file must carry.
        file_name: For messages.
        metadata: Text entries of the header.

    Raises:
        DamagedFile: If a field is missing, unknown or invalid.
        UnreadableFile: If the file is of another kind or version.
    """
    fields = raw_record(file_name, metadata)
    if fields is None:
        raise UnreadableFile(
            f"{file_name} has no Meta-LoRA record in its header, so it is not a {record.FORMAT} file. An ordinary LoRA "
            "or a model does not work here."
        )
    kind, version = fields.pop("format", None), fields.pop("format_version", None)
    if kind != record.FORMAT:
        found = plain_line(str(kind), 40)
        raise UnreadableFile(f"{file_name} is a {found} file; expected a {record.FORMAT} file. Choose another file.")
    if version not in (record.VERSION, *record.OLDER):
        found = version if version in range(1000) else "unknown"
        raise UnreadableFile(
            f"{file_name} has format version {found}; this release reads version {record.VERSION}. "
            "Update Meta-LoRA, or make the file again."
        )
    try:
        return record.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        findings = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise DamagedFile(f"The Meta-LoRA record of {file_name} is not valid: {summarise(findings, 5)}.") from error


def read_record(
    record: type[Record], path: Path | str, limits: ReadLimits | None = None
) -> tuple[Record, SafetensorsFile]:
    """Read a file of ours; one of another kind is refused before its tensors are read.

    Raises:
        UnreadableFile: As `read_safetensors` and `parse_record` say.
    """
    found: list[Record] = []
    file = read_safetensors(path, limits, check=lambda name, texts: found.append(parse_record(record, name, texts)))
    return found[0], file


def thumbnail_header(jpeg: bytes) -> dict[str, str]:
    """A picture as a header entry of the ModelSpec standard; nothing for no picture."""
    return {THUMBNAIL_KEY: JPEG_ADDRESS + b64encode(jpeg).decode()} if jpeg else {}


def thumbnail_of(path: Path) -> str:
    """The picture in a file's header as a data address; empty if it has none or cannot be read."""
    with suppress(UnreadableFile):
        address = read_metadata(path).get(THUMBNAIL_KEY, "")
        return address if address.startswith(JPEG_ADDRESS) else ""
    return ""


def thumbnail_in(path: Path | None) -> bytes:
    """The same picture as a JPEG, to be handed to `thumbnail_header`; empty if it has none, or a large one."""
    with suppress(ValueError):
        jpeg = b"" if path is None else b64decode(thumbnail_of(path).removeprefix(JPEG_ADDRESS), validate=True)
        return jpeg if len(jpeg) <= THUMBNAIL_BYTES_AT_MOST else b""
    return b""


def summarise(findings: list[str], most: int = 6) -> str:
    """Join findings for one message: all of them, or the first few and how many more, each in short clean text."""
    more = f"; and {len(findings) - most} more" if len(findings) > most else ""
    return "; ".join(plain_line(finding, 300) for finding in findings[:most]) + more
