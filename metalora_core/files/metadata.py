"""The validated record that every file of this package carries in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InvalidOptions, UnreadableFile

METADATA_KEY = "metalora"


class FileMetadata(BaseModel):
    """Base of the records: unknown fields, wrong types and non-finite numbers are refused.

    Subclasses set `FORMAT` (what the file is) and `VERSION` (of that format), which stand in the record as
    ``format`` and ``format_version``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
    FORMAT: ClassVar[str]
    VERSION: ClassVar[int]

    def header(self) -> dict[str, str]:
        """The record as one canonical JSON text under the header key ``metalora``.

        Raises:
            InvalidOptions: If a setting or metric is NaN or infinite, which JSON cannot say.
        """
        fields = self.model_dump() | {"format": self.FORMAT, "format_version": self.VERSION}
        try:
            return {METADATA_KEY: json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False)}
        except ValueError as error:
            raise InvalidOptions(
                f"the {self.FORMAT} record cannot be written ({error}); leave out what is not finite."
            ) from error


Record = TypeVar("Record", bound=FileMetadata)


def raw_record(file_name: str, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The undecoded record of a header, or None if the file is not one of ours.

    Raises:
        UnreadableFile: If the entry is there but no JSON object.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        fields: Any = json.loads(metadata[METADATA_KEY], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{file_name}: its Meta-LoRA record is no JSON ({error}). Make the file again.") from error
    if not isinstance(fields, dict):
        raise UnreadableFile(f"{file_name}: its Meta-LoRA record is no JSON object. Make the file again.")
    return cast("dict[str, Any]", fields)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not allowed")


def parse_record(record: type[Record], file_name: str, metadata: Mapping[str, str]) -> Record:
    """Validate a header's record.

    Args:
        record: The class that the file must carry.
        file_name: For messages.
        metadata: Text entries of the header.

    Raises:
        UnreadableFile: If the file is of another kind or version, or a field is missing, unknown or invalid.
    """
    fields = raw_record(file_name, metadata)
    if fields is None:
        raise UnreadableFile(
            f"{file_name} has no Meta-LoRA record in its header, so it is no {record.FORMAT} file. "
            "An ordinary LoRA or a model cannot stand in its place."
        )
    kind, version = fields.pop("format", None), fields.pop("format_version", None)
    if kind != record.FORMAT:
        raise UnreadableFile(f"{file_name} is a {kind} file, a {record.FORMAT} file was expected. Choose another file.")
    if version != record.VERSION:
        raise UnreadableFile(
            f"{file_name} has format version {version}, this release reads version {record.VERSION}. "
            "Update Meta-LoRA, or make the file again."
        )
    try:
        return record.model_validate_json(json.dumps(fields))
    except (ValidationError, ValueError) as error:
        raise UnreadableFile(f"{file_name}: its Meta-LoRA record is invalid: {_first_findings(error)}.") from error


def _first_findings(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    findings = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return "; ".join(findings[:5])


def summarise(findings: list[str], most: int = 6) -> str:
    """Join findings for one message: all of them, or the first few and how many more."""
    more = f"; and {len(findings) - most} more" if len(findings) > most else ""
    return "; ".join(findings[:most]) + more
