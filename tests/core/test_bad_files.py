"""Malformed, oversized, foreign and half-written files: refused in words, never half-read, never half-written."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_files import make_identity, make_prior
from hypothesis import given, settings
from hypothesis import strategies as st

from metalora_core.checks import visible
from metalora_core.errors import DamagedFile, InvalidOptions, UnreadableFile
from metalora_core.files.atomic import UnwritableFile, atomic_save_safetensors
from metalora_core.files.bounded import ReadLimits, read_keys, read_safetensors
from metalora_core.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metalora_core.files.identity import load_identity, save_identity
from metalora_core.files.inspection import describe_file
from metalora_core.files.prior import load_prior, prior_sha256, save_prior
from metalora_core.provenance.consent_store import read_record as read_record_file


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


MALFORMED: dict[str, bytes] = {
    "seventy dimensions": file_of({"a": entry([1] * 70, 0, 4)}, b"\0" * 4),
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header longer than the file": file_of({}, length=99),
    "gigantic header": (2**63).to_bytes(8, "little") + b"{}",
    "no JSON": file_of(b"{oops"),
    "no UTF-8": file_of(b'{"\xff": 1}'),
    "a list": file_of([1]),
    "deep nesting": file_of(b"[" * 100_000),
    "deep nesting in an entry": file_of(b'{"a":' * 100_000),
    "key twice": file_of(b'{"a": 1, "a": 2}'),
    "half a character": file_of(b'{"__metadata__": {"a": "\\ud800"}}'),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}),
    "metadata list": file_of({"__metadata__": []}),
    "unknown dtype": file_of({"a": entry([1], 0, 4, "F33")}, b"\0" * 4),
    "dtype of 200 kB with escapes": file_of({"a": entry([1], 0, 4, "\x1b[31m" * 40_000)}, b"\0" * 4),
    "no dtype": file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "negative shape": file_of({"a": entry([-1], 0, 4)}, b"\0" * 4),
    "boolean shape": file_of({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"\0" * 4),
    "three offsets": file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, b"\0" * 4),
    "shape and bytes disagree": file_of({"a": entry([2], 0, 4)}, b"\0" * 4),
    "huge shape": file_of({"a": entry([2**40, 2**40], 0, 4)}, b"\0" * 4),
    "empty, yet huge": file_of({"a": entry([0, 2**70], 0, 0)}),
    "backward offsets": file_of({"a": entry([1], 4, 0)}, b"\0" * 4),
    "overlap": file_of({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"\0" * 4),
    "gap": file_of({"a": entry([1], 4, 8)}, b"\0" * 8),
    "cut off": file_of({"a": entry([2], 0, 8)}, b"\0" * 5),
    "bytes left over": file_of({"a": entry([1], 0, 4)}, b"\0" * 9),
}
# Strange, but the safetensors library reads them, and so do all programs that use it.
ODD: dict[str, bytes] = {
    "extra field": file_of({"a": entry([1], 0, 4) | {"x": 1}}, b"\0" * 4),
    "not aligned": file_of({"a": entry([1], 0, 1, "U8"), "b": entry([1], 1, 5)}, b"\0" * 5),
    "eight bits": file_of({"a": entry([4], 0, 4, "F8_E4M3")}, b"\0" * 4),
}


@pytest.mark.parametrize("case", list(MALFORMED))
def test_a_malformed_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(MALFORMED[case])
    for load in (read_safetensors, load_prior, load_identity, lambda p: load_checkpoint(p, kind="adaptation")):
        with pytest.raises(DamagedFile, match=r"^x\.safetensors is not a complete safetensors file.+; copy") as caught:
            load(path)
        assert_clean(str(caught.value))


def assert_clean(message: str) -> None:
    assert len(message) < 1200 and message == visible(message)


@pytest.mark.parametrize("case", list(ODD))
def test_what_the_library_reads_is_read_and_is_still_no_prior(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(ODD[case])
    assert not any(tensor.flatten().float().any() for tensor in read_safetensors(path).tensors.values())
    with pytest.raises(UnreadableFile, match="no Meta-LoRA record"):
        load_prior(path)


def test_an_empty_tensor_of_an_impossible_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"a": entry([0, 2**62, 2**62], 0, 0)}))
    with pytest.raises(UnreadableFile, match=r"x\.safetensors"):
        read_safetensors(path)


def test_a_pickle_or_zip_under_another_name_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    # The exact start of a protocol 2 pickle; unpickling would call the named function.
    path.write_bytes(b"\x80\x02cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnreadableFile, match="Pickles can run code"):
        load_prior(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    with pytest.raises(UnreadableFile, match="Pickles can run code"):
        load_prior(path)


def test_limits_hold_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    atomic_save_safetensors(path, {f"t{i}": torch.zeros(4) for i in range(20)}, {"note": "n" * 500})
    size = path.stat().st_size
    for limits, words in (
        (ReadLimits(tensors=19), "lists 20 tensors; at most 19"),
        (ReadLimits(header_bytes=100), "at most 100"),
        (ReadLimits(file_bytes=size - 1), f"{size} bytes; at most {size - 1}"),
    ):
        with pytest.raises(UnreadableFile, match=words):
            read_safetensors(path, limits)
    assert len(read_safetensors(path, ReadLimits(tensors=20, file_bytes=size)).tensors) == 20


def test_missing_files_and_folders_are_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="could not be opened"):
        load_prior(tmp_path / "nowhere.safetensors")
    with pytest.raises(UnreadableFile, match="not a file"):
        load_prior(tmp_path)
    with pytest.raises(UnreadableFile, match="could not be opened"):
        load_prior(tmp_path / "zero\0byte.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    atomic_save_safetensors(
        tmp_path / "n.safetensors", {"a": torch.zeros(2), "b": torch.full((2,), value, dtype=dtype)}
    )
    with pytest.raises(UnreadableFile, match="NaN or infinite values, first in 'b'"):
        read_safetensors(tmp_path / "n.safetensors")


Change = Callable[[dict[str, torch.Tensor]], None]
KEY = "double_blocks.0.img_attn.qkv"


def put(key: str, *shape: int) -> Change:
    return lambda tensors: tensors.__setitem__(key, torch.ones(shape))


def without_targets(tensors: dict[str, torch.Tensor]) -> None:
    tensors.clear()
    tensors["stray"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(f"{KEY}.meta_down", 4), r"meta_down has shape \(4,\)"),
        (put(f"{KEY}.meta_down", 0, 8), "meta_down has shape"),
        (put(f"{KEY}.mid_init", 2, 5), r"mid_init has shape \(2, 5\)"),
        (put(f"{KEY}.up_init", 24, 3), r"up_init has shape \(24, 3\)"),
        (put(f"{KEY}.step_size", 3), r"step_size has shape \(3,\)"),
        (put("stray", 3), "unknown tensor 'stray'"),
        (put("x.lora_mid", 3), "unknown tensor 'x.lora_mid'"),
        (put("other.mid_init", 2, 4), "other: meta_down is missing"),
        (put("features.mean", 7), "feature statistics have the shapes"),
        (lambda tensors: tensors.update({f"{KEY}.meta_down": torch.ones(4, 8, dtype=torch.int64)}), "floating-point"),
        (without_targets, "the '<target>.meta_down' tensors are missing"),
    ],
)
def test_a_prior_with_wrong_tensors_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    path = tmp_path / "p.safetensors"
    save_prior(path, make_prior())
    file = read_safetensors(path)
    change(file.tensors)
    atomic_save_safetensors(path, file.tensors, file.metadata)
    with pytest.raises(UnreadableFile, match=words):
        load_prior(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(f"{KEY}.mid", 3, 4), "not floating-point"),
        (put(f"{KEY}.up", 24), "not floating-point"),
        (put("stray.down", 3), "unknown tensor"),
        (lambda tensors: tensors.pop(f"{KEY}.up"), "has only mid"),
        (without_targets, "the '<target>.mid' tensors are missing"),
    ],
)
def test_an_identity_with_wrong_tensors_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    path = tmp_path / "i.safetensors"
    save_identity(path, make_identity(make_prior()))
    file = read_safetensors(path)
    change(file.tensors)
    atomic_save_safetensors(path, file.tensors, file.metadata)
    with pytest.raises(UnreadableFile, match=words):
        load_identity(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"r_meta": 0}, "r_meta"),
        ({"r_meta": "4"}, "r_meta"),
        ({"scale": -1.0}, "scale"),
        ({"surprise": 1}, "surprise"),
        ({"name": None}, "name"),
        ({"format_version": 2}, "format version 2"),
        ({"format": "metalora.identity"}, "is a metalora.identity file"),
    ],
)
def test_a_record_with_wrong_fields_is_refused(tmp_path: Path, fields: Mapping[str, Any], words: str) -> None:
    path = tmp_path / "p.safetensors"
    save_prior(path, make_prior())
    file = read_safetensors(path)
    record = json.loads(file.metadata["metalora"]) | fields
    atomic_save_safetensors(path, file.tensors, {"metalora": json.dumps(record)})
    with pytest.raises(UnreadableFile, match=words):
        load_prior(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": NaN}', "null"])
def test_a_record_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    atomic_save_safetensors(tmp_path / "p.safetensors", {"a": torch.zeros(1)}, {"metalora": text})
    with pytest.raises(UnreadableFile, match=r"not (a )?JSON"):
        load_prior(tmp_path / "p.safetensors")


HOSTILE: dict[str, tuple[str, str]] = {
    "nested": ('{"settings": ' + '{"a": ' * 5000 + "1" + "}" * 5001, "recursion limit"),
    "half a character": (r'{"format": "metalora.prior", "name": "\ud800"}', "not JSON"),
    "endless version": ('{"format": "metalora.prior", "format_version": 1' + "0" * 5000 + "}", "out of range"),
    "huge version": ('{"format": "metalora.prior", "format_version": 1' + "0" * 4000 + "}", "version unknown"),
    "huge number": (
        '{"format": "metalora.prior", "format_version": 1, "r_meta": 1' + "0" * 4000 + "}",
        "is not valid",
    ),
    "long kind with escapes": (json.dumps({"format": "\x1b[31m\n" * 50_000}), "expected a metalora.prior"),
    "long field with escapes": (
        json.dumps({"format": "metalora.prior", "format_version": 1, "\x1b[31m\u202e" * 50_000: 1}),
        "is not valid",
    ),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_a_hostile_record_is_refused_in_clean_short_text(tmp_path: Path, case: str) -> None:
    text, words = HOSTILE[case]
    path = tmp_path / ("\x1b[31m" + "n" * 200 + ".safetensors")
    atomic_save_safetensors(path, {"a": torch.zeros(1)}, {"metalora": text})
    with pytest.raises(UnreadableFile, match=words) as caught:
        load_prior(path)
    assert_clean(str(caught.value))
    with suppress(UnreadableFile):
        json.dumps(describe_file(path).fields(), ensure_ascii=False, default=str).encode()


def test_texts_of_a_record_come_out_clean_and_stay_so(tmp_path: Path) -> None:
    prior = make_prior(license="a\x1b[31mb\u202ec\nd", training={"\x07k": ["\x9b", 1]})
    saved = save_prior(tmp_path / "p.safetensors", prior)
    loaded = load_prior(tmp_path / "p.safetensors")
    assert loaded.metadata.license == "a [31mb c\nd" and loaded.metadata.training == {" k": [" ", 1]}
    assert saved.sha256 == prior_sha256(prior) == save_prior(tmp_path / "q.safetensors", loaded).sha256


def test_half_a_character_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match="cannot be written"):
        save_prior(tmp_path / "p.safetensors", make_prior(license="\ud800"))
    with pytest.raises(UnwritableFile, match="cannot be written"):
        save_prior(tmp_path / "\ud800.safetensors", make_prior())
    with pytest.raises(UnwritableFile, match="cannot be written"):
        save_prior(tmp_path / "zero\0byte.safetensors", make_prior())
    assert not list(tmp_path.iterdir())


def test_names_of_tensors_appear_short_and_clean(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    save_prior(path, make_prior())
    file = read_safetensors(path)
    for key in ("\x1b[31m" * 40_000, "\x1b[31m" * 40_000 + ".mid_init"):
        atomic_save_safetensors(path, file.tensors | {key: torch.ones(2)}, file.metadata)
        with pytest.raises(UnreadableFile, match=r"not a valid prior|no valid prior") as caught:
            load_prior(path)
        assert_clean(str(caught.value))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_device_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero")):
        for load in (read_safetensors, read_keys, load_prior, load_identity, read_record_file, describe_file):
            with pytest.raises(UnreadableFile, match="not a file but a folder, pipe or device"):
                load(path)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux only")
def test_a_file_with_holes_takes_no_memory_before_its_header_is_proved(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.truncate(6 * 1024**3)
    with pytest.raises(UnreadableFile):
        read_safetensors(path)
    with path.open("r+b") as file:
        file.write(file_of({"a": entry([1024**3, 6], 0, 6 * 1024**3, "U8")}))
        file.truncate(file.tell() + 6 * 1024**3)
    before = resource_peak_kb()
    with pytest.raises(UnreadableFile, match="no Meta-LoRA record"):
        load_prior(path)
    assert resource_peak_kb() - before < 100_000


def resource_peak_kb() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_an_ordinary_lora_is_no_prior(tmp_path: Path) -> None:
    atomic_save_safetensors(tmp_path / "l.safetensors", {"a.lora_up.weight": torch.zeros(1, 1)})
    with pytest.raises(UnreadableFile, match="no Meta-LoRA record"):
        load_prior(tmp_path / "l.safetensors")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=24), st.booleans())
def test_no_damage_raises_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, place: int, noise: bytes, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    prior = make_prior()
    save_prior(folder / "p.safetensors", prior)
    save_identity(folder / "i.safetensors", make_identity(prior))
    save_checkpoint(
        folder / "c.safetensors", Checkpoint("adaptation", 1, "d", {"x": torch.ones(3)}, {"a": [1, (2.0,)]})
    )
    loads: dict[str, Callable[[Path], object]] = {
        "p": load_prior,
        "i": load_identity,
        "c": lambda path: load_checkpoint(path, kind="adaptation", digest="d"),
    }
    for name, load in loads.items():
        path = folder / f"{name}.safetensors"
        data = bytearray(path.read_bytes())
        at = place % len(data)
        data[at : len(data) if cut else at + len(noise)] = b"" if cut else noise
        path.write_bytes(data)
        try:
            load(path)
        except (UnreadableFile, InvalidOptions) as error:
            assert str(error)
        try:
            read_keys(path)
        except UnreadableFile as error:
            assert path.name in str(error)
