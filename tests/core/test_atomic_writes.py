"""Writing: the whole new file or the whole old one, and in words why it did not work."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from core.disk_limits import file_size_limit
from core.test_files import make_prior

from metalora_core.errors import MetaLoRAError, UnreadableFile
from metalora_core.files import atomic
from metalora_core.files.atomic import UnwritableFile, atomic_save_safetensors, atomic_write, require_writable
from metalora_core.files.prior import PriorLayer, save_prior


def test_what_load_would_refuse_is_not_saved(tmp_path: Path) -> None:
    prior = make_prior()
    broken = type(prior)({"a": PriorLayer(torch.ones(3))}, prior.metadata)
    with pytest.raises(UnreadableFile, match="meta_down has shape"):
        save_prior(tmp_path / "p.safetensors", broken)
    with pytest.raises(MetaLoRAError, match="cannot be saved"):
        atomic_save_safetensors(tmp_path / "c.safetensors", {"z": torch.zeros(1, dtype=torch.complex128)})
    with pytest.raises(MetaLoRAError, match="'__metadata__' is taken"):
        atomic_save_safetensors(tmp_path / "c.safetensors", {"__metadata__": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_found_out_before(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "p.safetensors", 1000)
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(UnwritableFile, match="belongs to a folder"):
        require_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableFile, match="is a file, not a folder"):
        require_writable(tmp_path / "file" / "p.safetensors")
    with pytest.raises(UnwritableFile, match="name is too long"):
        require_writable(tmp_path / "long" / ("x" * 300) / "p.safetensors")
    with pytest.raises(UnwritableFile, match=r"its disk has [\d,]+ left"):
        require_writable(tmp_path / "p.safetensors", 2**62)


@pytest.fixture
def old_file(tmp_path: Path) -> Iterator[Path]:
    """A file that must survive whatever goes wrong while it is replaced, alone in its folder."""
    path = tmp_path / "out" / "p.safetensors"
    atomic_write(path, [b"old"])
    yield path
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == ["p.safetensors"]


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "try again")]
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(
    old_file: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, words: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(UnwritableFile, match=words) as caught:
            save_prior(old_file, make_prior())
    assert "p.safetensors" in str(caught.value)


def test_a_full_disk_in_the_middle_of_a_file_leaves_the_old_one(old_file: Path) -> None:
    with file_size_limit(4096), pytest.raises(UnwritableFile, match="larger than this account may write"):
        atomic_save_safetensors(old_file, {"a": torch.zeros(100_000)})


def test_cancelling_while_saving_leaves_the_old_file(old_file: Path) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(old_file, interrupted())


def test_a_killed_writer_leaves_the_old_file_and_the_next_save_works(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    atomic_write(path, [b"old"])
    script = (
        "import os, sys\n"
        "from metalora_core.files.atomic import atomic_write\n"
        "def chunks():\n"
        "    yield b'x' * 100000\n"
        "    os._exit(9)\n"
        "atomic_write(sys.argv[1], chunks())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 9 and path.read_bytes() == b"old"
    atomic_write(path, [b"new"])
    assert path.read_bytes() == b"new"


def test_an_output_folder_that_is_a_file_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(UnwritableFile, match="could not be written"):
        save_prior(tmp_path / "f" / "p.safetensors", make_prior())
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(UnwritableFile, match="belongs to a folder"):
        save_prior(tmp_path / "d.safetensors", make_prior())
    with pytest.raises(UnwritableFile, match="too long"):
        save_prior(tmp_path / ("n" * 300), make_prior())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_said_in_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UnwritableFile, match="not writable"):
            save_prior(tmp_path / "p.safetensors", make_prior())
    finally:
        tmp_path.chmod(0o700)


def test_missing_folders_are_made_and_files_get_the_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "p.safetensors"
    save_prior(path, make_prior())
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="only POSIX systems open folders")
def test_a_disk_that_cannot_sync_folders_still_takes_files(tmp_path, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "open", refuse)
    atomic_write(tmp_path / "file.bin", [b"content"])

    assert (tmp_path / "file.bin").read_bytes() == b"content"


def test_a_file_that_windows_holds_for_a_moment_is_replaced_and_one_that_stays_held_is_left_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace, held = tmp_path / "log", os.replace, [True, True]
    path.write_bytes(b"old")

    def as_windows_does(new: Path, old: Path) -> None:
        if held and held.pop():
            error = PermissionError(errno.EACCES, "in use")
            error.winerror = 32  # type: ignore[attr-defined, unused-ignore]
            raise error
        replace(new, old)

    monkeypatch.setattr(os, "replace", as_windows_does)
    atomic_write(path, [b"new"])
    assert path.read_bytes() == b"new"
    monkeypatch.setattr(atomic, "_IN_USE_SECONDS", 0.1)
    held += [True] * 1000
    with pytest.raises(UnwritableFile, match="in use"):
        atomic_write(path, [b"newer"])
    assert path.read_bytes() == b"new" and [one.name for one in tmp_path.iterdir()] == ["log"]
