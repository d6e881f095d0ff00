"""Consent records on disk, one JSON file each, beside the identities they cover."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from ..checks import plain_line
from ..errors import ConsentRefused, UnreadableFile
from ..files.atomic import atomic_write
from ..files.bounded import open_regular
from .consent import ConsentRecord, explained

SUFFIX = ".consent.json"

FILE_BYTES_AT_MOST = 4 * 1024 * 1024
"""Largest record that is read; a thousand photos with long notes stay below it."""

_ID = re.compile(r"[0-9a-f]{64}")


class ConsentStore:
    """The records of one folder. A file is named by the record's id alone, so no text of a user reaches a path.

    Args:
        folder: Usually the folder of the identities; made when the first record is saved.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path_of(self, consent_id: str) -> Path:
        """Path of a record.

        Raises:
            ConsentRefused: If the id is not valid; only 64 hexadecimal digits can become a file name.
        """
        if not _ID.fullmatch(consent_id):
            raise ConsentRefused(
                f"The consent id {plain_line(consent_id, 80)!r} is not valid; expected 64 hexadecimal digits. Record "
                "the consent again."
            )
        return self.folder / f"{consent_id}{SUFFIX}"

    def save(self, record: ConsentRecord) -> Path:
        """Write a record, whole or not at all; an equal record already there is left alone.

        Raises:
            UnwritableFile: If the folder is unwritable or full.
        """
        path = self.path_of(record.id)
        atomic_write(path, [record.to_json()])
        return path

    def load(self, consent_id: str) -> ConsentRecord:
        """Read the record that an identity names.

        Raises:
            ConsentRefused: If there is no such record here.
            UnreadableFile: If its file is damaged, was changed, or holds another record.
        """
        path = self.path_of(consent_id)
        if not path.is_file():
            raise ConsentRefused(
                f"Consent record {consent_id[:12]}… was not found in {self.folder}. Copy its file ({path.name}) there, "
                "or record the consent again."
            )
        record = read_record(path)
        if record.id != consent_id:
            raise UnreadableFile(
                f"{path.name} contains the consent record {record.id[:12]}…, which does not match its name. Restore "
                "the file."
            )
        return record

    def list(self) -> tuple[ConsentRecord, ...]:
        """All readable records by subject; other files are skipped."""
        records: list[ConsentRecord] = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                records.append(read_record(path))
            except UnreadableFile:
                continue
        return tuple(sorted(records, key=lambda record: (record.subject, record.id)))


def read_record(path: Path | str) -> ConsentRecord:
    """Read and validate a consent file.

    Raises:
        UnreadableFile: If it is missing, too large, not a valid record, or does not match its own id.
    """
    path = Path(path)
    with open_regular(path) as file:
        data = file.read(FILE_BYTES_AT_MOST + 1)
    if len(data) > FILE_BYTES_AT_MOST:
        raise UnreadableFile(f"{path.name} has more than {FILE_BYTES_AT_MOST} bytes, so it is not a consent record.")
    try:
        return ConsentRecord.model_validate_json(data)
    except ValidationError as error:
        raise UnreadableFile(
            f"{path.name} is not a valid consent record: {explained(error)}. Restore the file, or record the consent "
            "again."
        ) from error
