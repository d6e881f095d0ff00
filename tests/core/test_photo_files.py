"""Every file of a photo folder is read, or named with the reason why not; nothing hostile costs more than its bound."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from metalora_core import checks
from metalora_core.errors import MissingDependency, UnusableReferences
from metalora_core.photos import images
from metalora_core.photos.folder_files import photo_files
from metalora_core.photos.folder_report import find_subjects
from metalora_core.photos.images import load_photo
from metalora_core.photos.reading import caption_for, load_training_set, read_photos
from metalora_core.photos.subject_folders import left_out

ROOT = Path(__file__).resolve().parents[2]
CAPTION = "photo of a ohwx mug, red background"
HEIC = (  # 64 × 64 px, left half red, right half blue
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<00042ZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RRC2"
    "00001dH?|c00000001Qb001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002iX>f9I0002DX>en20001ZXm(>m0RwO"
    "V0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDD?$MQ18@KU0|1Z!00RI30{|YNAb|yz>PacCZUPz%2mk;B0L"
    "TCU0{{p>VgLaE2SfqEa<C#m0000JV{dG7ZewhC0096E00w{n000zeb8uw<00000002M$002M$000nhX?SS>000032nYxO000+haBX1#00000000310"
    "R({p0|Wp704;4~VRQfh03j#=uNi>%e1$jv_@RgXYg+%W#J&Ib9j$)0&41y<&ht0"
)


def photo(path: Path, kind: str = "PNG", side_px: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.effect_noise((side_px, side_px), 64).convert("RGB")
    picture.save(path, format=kind)
    return path


def test_every_ending_that_a_jpeg_may_have_is_read(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jfif", "c.jpe", "d.JPEG"):
        photo(tmp_path / name, "JPEG")
    assert len(read_photos([tmp_path]).photos) == 4


def test_a_heic_photo_is_read_where_its_package_is_and_named_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IMG_1.HEIC", "IMG_2.JPG"):
        (tmp_path / name).write_bytes(base64.b85decode(HEIC))
    left, right = load_photo(tmp_path / "IMG_1.HEIC").pixels.split(32, dim=2)
    assert left[0].mean() > 0.9 and right[2].mean() > 0.9
    assert len(read_photos([tmp_path]).photos) == 2, "whatever its name says"

    def missing(module: str, feature: str) -> None:
        raise MissingDependency(feature, checks._PIP_LINES[module])

    monkeypatch.setattr(images, "optional", missing)
    with pytest.raises(UnusableReferences, match=r"IMG_1\.HEIC .*pip install pi-heif, or export the photo as JPEG"):
        read_photos([tmp_path])


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "noending")
    photo(tmp_path / "10_ohwx mug" / "b.png")
    (tmp_path / "c.jxl").write_bytes(b"\xff\x0a" + bytes(99))
    for name, text in {"b.txt": "x", "A.txt": "x", "a.txt": "x", "a.caption": "y", "metadata.jsonl": "{}"}.items():
        (tmp_path / name).write_text(text)
    for name in ("Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_text("a system's own")
    os.mkfifo(tmp_path / "pipe.xyz")
    reasons = {
        "10_ohwx mug": "folder; give it separately",
        "A.txt": "is not a caption",
        "a.caption": "not read, because a.txt is",
        "b.txt": "is not a caption",
        "c.jxl": "not a supported photo",
        "metadata.jsonl": "not a supported photo",
        "noending": "with another file ending",
        "pipe.xyz": "a pipe",
    }
    found = photo_files(tmp_path)
    assert [reason.split(maxsplit=1)[0] for reason in found.left_out] == [name.split()[0] for name in reasons]
    assert all(why in said for why, said in zip(reasons.values(), found.left_out, strict=True)), found.left_out
    assert "and 3 more" in found.note and found.note == read_photos([tmp_path], "mug").note
    notes: list[str] = []
    load_training_set([tmp_path], "mug", "", 64, notes.append)
    assert found.note in notes


def test_a_folder_of_folders_says_where_the_photos_may_be(tmp_path: Path) -> None:
    photo(tmp_path / "10_ohwx mug" / "b.png")
    with pytest.raises(UnusableReferences, match=r"has no photos.*10_ohwx mug is a folder"):
        photo_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", CAPTION.encode()),
        ("a.TXT", CAPTION.encode()),
        ("a.txt", b"\xef\xbb\xbf" + CAPTION.encode()),
        ("a.caption", CAPTION.encode()),
        ("a.png.txt", CAPTION.encode()),
        ("a.txt", CAPTION.replace("ohwx", "Ohwx").encode()),
        ("a.json", json.dumps({"caption": CAPTION}).encode()),
        ("a.png.json", json.dumps({"text": CAPTION}).encode()),
    ],
)
def test_a_caption_is_read_however_it_is_stored(tmp_path: Path, name: str, content: bytes) -> None:
    path = photo(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    assert caption_for(path, "mug", "ohwx") == CAPTION
    assert photo_files(tmp_path).left_out == ()


def test_a_json_file_without_a_caption_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"camera": "' + "[" * 9000 + '"}')
    assert 'no text under "caption"' in photo_files(tmp_path).note


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not mention 'ohwx'"),
        (CAPTION.encode("utf-16"), "not UTF-8"),
        ("ohwx café".encode("latin-1"), "not UTF-8"),
        (b"ohwx " * 20_000, "larger than 64 kB"),
    ],
)
def test_a_caption_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = photo(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UnusableReferences, match=rf"a\.txt .*{words}"):
        caption_for(path, "mug", "ohwx")


def test_a_pipe_or_a_device_is_no_photo_and_no_caption(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for name in ("a.png", "b.png"):
        with pytest.raises(UnusableReferences, match="pipe or device"):
            load_photo(tmp_path / name)
    os.mkfifo(tmp_path / "c.txt")
    assert caption_for(tmp_path / "c.png", "mug", "ohwx") == "photo of a ohwx mug"


def test_a_broken_photo_is_named_before_any_other_is_encoded(tmp_path: Path) -> None:
    for subject in ("a", "b"):
        photo(tmp_path / subject / "1.png")
    (tmp_path / "a" / "notes.md").write_text("x")
    (tmp_path / "b" / "class_word.txt").write_text("cup")
    seen: list[tuple[int, int]] = []
    found = find_subjects(tmp_path, "mug", on_photos=lambda done, count: seen.append((done, count)))
    assert [subject.class_word for subject in found] == ["mug", "cup"] and seen == [(1, 2), (2, 2)]
    assert left_out(found).startswith("Left out: a/notes.md is not a supported photo")
    (tmp_path / "b" / "2.png").write_bytes((tmp_path / "b" / "1.png").read_bytes()[:400])
    with pytest.raises(UnusableReferences, match=r"b: 2\.png is damaged"):
        find_subjects(tmp_path, "mug")


MEASURE = """
import resource, sys
from PIL import Image
from metalora_core.photos.images import load_photo
from metalora_core.errors import UnusableReferences
Image.MAX_IMAGE_PIXELS = None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_photo(path)
        print(path, "read")
    except UnusableReferences as error:
        print(path, "refused")
print("MEGABYTES", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_photo_bomb_takes_at_most_512_mb(tmp_path: Path) -> None:
    """Small files of many pixels, each just below what is accepted of its kind."""
    Image.new("RGBA", (7_150, 7_150)).save(tmp_path / "clear.png", compress_level=1)
    Image.new("RGB", (8_700, 8_700), "red").save(tmp_path / "progressive.jpg", progressive=True)
    bombs = [str(tmp_path / "clear.png"), str(tmp_path / "progressive.jpg")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *bombs], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) <= 512, done.stdout
    assert done.stdout.count(" read") == 2, done.stdout
