"""Photos of every kind arrive upright and in 0..1, or are refused with their name and the remedy."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from metalora_core.errors import UnusableReferences
from metalora_core.photos import images
from metalora_core.photos.folder_files import photo_files
from metalora_core.photos.images import Photo, fit, load_photo
from metalora_core.photos.reading import read_photos


def half_red(size: tuple[int, int] = (40, 20), mode: str = "RGB") -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def left_right(photo: Photo) -> tuple[list[float], list[float]]:
    middle = photo.pixels.shape[1] // 2
    return photo.pixels[:, middle, 2].tolist(), photo.pixels[:, middle, -3].tolist()


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_ordinary_files_load(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    half_red().save(path)
    photo = load_photo(path)
    left, right = left_right(photo)
    assert photo.pixels.shape == (3, 20, 40) and photo.pixels.dtype == torch.float32
    assert left == pytest.approx([1, 0, 0], abs=0.02) and right == pytest.approx([0, 0, 1], abs=0.02)
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and photo.notes == ()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half_red().save(tmp_path / "a.jpg", exif=exif, quality=95)
    left, _ = left_right(load_photo(tmp_path / "a.jpg"))
    assert left == pytest.approx([0, 0, 1], abs=0.02)
    exif[0x0112] = 6  # on its side
    half_red().save(tmp_path / "b.jpg", exif=exif)
    assert load_photo(tmp_path / "b.jpg").pixels.shape == (3, 40, 20)


def test_cmyk_becomes_rgb_with_a_note(tmp_path: Path) -> None:
    half_red(mode="CMYK").save(tmp_path / "a.jpg", quality=95)
    photo = load_photo(tmp_path / "a.jpg")
    left, right = left_right(photo)
    assert left[0] > 0.9 > 0.1 > left[2] and right[2] > 0.9
    assert "CMYK" in photo.notes[0]


@pytest.mark.parametrize("mode", ["L", "1", "P", "YCbCr", "LAB", "HSV"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    if mode == "HSV":
        path = tmp_path / "a.png"
        half_red().convert("HSV").convert("RGB").save(path)
    elif mode == "LAB":
        Image.new("LAB", (20, 20)).save(path)
    else:
        half_red(mode=mode).save(path)
    photo = load_photo(path)
    assert photo.pixels.shape[0] == 3 and 0 <= photo.pixels.min() <= photo.pixels.max() <= 1


def test_16_bit_grey_keeps_its_depth(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(values).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    assert torch.allclose(photo.pixels[0], torch.from_numpy(values.astype(np.float32)) / 65535, atol=1e-6)
    assert torch.equal(photo.pixels[0], photo.pixels[2])


def test_float_tiff_and_its_nans(tmp_path: Path) -> None:
    values = np.full((20, 20), 0.25, dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert float(load_photo(tmp_path / "a.tiff").pixels.mean()) == pytest.approx(0.25)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "b.tiff")
    with pytest.raises(UnusableReferences, match=r"b\.tiff contains NaN"):
        load_photo(tmp_path / "b.tiff")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_put_on_white(tmp_path: Path, mode: str) -> None:
    image = half_red(mode=mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (20, 0, 40, 20))
    image.putalpha(alpha)
    image.save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    assert left_right(photo)[1] == [1.0, 1.0, 1.0] and photo.notes == ("transparency filled with white",)


def test_a_transparent_palette_is_put_on_white(tmp_path: Path) -> None:
    half_red().quantize(4).save(tmp_path / "a.png", transparency=0)
    photo = load_photo(tmp_path / "a.png")
    assert [1.0, 1.0, 1.0] in left_right(photo)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 20), colour) for colour in ((0, 255, 0), (255, 255, 0))]
    half_red().save(tmp_path / "a.gif", save_all=True, append_images=frames)
    photo = load_photo(tmp_path / "a.gif")
    assert left_right(photo)[0] == pytest.approx([1, 0, 0], abs=0.02) and photo.notes[0] == "first of 3 frames"


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    srgb: Any = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    half_red().save(tmp_path / "same.png", icc_profile=srgb.tobytes())
    assert left_right(load_photo(tmp_path / "same.png"))[0] == pytest.approx([1, 0, 0], abs=0.01)
    half_red().save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    broken = load_photo(tmp_path / "broken.png")
    assert left_right(broken)[0] == [1, 0, 0] and broken.notes == ("colour profile unreadable",)


def bad_files(folder: Path) -> dict[str, str]:
    """File name to the words that its refusal must have."""
    good = folder / "good.jpg"
    half_red((64, 64)).save(good)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "script.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n")
    Image.new("RGB", (20_000, 32)).save(folder / "wide.png")
    Image.new("1", (16_000, 16_000)).save(folder / "bomb.png", compress_level=1)
    (folder / "zero.png").write_bytes(png_header(0, 0))
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    good.unlink()
    return {
        "empty.jpg": "0 bytes",
        "cut.jpg": "(?i)truncated",
        "text.png": "damaged or not a picture",
        "script.eps": "damaged or not a picture",
        "wide.png": "20000×32 px",
        "bomb.png": "million pixels|16000×16000 px",
        "zero.png": "damaged|0×0 px",
        "dot.png": "1×1 px",
        "missing.png": "could not be opened",
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_bad_file_is_refused_by_name_with_its_reason(tmp_path: Path) -> None:
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(UnusableReferences, match=words) as caught:
            load_photo(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_set_reports_all_findings_at_once(tmp_path: Path) -> None:
    bad_files(tmp_path)
    half_red().save(tmp_path / "good.png")
    with pytest.raises(UnusableReferences) as caught:
        read_photos([tmp_path])
    for name in ("empty.jpg", "cut.jpg", "text.png", "wide.png", "dot.png"):
        assert name in str(caught.value)
    assert "good.png" not in str(caught.value)


def test_a_folder_is_read_by_name_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png"):
        half_red().save(tmp_path / name)
    (tmp_path / "a.txt").write_text("photo of a mug")
    assert [file.name for file in photo_files(tmp_path).files] == ["a.png", "b.JPG"]
    assert [photo.name for photo in read_photos([tmp_path, tmp_path / "a.png"]).photos] == ["a.png", "b.JPG", "a.png"]


def test_a_large_photo_is_shrunk_while_it_is_read(tmp_path: Path) -> None:
    half_red((4915, 4096)).save(tmp_path / "a.jpg")
    half_red((3000, 2500)).save(tmp_path / "b.png")
    Image.fromarray(np.full((2500, 3000), 32768, dtype=np.uint16)).save(tmp_path / "c.png")
    for photo in read_photos([tmp_path]).photos:
        assert photo.pixels.shape in {(3, 2048, 2458)}, photo.name
    left, right = left_right(load_photo(tmp_path / "a.jpg"))
    assert left == pytest.approx([1, 0, 0], abs=0.02) and right == pytest.approx([0, 0, 1], abs=0.02)


def test_a_jpeg_of_20_000_pixels_is_read_at_a_fraction_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (20_000, 4_500), 255).save(tmp_path / "a.jpg")
    assert load_photo(tmp_path / "a.jpg").pixels.shape == (3, 2048, 9102)
    monkeypatch.setattr(images, "MOST_JPEG_PIXELS", 89_000_000)
    with pytest.raises(UnusableReferences, match=r"20000×4500 px; .*89 million"):
        load_photo(tmp_path / "a.jpg")


def test_a_progressive_jpeg_of_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("L", (20_000, 4_500), 255).save(tmp_path / "a.jpg", progressive=True)
    with pytest.raises(UnusableReferences, match=r"20000×4500 px; .*89 million"):
        load_photo(tmp_path / "a.jpg")


def test_no_photo_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(UnusableReferences, match="has no photos"):
        read_photos([tmp_path])
    with pytest.raises(UnusableReferences, match="No photo or folder"):
        read_photos([tmp_path / "nowhere"])
    with pytest.raises(UnusableReferences, match="No photos given"):
        read_photos([])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_damage_raises_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    for suffix in ("png", "jpg", "webp", "gif", "tiff"):
        path = folder / f"a.{suffix}"
        half_red().save(path)
        data = bytearray(path.read_bytes())
        data[place : place + len(noise)] = noise
        path.write_bytes(data)
        try:
            photo = load_photo(path)
        except UnusableReferences as error:
            assert path.name in str(error)
        else:
            assert torch.isfinite(photo.pixels).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(1, 64), st.integers(1, 64))
def test_fit_gives_the_asked_size_from_the_centre(rows: int, columns: int, height: int, width: int) -> None:
    grid = torch.linspace(0, 1, rows)[:, None].expand(rows, columns)
    fitted = fit(torch.stack([grid, 1 - grid, torch.full_like(grid, 0.5)]), (height, width))
    assert fitted.shape == (3, height, width)
    assert fitted.min() >= 0 and fitted.max() <= 1
    assert float(fitted.mean()) == pytest.approx(0.5, abs=0.06)


def test_fit_leaves_a_fitting_photo_untouched() -> None:
    pixels = torch.rand(3, 32, 32)
    assert torch.equal(fit(pixels, 32), pixels)
    assert torch.equal(fit(torch.rand(3, 32, 48).index_copy_(2, torch.arange(8, 40), pixels), 32), pixels)


def test_hidden_files_beside_photos_are_left_alone(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "mug.png")
    (tmp_path / "._mug.png").write_bytes(b"notes of a file system")

    assert [photo.name for photo in read_photos([tmp_path]).photos] == ["mug.png"]
