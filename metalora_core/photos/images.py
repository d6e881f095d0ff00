"""Photos from disk: whatever a camera, phone or browser saved becomes RGB in 0..1, or is refused with a reason."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from ..checks import optional
from ..errors import MissingDependency, UnreadableFile, UnusableReferences
from ..files.bounded import open_regular
from .pictures import from_pil

SMALLEST_SIDE_PX = 16
LARGEST_SIDE_PX = 16_384
MOST_PIXELS = 89_000_000  # below Pillow's own warning against decompression bombs
MOST_JPEG_PIXELS = 500_000_000  # a baseline JPEG can be decoded at an eighth of its size
KEPT_SIDE_PX = 2048  # of the shorter side: more than any model learns from
LARGEST_FILE_BYTES = 128 * 1024**2
PHOTO_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
MOST_DECODED_BYTES = 448 * 1024**2
"""What decoding may take before the picture is made smaller; nothing larger is decoded."""
_USUAL_BYTES_PER_PIXEL = 5
# Measured peaks: a second picture for the alpha channel or as numbers, or a decoder's own planes beside the result.
_BYTES_PER_PIXEL = {"RGBA": 9, "LA": 9, "PA": 9, "P": 9, "La": 9, "F": 13, "I": 13, "I;16": 9, "I;16B": 9}
_DECODER_BYTES_PER_PIXEL = {"WEBP": 12, "AVIF": 12, "HEIF": 9}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# Only plain raster formats: others in Pillow start programs (EPS) or were never meant for photos.
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
        path: A JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF file of any mode and depth; HEIC where pi-heif is installed.

    Raises:
        UnusableReferences: If the file is missing, empty, damaged, not a picture, or has a side below 16 px or above
            16,384 px or more pixels than can be decoded in 448 MB; a JPEG may be larger, as it is read at a fraction of
            its size.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except (OSError, UnreadableFile) as error:
        raise UnusableReferences(str(error)) from error
    if len(data) > LARGEST_FILE_BYTES:
        raise UnusableReferences(f"{path.name} has more than {LARGEST_FILE_BYTES} bytes. Save it as JPEG.")
    if not data:
        raise UnusableReferences(f"{path.name} is empty (0 bytes). Copy or export it again.")
    pixels, notes = _decode(path.name, data)
    return Photo(path.name, pixels, hashlib.sha256(data).hexdigest(), notes, path)


def fit(photo: Photo | Tensor, size: int | tuple[int, int]) -> Tensor:
    """Crop the largest centred rectangle of the requested proportions and scale it.

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


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture of a known format does, whatever its name says."""
    try:
        with open_regular(path) as file:
            head = file.read(12)
    except (OSError, UnreadableFile):
        return False
    return head.startswith(_STARTS) or head[8:12] in (b"WEBP", b"avif", *_HEIF_BRANDS)


def _decode(name: str, data: bytes) -> tuple[Tensor, tuple[str, ...]]:
    Image.init()
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _open_door_to_heif(name)
    known = [kind for kind in (*_FORMATS, "HEIF") if kind in Image.OPEN]  # AVIF depends on how Pillow was built
    jpeg = data.startswith(b"\xff\xd8\xff")
    try:
        with _open_jpeg(name, data) if jpeg else Image.open(io.BytesIO(data), formats=known) as image:
            _check_size(name, image)
            return _to_pixels(name, image)
    except Image.DecompressionBombError as error:
        raise UnusableReferences(
            f"{name} has more than {2 * MOST_PIXELS // 10**6} million pixels; at most {MOST_PIXELS // 10**6} million "
            "are accepted. Scale it down (2,048 px are plenty) or save it as JPEG."
        ) from error
    except UnidentifiedImageError as error:
        raise UnusableReferences(
            f"{name} is damaged or not a picture; supported formats: {', '.join(known)}. Export it again as JPEG or "
            "PNG."
        ) from error
    except _DAMAGE as error:
        raise UnusableReferences(
            f"{name} is damaged ({str(error)[:200]}). Copy it again, or export it again as JPEG or PNG."
        ) from error


def _open_door_to_heif(name: str) -> None:
    try:
        optional("pi_heif", f"{name} is a HEIC photo, which").register_heif_opener()
    except MissingDependency as error:
        raise UnusableReferences(f"{error}, or export the photo as JPEG.") from error


def _open_jpeg(name: str, data: bytes) -> Image.Image:
    # Not Image.open: it refuses by the size in the file, before a smaller one can be asked for.
    image = JpegImageFile(io.BytesIO(data))
    # Reduced decoding spares nothing in a progressive file, whose coefficients are all kept until its end.
    coefficients = MOST_DECODED_BYTES // (2 * max(1, image.layers))  # 16 bits each
    most = min(MOST_PIXELS, coefficients) if "progressive" in image.info else MOST_JPEG_PIXELS
    if image.width * image.height > most:
        raise _too_large(name, image.width, image.height, most)
    image.draft(None, (KEPT_SIDE_PX, KEPT_SIDE_PX))
    return image


def _too_large(name: str, width: int, height: int, most_pixels: int) -> UnusableReferences:
    return UnusableReferences(
        f"{name} has {width}×{height} px; at most {LARGEST_SIDE_PX} px per side and {most_pixels // 10**6} million "
        "pixels are accepted. Scale it down (2,048 px are plenty)."
    )


def _check_size(name: str, image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE_PX:
        raise UnusableReferences(
            f"{name} has {width}×{height} px; at least {SMALLEST_SIDE_PX} px per side are needed, and 512 px or more "
            "work well. Use a larger picture."
        )
    needed = max(
        _BYTES_PER_PIXEL.get(image.mode, _USUAL_BYTES_PER_PIXEL),
        _DECODER_BYTES_PER_PIXEL.get(image.format or "", 0),
    )
    most = min(MOST_PIXELS, MOST_DECODED_BYTES // needed)
    if max(width, height) > LARGEST_SIDE_PX or width * height > most:
        raise _too_large(name, width, height, most)


def _to_pixels(name: str, image: Image.Image) -> tuple[Tensor, tuple[str, ...]]:
    notes: list[str] = []
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        image.seek(0)
        notes.append(f"first of {frames} frames")
    image.load()
    # Read before anything is converted: the steps below drop them.
    turn = _turn(image, notes)
    profile: bytes | None = image.info.get("icc_profile")
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _from_deep(name, image if turn is None else image.transpose(turn), notes)
    if image.has_transparency_data:
        notes.append("transparency filled with white")
        image = image.convert("RGBA")
    elif image.mode in ("P", "1"):
        # A palette's colours are in its profile's space too, but no such file has been seen to carry a useful one.
        image, profile = image.convert("RGB"), None
    # Made smaller first: each step below makes one more picture of this size.
    upright = _shrunk(image)
    if turn is not None:
        upright = upright.transpose(turn)
    if upright.mode == "RGBA":
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright).convert("RGB")
    return from_pil(_to_srgb(upright, profile, notes)), tuple(notes)


def _shrunk(image: Image.Image) -> Image.Image:
    share = KEPT_SIDE_PX / min(image.size)
    if share >= 1:
        return image
    size = round(image.width * share), round(image.height * share)
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _turn(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    """What puts the photo upright, as the camera noted it; None for nothing."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        notes.append("orientation unreadable")
        return None


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if image.mode not in ("RGB", "CMYK", "L"):
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
    values: Any = np.array(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise UnusableReferences(f"{name} contains NaN or infinite pixels. Export it again as 8-bit PNG.")
    top = float(values.max(initial=0.0))
    # Floats are usually 0..1 already; integers of these modes are 16-bit values, whatever the brightest one is.
    white = 1.0 if image.mode == "F" and top <= 1.0 else 255.0 if image.mode == "F" and top <= 255.0 else 65535.0
    notes.append(f"{image.mode} grey values scaled to 0..1")
    grey = torch.from_numpy(values).div_(white).clamp_(0, 1)
    if (side := min(grey.shape)) > KEPT_SIDE_PX:
        size = [round(length * KEPT_SIDE_PX / side) for length in grey.shape]
        grey = F.interpolate(grey[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return grey.expand(3, *grey.shape).contiguous(), tuple(notes)
