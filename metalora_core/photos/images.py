"""Photos from disk: whatever a camera, a phone or a browser saved becomes RGB in 0..1, or is refused in words."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from ..errors import UnusableReferences
from .pictures import from_pil

SMALLEST_SIDE_PX = 16
LARGEST_SIDE_PX = 16_384
MOST_PIXELS = 89_000_000  # below Pillow's own warning against decompression bombs
MOST_JPEG_PIXELS = 500_000_000  # a baseline JPEG can be decoded at an eighth of its size
KEPT_SIDE_PX = 2048  # of the shorter side: more than any model learns from
LARGEST_FILE_BYTES = 256 * 1024**2
PHOTO_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Only plain raster formats: others in Pillow start programs (EPS) or have never been meant for photos.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# What Pillow's decoders raise on damaged files; a decoder bug must not end a run with a traceback.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
    ArithmeticError,
    RuntimeError,  # AVIF's decoder
    MemoryError,
)


@dataclass(frozen=True)
class Photo:
    """One photo, upright, in sRGB.

    Args:
        name: File name, for messages.
        pixels: Shape (3, H, W), float32 in 0..1; the shorter side has at most 2,048 px.
        sha256: Of the file's bytes, hexadecimal.
        notes: What was done to it that the user may want to know, such as "first of 12 frames".
        path: Where it came from; None if it was made in memory.
    """

    name: str
    pixels: Tensor
    sha256: str
    notes: tuple[str, ...] = ()
    path: Path | None = None


def load_photo(path: Path | str) -> Photo:
    """Load one photo: EXIF orientation applied, colours in sRGB, transparency on white, first frame of several.

    Args:
        path: A JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF file of any mode and depth.

    Raises:
        UnusableReferences: If the file is missing, empty, damaged, no picture, or has a side below 16 px or above
            16,384 px or more than 89 million pixels; a JPEG may be larger, as it is read at a fraction of its size.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            raise UnusableReferences(
                f"{path.name} has {size} bytes, at most {LARGEST_FILE_BYTES} are accepted. Save it as JPEG."
            )
        data = path.read_bytes()
    except OSError as error:
        raise UnusableReferences(f"{path} could not be read ({error.strerror or error}). Check the path.") from error
    if not data:
        raise UnusableReferences(f"{path.name} is empty (0 bytes). Copy or export it again.")
    pixels, notes = _decode(path.name, data)
    return Photo(path.name, pixels, hashlib.sha256(data).hexdigest(), notes, path)


def photo_files(path: Path | str) -> tuple[Path, ...]:
    """The photos of a folder, sorted by name, or the one file that the path names.

    Raises:
        UnusableReferences: If the path does not exist or the folder has no photo.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise UnusableReferences(f"There is no photo or folder at {path}. Check the path.")
        return (path,)
    try:
        files = sorted(path.iterdir())
    except OSError as error:
        raise UnusableReferences(f"{path} could not be read ({error.strerror or error}). Check the folder.") from error
    # Hidden files beside photos are a system's notes about them, such as macOS's "._mug.jpg".
    photos = (file for file in files if file.suffix.lower() in PHOTO_SUFFIXES and not file.name.startswith("."))
    found = tuple(file for file in photos if file.is_file())
    if not found:
        raise UnusableReferences(f"{path} has no photos; files ending in {', '.join(PHOTO_SUFFIXES)} are looked for.")
    return found


def load_photos(paths: Path | str | Sequence[Path | str]) -> tuple[Photo, ...]:
    """Load photos from files and folders, in the order given, each folder by name.

    Raises:
        UnusableReferences: With all findings at once, not the first alone.
    """
    photos: list[Photo] = []
    findings: list[str] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        try:
            files = photo_files(path)
        except UnusableReferences as error:
            findings.append(str(error))
            continue
        for file in files:
            try:
                photos.append(load_photo(file))
            except UnusableReferences as error:
                findings.append(str(error))
    if findings:
        raise UnusableReferences("\n".join(findings))
    if not photos:
        raise UnusableReferences("No photo was given. Give one to eight photos, or a folder of them.")
    return tuple(photos)


def fit(photo: Photo | Tensor, size: int | tuple[int, int]) -> Tensor:
    """Cut the largest centred rectangle of the asked proportions and scale it.

    Args:
        photo: A photo, or pixels (3, H, W) in 0..1.
        size: Side of a square, or (height, width), px.

    Returns:
        Shape (3, height, width) in 0..1.
    """
    pixels = photo.pixels if isinstance(photo, Photo) else photo
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = pixels.shape[-2:]
    scale = min(rows / height, columns / width)
    crop_rows, crop_columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    cut = pixels[:, top : top + crop_rows, left : left + crop_columns]
    if cut.shape[-2:] == (height, width):
        return cut.contiguous()
    # Antialiasing keeps fine texture from turning into patterns that a training would learn.
    scaled = F.interpolate(cut[None], size=(height, width), mode="bicubic", align_corners=False, antialias=True)
    return scaled[0].clamp(0, 1)


def _decode(name: str, data: bytes) -> tuple[Tensor, tuple[str, ...]]:
    Image.init()
    known = [kind for kind in _FORMATS if kind in Image.OPEN]  # AVIF depends on how Pillow was built
    jpeg = data.startswith(b"\xff\xd8\xff")
    try:
        with _open_jpeg(name, data) if jpeg else Image.open(io.BytesIO(data), formats=known) as image:
            _check_size(name, image.width, image.height)
            return _to_pixels(name, image)
    except Image.DecompressionBombError as error:
        raise UnusableReferences(
            f"{name} has more than {2 * MOST_PIXELS // 10**6} million pixels, at most {MOST_PIXELS // 10**6} million "
            "are accepted. Scale it down, 2,048 px are plenty, or save it as JPEG."
        ) from error
    except UnidentifiedImageError as error:
        raise UnusableReferences(
            f"{name} is damaged or no picture; {', '.join(known)} can be read. Export it again as JPEG or PNG."
        ) from error
    except _DAMAGE as error:
        raise UnusableReferences(
            f"{name} is damaged ({str(error)[:200]}). Copy it again, or export it again as JPEG or PNG."
        ) from error


def _open_jpeg(name: str, data: bytes) -> Image.Image:
    # Not Image.open: it refuses by the size in the file, before a smaller one can be asked for.
    image = JpegImageFile(io.BytesIO(data))
    # Reduced decoding spares nothing in a progressive file, whose coefficients are all kept until its end.
    most = MOST_PIXELS if "progressive" in image.info else MOST_JPEG_PIXELS
    if image.width * image.height > most:
        raise _too_large(name, image.width, image.height, most)
    image.draft(None, (KEPT_SIDE_PX, KEPT_SIDE_PX))
    return image


def _too_large(name: str, width: int, height: int, most_pixels: int) -> UnusableReferences:
    return UnusableReferences(
        f"{name} has {width}×{height} px; at most {LARGEST_SIDE_PX} px a side and {most_pixels // 10**6} million "
        "pixels are accepted. Scale it down, 2,048 px are plenty."
    )


def _check_size(name: str, width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE_PX:
        raise UnusableReferences(
            f"{name} has {width}×{height} px; at least {SMALLEST_SIDE_PX} px a side are needed, 512 px or more learn "
            "well. Use a larger picture."
        )
    if max(width, height) > LARGEST_SIDE_PX or width * height > MOST_PIXELS:
        raise _too_large(name, width, height, MOST_PIXELS)


def _to_pixels(name: str, image: Image.Image) -> tuple[Tensor, tuple[str, ...]]:
    notes: list[str] = []
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        image.seek(0)
        notes.append(f"first of {frames} frames")
    image.load()
    # Read before anything is converted: the steps below drop it.
    profile: bytes | None = image.info.get("icc_profile")
    upright = _upright(image, notes)
    if upright.mode in ("F", "I") or upright.mode.startswith("I;16"):
        return _from_deep(name, upright, notes)
    if upright.has_transparency_data:
        notes.append("transparency put on white")
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright).convert("RGB")
    rgb = _shrunk(_to_srgb(upright, profile, notes))
    return from_pil(rgb), tuple(notes)


def _shrunk(image: Image.Image) -> Image.Image:
    share = KEPT_SIDE_PX / min(image.size)
    if share >= 1:
        return image
    size = round(image.width * share), round(image.height * share)
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE:
        notes.append("orientation unreadable")
        return image


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if image.mode not in ("RGB", "CMYK", "L"):
        # A palette's colours are in its profile's space too, but no such file has been seen to carry a useful one.
        return image.convert("RGB")
    if profile and not (image.mode == "L" and profile[16:20] != b"GRAY"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, *_DAMAGE):
            notes.append("colour profile unreadable")
        else:
            if converted is not None:
                return converted
    if image.mode == "CMYK":
        notes.append("CMYK without a usable profile: colours are approximate")
    return image.convert("RGB")


def _from_deep(name: str, image: Image.Image, notes: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    values: Any = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise UnusableReferences(f"{name} holds NaN or infinite pixels. Export it again as 8-bit PNG.")
    top = float(values.max(initial=0.0))
    # Floats are usually 0..1 already; integers of these modes are 16-bit values, whatever the brightest one is.
    white = 1.0 if image.mode == "F" and top <= 1.0 else 255.0 if image.mode == "F" and top <= 255.0 else 65535.0
    notes.append(f"{image.mode} grey values scaled to 0..1")
    grey = torch.from_numpy(np.ascontiguousarray(values / white)).clamp(0, 1)
    if (side := min(grey.shape)) > KEPT_SIDE_PX:
        size = [round(length * KEPT_SIDE_PX / side) for length in grey.shape]
        grey = F.interpolate(grey[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return grey.expand(3, *grey.shape).contiguous(), tuple(notes)
