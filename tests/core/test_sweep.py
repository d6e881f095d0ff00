"""What is left behind goes by age; what is in use, and everything that is not left behind, stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from metalora_core.commands import cli
from metalora_core.files.sweep import find_left_behind, sweep

OLD = (
    "a/.metalora-1.tmp",
    ".mug_1.unfinished.safetensors",
    ".mug_1.unfinished.safetensors.rows-1-of-2",
    "a/b/run.safetensors.damaged",
    "a/b/run.safetensors.rows-1-of-1.damaged",
    ".mug_1.20.step.safetensors",
    ".metalora-2.tmp/new",
)
KEPT = (
    "a/mug.safetensors",
    "a/mug_step20.safetensors",
    ".hidden.safetensors",
    "unfinished.safetensors",
    "notes.tmp",
    "mug.checkpoint.safetensors",
)


def put(folder: Path, name: str, days: float, size: int = 10) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))
    if path.parent != folder and path.parent.name.endswith(".tmp"):
        os.utime(path.parent, (moment, moment))
    return path


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_left_behind_and_old_goes(tmp_path: Path) -> None:
    for name in (*OLD, *KEPT):
        put(tmp_path, name, days=8)
    put(tmp_path, "a/.metalora-3.tmp", days=6)
    gone = sweep([tmp_path], days=7)
    assert files_in(tmp_path) == {*KEPT, "a/.metalora-3.tmp"} and not (tmp_path / ".metalora-2.tmp").exists()
    assert len(gone) == 7 and sum(one.size_bytes for one in gone) >= 60


def test_what_is_in_use_stays_whatever_age_is_asked_for(tmp_path: Path) -> None:
    resumed = put(tmp_path, ".mug.unfinished.safetensors", days=100)
    rows = put(tmp_path, ".mug.unfinished.safetensors.rows-1-of-1", days=100)
    put(tmp_path, ".cup.unfinished.safetensors", days=0.01)
    folder = put(tmp_path, ".metalora-1.tmp/new", days=100).parent
    (folder / "written now").write_bytes(b"")
    assert sweep([tmp_path], days=0, keep=[resumed]) == []
    assert sorted(one.path for one in sweep([tmp_path], days=0)) == [resumed, rows]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = put(tmp_path, "outside/.mug.unfinished.safetensors", days=100)
    (tmp_path / "inside").mkdir()
    try:
        (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    except OSError:
        pytest.skip("this account cannot make links")
    assert sweep([tmp_path / "inside"], days=1) == [] and outside.exists()


def test_the_command_lists_and_deletes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, ".mug.unfinished.safetensors", days=8)
    for words in (["--dry-run"], []):
        assert path.exists()
        with pytest.raises(SystemExit) as stop:
            cli.main(["sweep", str(tmp_path), "--json", *words])
        assert stop.value.code == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {"files": [str(path)], "bytes": 10, "deleted": not words}
    assert not path.exists() and find_left_behind([tmp_path], 0) == []
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(tmp_path / "nowhere")])
    assert stop.value.code == 1 and "There is no folder" in capsys.readouterr().err
