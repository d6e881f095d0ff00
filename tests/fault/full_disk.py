"""A disk of this process's own that can be filled to the last byte: a small tmpfs in a mount namespace.

Where nobody may mount one, a limit on the size of files takes its place: it stops writing in the middle of a file too.
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SIZE_BYTES = 48 * 1024**2
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x4000, 0x40000, 2


@dataclass(frozen=True)
class SmallDisk:
    """A folder whose room can be taken.

    Attributes:
        folder: Where it is.
        refusal: Why no disk could be mounted there; empty if there is one.
    """

    folder: Path
    refusal: str

    @staticmethod
    def at(folder: Path) -> SmallDisk:
        """Mount one, seen by this process and its children only; to be called before a second thread runs."""
        folder.mkdir()
        try:
            _own_namespace()
            _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={SIZE_BYTES}".encode())
        except (OSError, AttributeError) as error:
            return SmallDisk(folder, str(error))
        return SmallDisk(folder, "")

    def fill(self, left_bytes: int, process: int) -> None:
        """Take all room but so much; what is freed later stays free. A limit is for this process, 0 for the own."""
        if self.refusal:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (left_bytes, resource.RLIM_INFINITY))
            return
        while (taken := self._free_bytes() - left_bytes) > 0:
            with suppress(OSError), (self.folder / "ballast").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, taken)
                return  # else the other process took some meanwhile

    def _free_bytes(self) -> int:
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def empty(self) -> None:
        """Give the room back."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take the disk away."""
        if not self.refusal:
            _call("umount2", os.fsencode(self.folder), _MNT_DETACH)


def _own_namespace() -> None:
    """Whoever is not root becomes it, inside a user namespace."""
    user, group, root = os.getuid(), os.getgid(), os.geteuid() == 0
    _call("unshare", _CLONE_NEWNS | (0 if root else _CLONE_NEWUSER))
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
