"""A picture or a file says what it was made from, in words that other programs read too."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from metalora_core.commands import cli
from metalora_core.errors import UnreadableFile
from metalora_core.files.identity import layers_sha256, load_identity
from metalora_core.photos.pictures import save_picture
from metalora_core.provenance.xmp import AI_MADE, PNG_FIELD, MadeWith, read_xmp, xmp_of

OLD_FILES = Path(__file__).parents[1] / "fixtures" / "old_files"
MADE = MadeWith("1" * 64, "2" * 64, "3" * 64)


def picture(path: Path, xmp: str | None) -> Path:
    save_picture(Image.new("RGB", (8, 8)), path, {} if xmp is None else {PNG_FIELD: xmp})
    return path


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, words), "--json"])
    assert not stop.value.code
    return json.loads(capsys.readouterr().out)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    for made in (MADE, MadeWith(), MadeWith(tool='a "quoted" <tool> & more')):
        assert read_xmp(picture(tmp_path / "a.png", xmp_of(made))) == made
    assert read_xmp(picture(tmp_path / "b.png", None)) is None


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (libimage-exiftool-perl)")
def test_exiftool_reads_it(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", xmp_of(MADE))
    done = subprocess.run(["exiftool", "-json", "-G1", "-XMP:all", path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)[0]
    assert found["XMP-iptcExt:DigitalSourceType"] == AI_MADE
    assert found["XMP-xmp:CreatorTool"] == "Meta-LoRA"
    assert (found["XMP-metalora:Identity"], found["XMP-metalora:Consent"]) == (MADE.identity, MADE.consent)
    checked = subprocess.run(
        ["exiftool", "-validate", "-warning", "-a", path], capture_output=True, text=True, check=True
    )
    assert "OK" in checked.stdout and "Warning  " not in checked.stdout, checked.stdout


@pytest.mark.parametrize("form", ["element", "webp", "jpeg"])
def test_other_programs_may_write_it_in_another_form(tmp_path: Path, form: str) -> None:
    xmp = xmp_of(MADE)
    if form == "element":
        xmp = xmp.replace(f' Iptc4xmpExt:DigitalSourceType="{AI_MADE}"', "").replace(
            "/></rdf:RDF>",
            f"><Iptc4xmpExt:DigitalSourceType>{AI_MADE}</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF>",
        )
        path = picture(tmp_path / "a.png", xmp)
    else:
        path = tmp_path / f"a.{form}"
        Image.new("RGB", (8, 8)).save(path, xmp=xmp.encode())
    assert read_xmp(path) == MADE


def test_it_is_found_behind_the_pixels_too(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", xmp_of(MADE))
    data = path.read_bytes()
    start = data.index(b"iTXt") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert read_xmp(path) == MADE


@pytest.mark.parametrize(("kind", "value"), [(4, 300_000_000), (11, 1.5)])  # LONG and FLOAT
def test_a_tag_of_another_type_is_no_xmp(tmp_path: Path, kind: int, value: float) -> None:
    tags = ImageFileDirectory_v2()
    tags.tagtype[700] = kind
    tags[700] = value
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tiff", tiffinfo=tags)
    with pytest.raises(UnreadableFile, match="its XMP is of type"):
        read_xmp(tmp_path / "a.tiff")


@pytest.mark.parametrize(
    ("xmp", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY b "cc">]><a>&b;</a>', "declares entities"),
        ("<a>" * 5, "damaged XMP"),
        (" " * 10 + "<a>" + "x" * 2_000_000 + "</a>", "can be read"),
    ],
)
def test_hostile_xmp_is_refused_in_words(tmp_path: Path, xmp: str, reason: str) -> None:
    info = PngInfo()
    info.add_itxt(PNG_FIELD, xmp)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(UnreadableFile, match=reason):
        read_xmp(tmp_path / "a.png")


def test_what_is_no_picture_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(UnreadableFile, match="not a picture that can be read"):
        read_xmp(tmp_path / "a.png")


def test_a_stranger_is_told_what_a_file_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "provenance", "show", picture(tmp_path / "a.png", xmp_of(MADE)))
    assert told["origin"] == "made by a trained model (AI)"
    assert (told["identity"], told["consent"]) == (MADE.identity, MADE.consent)
    assert "says nothing" in shown(capsys, "provenance", "show", picture(tmp_path / "b.png", None))["origin"]
    path = OLD_FILES / "identity_of_a_unet.safetensors"
    told, own = shown(capsys, "provenance", "show", path), load_identity(path)
    assert told["origin"] == "Meta-LoRA identity" and told["identity"] == layers_sha256(own)
    assert (told["class_word"], told["prior_sha256"]) == (own.metadata.class_word, own.metadata.prior_sha256)
