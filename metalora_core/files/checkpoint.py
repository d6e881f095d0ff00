"""The checkpoint of a running adaptation or meta-training: everything that the next step depends on.

Optimizer states are nested dicts of tensors and numbers. Tensors become entries of the safetensors file, the rest one
JSON text in its record, so that nothing is ever pickled and a resumed run continues from exactly the same bits. A
checksum in the record proves both; whoever loads a checkpoint need not ask whether its numbers are plausible.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from pydantic import Field
from torch import Tensor

from ..checks import plain_line
from ..errors import DamagedFile, InvalidOptions, UnreadableFile
from .atomic import UnwritableFile, atomic_save_safetensors
from .bounded import ReadLimits, bytes_of
from .metadata import FileMetadata, read_record, summarise
from .row_file import row_files

_LOG = logging.getLogger(__name__)
_STATE_KEY = "state"
_SMALL_BYTES = 64 * 1024**2  # what a header, losses and an unusual optimizer may add


class CheckpointMetadata(FileMetadata):
    """The record of a checkpoint; `Checkpoint` says what the fields mean.

    Version 1 had the state beside the record, and no checksum.

    Args:
        state: The nested state as JSON.
        sha256: Of the fields above and all tensors; empty in version 1.
    """

    FORMAT: ClassVar[str] = "metalora.checkpoint"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[tuple[int, ...]] = (1,)
    kind: str
    step: Annotated[int, Field(ge=0)]
    digest: str
    state: str = ""
    sha256: str = ""

    def checksum(self, tensors: Mapping[str, Tensor]) -> str:
        """What `sha256` has to be for these tensors."""
        found = hashlib.sha256(json.dumps([self.kind, self.step, self.digest, self.state]).encode())
        for name, tensor in sorted(tensors.items()):
            found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            found.update(bytes_of(tensor.detach().cpu().contiguous()))
        return found.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps.

    Args:
        kind: "adaptation" or "meta-training".
        step: Steps done.
        digest: Hash of whatever decides the run (options, prior, photos, weights of the base); only an equal run may
            resume it.
        tensors: Factors, averages, moments of the bank, by name.
        state: Nested dicts, lists and tuples of tensors, numbers, texts and None: optimizer and generator states,
            the losses so far. Keys are texts or whole numbers.
    """

    kind: str
    step: int
    digest: str
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically: a run that is killed while it saves keeps the one before.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or full.
        InvalidOptions: If the state contains something other than a tensor, number, text, None, dict, list or tuple.
    """
    tensors = {f"tensors.{name}": tensor for name, tensor in checkpoint.tensors.items()}
    state = json.dumps(_flatten(dict(checkpoint.state), _STATE_KEY, tensors), sort_keys=True)
    # Once for the checksum and the file: from a card, a copy takes longer than either.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = CheckpointMetadata(kind=checkpoint.kind, step=checkpoint.step, digest=checkpoint.digest, state=state)
    record = record.model_copy(update={"sha256": record.checksum(tensors)})
    atomic_save_safetensors(path, tensors, record.header())


def load_checkpoint(
    path: Path | str, *, kind: str, digest: str | None = None, usual_bytes: int | None = None
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: The file.
        kind: The kind of run that resumes.
        digest: Its digest; None skips the comparison.
        usual_bytes: What the run's own state takes; a file many times larger is not read. None for any size.

    Raises:
        DamagedFile: If its checksum is wrong, or it is cut off or not finite.
        UnreadableFile: If it is missing, oversized or no checkpoint of this kind of run.
        InvalidOptions: If it belongs to a run with other options, photos, prior or base.
    """
    limits = ReadLimits() if usual_bytes is None else ReadLimits(file_bytes=8 * usual_bytes + _SMALL_BYTES)
    record, file = read_record(CheckpointMetadata, path, limits)
    name = plain_line(Path(path).name, 120)
    if record.kind != kind:
        raise UnreadableFile(
            f"{name} is the checkpoint of a {plain_line(record.kind, 40)}; expected one of a {kind}. Choose another "
            "file."
        )
    if record.sha256 and record.sha256 != record.checksum(file.tensors):
        raise DamagedFile(f"{name} was changed after it was written: its checksum is wrong. Delete it to start over.")
    if digest is not None and record.digest != digest:
        raise InvalidOptions(
            f"{name} belongs to a run with other options or photos, another prior or base model (digest "
            f"{record.digest[:12]!r}; this run has {digest[:12]}). Restore these, or delete the file to start over."
        )
    with refusing_damage(path):
        state = _unflatten(json.loads(record.state or file.metadata[_STATE_KEY]), file.tensors)
    prefix = "tensors."
    tensors = {key.removeprefix(prefix): tensor for key, tensor in file.tensors.items() if key.startswith(prefix)}
    return Checkpoint(record.kind, record.step, record.digest, tensors, cast("dict[str, Any]", state))


def require_tensors(
    saved: Checkpoint, path: Path | str, wanted: Mapping[str, Tensor], may: Mapping[str, Tensor] | None = None
) -> None:
    """Compare a checkpoint's tensors with those that it is about to overwrite.

    Args:
        saved: The checkpoint.
        path: Its file, for messages.
        wanted: The run's own tensors.
        may: Tensors of these names and shapes may also be there.

    Raises:
        DamagedFile: If one is missing, surplus or of another shape; all findings at once.
    """
    findings = [f"{name!r} is missing" for name in wanted if name not in saved.tensors]
    known = {**wanted, **(may or {})}
    for name, tensor in saved.tensors.items():
        if name not in known:
            findings.append(f"{name!r} is unknown")
        elif tensor.shape != known[name].shape:
            findings.append(f"{name!r} has shape {tuple(tensor.shape)}, not {tuple(known[name].shape)}")
    if findings:
        raise DamagedFile(
            f"{plain_line(Path(path).name, 120)} does not contain the state of this run: {summarise(findings)}. It is "
            "damaged or from another release. Delete it to start over."
        )


@contextmanager
def refusing_damage(path: Path | str) -> Generator[None]:
    """Explain what a malformed state raises while it is restored.

    Raises:
        DamagedFile: In place of an error of lookup, type, value or shape.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DamagedFile(
            f"{plain_line(Path(path).name, 120)}: the state in it is damaged ({plain_line(str(error), 200)}). Delete "
            "it to start over."
        ) from error


def resumed(path: Path, load: Callable[[Path], int], *, moves: bool = True) -> int:
    """Resume from a checkpoint, or move a damaged one aside and log it, so that the run can start over.

    Args:
        path: The run's checkpoint file.
        load: Restores the state in the file and returns the steps done.
        moves: This process moves it, not another that was told the same; else the damage is only logged.

    Returns:
        The steps done. For 0 the run starts over with a new state; `load` may have changed half of the old one.

    Raises:
        UnreadableFile: If the file is not damaged but of another kind; it stays where it is.
        InvalidOptions: If it belongs to another run.
    """
    try:
        return load(path)
    except DamagedFile as error:
        if not moves:
            _LOG.warning("%s", error)
            return 0
        aside = path.with_name(f"{path.name}.damaged")
        try:
            for one in (path, *row_files(path)):
                os.replace(one, one.with_name(f"{one.name}.damaged"))
        except OSError:
            raise error from None
        _LOG.warning("The run starts over; its checkpoint was moved aside to %s. %s", aside.name, error)
        return 0


@contextmanager
def losing_only_the_checkpoint() -> Generator[None]:
    """Write a checkpoint inside; if the disk is full or gone, only the checkpoint is lost, and the log says so."""
    try:
        yield
    except UnwritableFile as error:
        _LOG.warning("%s The training continues without this checkpoint.", error)


def forget_checkpoint(path: Path) -> None:
    """Delete a checkpoint that nobody needs any more, and the rows beside it; what cannot be deleted is swept later."""
    for one in (path, *row_files(path)):
        with suppress(OSError):
            one.unlink()


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        if not all(type(key) in (str, int) for key, _ in pairs):
            raise InvalidOptions(f"the state to save has a key at {path!r} that is neither text nor a whole number.")
        return {"dict": [[key, _flatten(item, f"{path}.{key!r}", tensors)] for key, item in pairs]}
    if isinstance(value, (list, tuple)):
        items = [_flatten(item, f"{path}.{i}", tensors) for i, item in enumerate(cast("list[Any]", value))]
        return {"list" if isinstance(value, list) else "tuple": items}
    raise InvalidOptions(
        f"the state to save holds a {type(value).__name__} at {path!r}; tensors, numbers, texts, None, dicts, "
        "lists and tuples can be saved."
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *rest = cast("dict[str, Any]", value).items()
    if rest or kind not in ("tensor", "dict", "list", "tuple"):
        raise ValueError(f"unknown entry {kind!r}")
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    items = [_unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
