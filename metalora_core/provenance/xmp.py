"""What a picture says about itself in XMP: that it is AI made, with which identity, and under which permission.

The kind of source is a term of the IPTC, which picture banks and search engines read. Identity and permission are named
by hash and id alone; no name of a person is written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from ..checks import plain_line
from ..errors import UnreadableFile
from ..files.bounded import open_regular

if TYPE_CHECKING:
    from PIL import Image

AI_MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for a picture that a trained model made."""

PNG_FIELD = "XML:com.adobe.xmp"
"""Text field of a PNG file in which programs look for XMP."""

_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "metalora": "https://github.com/meta-lora/meta-lora/ns/1.0/",
}
_LENGTH_AT_MOST = 1 << 20
_JPEG_QUALITY, _PNG_LEVEL = 95, 4  # ComfyUI writes PNG files at the same level
_SOURCE, _TOOL = "Iptc4xmpExt:DigitalSourceType", "xmp:CreatorTool"
_KEYS = ("metalora:identity", "metalora:consent", "metalora:prior", _SOURCE, _TOOL)  # as MadeWith has them


@dataclass(frozen=True)
class MadeWith:
    """What a picture was made with; empty where it does not apply or is not said.

    Values of several identities are separated by a space.

    Attributes:
        identity: SHA-256 of the identity's learned layers.
        consent: Id of the record that it was learned under.
        prior: SHA-256 of the prior.
        source: IPTC's kind of source.
        tool: Program that wrote the picture.
    """

    identity: str = ""
    consent: str = ""
    prior: str = ""
    source: str = AI_MADE
    tool: str = "Meta-LoRA"


def xmp_of(made: MadeWith) -> str:
    """The XMP packet."""
    told = dict(zip(_KEYS, astuple(made), strict=True))
    names = "".join(f" xmlns:{name}={quoteattr(address)}" for name, address in _NAMESPACES.items() if name != "rdf")
    fields = "".join(f" {key}={quoteattr(value)}" for key, value in told.items() if value)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_NAMESPACES["rdf"]}">'
        f'<rdf:Description rdf:about=""{names}{fields}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def picture_bytes(picture: Image.Image, kind: str, made: MadeWith, notes: Mapping[str, str]) -> bytes:
    """A picture file with XMP, in memory.

    Args:
        picture: What is in it; a JPEG file has no transparency.
        kind: Its format, "PNG" or "JPEG".
        made: What the XMP says.
        notes: Text fields, such as the prompt; only PNG files have them.
    """
    from PIL.PngImagePlugin import PngInfo

    data, packet = io.BytesIO(), xmp_of(made)
    if kind == "JPEG":
        # As a segment of its own, because Pillow before version 11 has no other way.
        content = b"http://ns.adobe.com/xap/1.0/\0" + packet.encode()
        segment = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
        picture.convert("RGB").save(data, kind, quality=_JPEG_QUALITY, subsampling=0, extra=segment)
        return data.getvalue()
    info = PngInfo()
    info.add_itxt(PNG_FIELD, packet)
    for key, text in notes.items():
        info.add_text(key, text)
    picture.save(data, kind, pnginfo=info, compress_level=_PNG_LEVEL)
    return data.getvalue()


def read_xmp(path: Path) -> MadeWith | None:
    """What a picture's XMP says, or None if it says nothing of this; it is not signed, so anybody can change it.

    Raises:
        UnreadableFile: If the picture or its XMP cannot be read.
    """
    text = _packet(path)
    # Entities can grow without bound; XMP has none.
    if "<!DOCTYPE" in text or "\0" in text:
        raise UnreadableFile(f"{path.name} has XMP that declares entities. It was not read.")
    if not text:
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UnreadableFile(f"{path.name} has damaged XMP ({error}). It was not read.") from error
    found = _fields(root)
    if not found:
        return None
    return MadeWith(*(found.get(key, "") for key in _KEYS))


def _packet(path: Path) -> str:
    from PIL import Image

    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG", "JPEG", "WEBP", "TIFF")) as picture:
            packet = picture.info.get(PNG_FIELD) or picture.info.get("xmp") or b""
            if not packet and picture.format == "PNG":
                packet = _late_packet(file)
        if not isinstance(packet, (str, bytes)):
            raise ValueError(f"its XMP is of type {type(packet).__name__}")
        if len(packet) > _LENGTH_AT_MOST:
            raise ValueError(f"its XMP has {len(packet):,} bytes; at most {_LENGTH_AT_MOST:,} are read")
        return (packet if isinstance(packet, str) else packet.decode()).strip("\ufeff\0 \n")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableFile(f"{path.name} is not a picture that can be read ({error}).") from error


def _late_packet(file: IO[bytes]) -> bytes:
    """XMP behind the pixels of a PNG file, where Pillow looks only after it has decoded them; or nothing."""
    file.seek(len(b"\x89PNG\r\n\x1a\n"))
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length, checksum = int.from_bytes(head[:4], "big"), 4
        if head[4:] == b"iTXt" and length <= _LENGTH_AT_MOST:
            # Keyword, whether it is compressed and how, language, translated keyword, text.
            keyword, _, rest = file.read(length).partition(b"\0")
            if keyword.decode("latin-1") == PNG_FIELD and rest[:1] == b"\0":
                return rest[2:].split(b"\0", 2)[-1]
            length = 0
        file.seek(length + checksum, 1)
    return b""


def _fields(root: ElementTree.Element) -> Mapping[str, str]:
    """Our fields, whether a program wrote them as attributes or as elements."""
    parts = {key: key.split(":") for key in _KEYS}
    names = {f"{{{_NAMESPACES[space]}}}{name}": key for key, (space, name) in parts.items()}
    found: dict[str, str] = {}
    for element in root.iter():
        for name, value in (*element.attrib.items(), (element.tag, element.text or "")):
            if name in names and value.strip():
                found[names[name]] = plain_line(value, 300)
    return found
