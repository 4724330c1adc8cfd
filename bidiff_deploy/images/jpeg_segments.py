"""Splits a JPEG file into its metadata segments, and finds its end.

Formats: JPEG (ISO/IEC 10918-1), JFIF, CIPA DC-008 (EXIF), CIPA DC-007 (further images), XMP part 3,
ICC.1, Photoshop's image resources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import ImageError
from .exif import MAX_BYTES

__all__ = ["COMMENT", "Jpeg", "PHOTOSHOP", "XMP_SEGMENT", "jpeg_segment", "split",
           "without_thumbnails"]

COMMENT = 0xFE
XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
PHOTOSHOP = b"Photoshop 3.0\0"
_PROFILE = b"ICC_PROFILE\0"
_THUMBNAILS = (0x0409, 0x040C)
_MAX_SEGMENTS = 10_000
_END = 0xD9
# Frames of other processes than baseline, extended and progressive Huffman.
_UNREAD = {0xC3: "lossless coding", 0xF7: "the coding of JPEG-LS",
           **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical coding"),
           **dict.fromkeys((0xC9, 0xCA, 0xCB), "arithmetic coding")}
# A marker with a body or the end; in a scan's data 0xFF is escaped or one of the others.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
# Segments that describe the stored file: JFIF, thumbnails, Adobe's colour transform, the quality.
_STORAGE = ((0xE0, b"JFIF\0"), (0xE0, b"JFXX\0"), (0xE2, b"MPF\0"), (0xEE, b"Adobe"),
            (0xEC, b"Ducky"))


@dataclass
class Jpeg:
    """The parts of a JPEG file that are not pixels.

    xmp        an XMP packet, or None
    profile    whether there is a colour profile
    photoshop  Photoshop's image resources, which contain IPTC's captions and rights; or None
    comments   the bodies of its comments
    left_out   names of segments that are not kept, such as "APP11 (JP)"
    ended      whether it has an end marker
    end        offset of the end marker, if it has one
    unread     what kind of JPEG that is not read it is, such as "12 bits a sample"; or ""
    progressive  whether its pixels come in several passes
    trailing   number of bytes after the end marker, without zeros at their end
    """

    xmp: bytes | None = None
    profile: bool = False
    photoshop: bytes | None = None
    comments: list[bytes] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    ended: bool = False
    end: int = 0
    unread: str = ""
    progressive: bool = False
    trailing: int = 0


def split(data: bytes) -> Jpeg:
    """The metadata of a JPEG file, each part of at most MAX_BYTES, as far as the file goes. Raises
    ImageError, without the file's name, for more segments than any program writes."""
    found = Jpeg()
    position, count = 2, 0
    resources: list[bytes] = []
    while match := _MARKER.search(data, position):
        position, marker = match.end(), match[0][-1]
        if marker == _END:
            found.ended, found.end = True, match.start()
            found.trailing = len(data[position:].rstrip(b"\0"))
            break
        length = int.from_bytes(data[position:position + 2], "big")
        if length < 2 or position + length > len(data):
            break
        body, position = data[position + 2:position + length], position + length
        if marker == COMMENT or 0xE0 <= marker <= 0xEF:
            count += 1
            if count > _MAX_SEGMENTS:
                raise ImageError(f"it has more than {_MAX_SEGMENTS} segments of metadata, so it is "
                                 "damaged or hostile")
            _sort(found, marker, body, resources)
        elif marker in _UNREAD or 0xC0 <= marker <= 0xC2:
            found.progressive = marker == 0xC2
            found.unread = _UNREAD.get(marker) or (
                f"{body[0]} bits a sample" if body and body[0] != 8 else
                "no height in its header" if body[1:3] == b"\0\0" else "")
    found.photoshop = b"".join(resources)[:MAX_BYTES] or None
    return found


def _sort(found: Jpeg, marker: int, body: bytes, resources: list[bytes]) -> None:
    if marker == COMMENT:
        found.comments.append(body)
    elif marker == 0xE1 and body.startswith(b"Exif\0"):
        pass  # Pillow joins its parts
    elif marker == 0xE1 and body.startswith(XMP_SEGMENT) and found.xmp is None:
        found.xmp = body[len(XMP_SEGMENT):]
    elif marker == 0xE2 and body.startswith(_PROFILE):
        found.profile = True
    elif marker == 0xED and body.startswith(PHOTOSHOP):
        resources.append(body[len(PHOTOSHOP):])
    elif not any(marker == one and body.startswith(start) for one, start in _STORAGE):
        name = re.sub(r"[^ -~]", "", body[:60].partition(b"\0")[0].decode("latin-1"))
        name = f"APP{marker - 0xE0} ({name})" if name else f"APP{marker - 0xE0}"
        if name not in found.left_out:
            found.left_out.append(name)


def without_thumbnails(resources: bytes) -> bytes:
    """Photoshop's image resources without thumbnails, as far as they can be read."""
    kept, position = [], 0
    while resources[position:position + 4] == b"8BIM" and position + 12 <= len(resources):
        name = resources[position + 6] | 1  # with its length, an even number of bytes
        size = int.from_bytes(resources[position + 7 + name:position + 11 + name], "big")
        end = position + 11 + name + size + size % 2
        if int.from_bytes(resources[position + 4:position + 6], "big") not in _THUMBNAILS:
            kept.append(resources[position:end])
        position = end
    return b"".join(kept)


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """A segment of at most 65,533 bytes with its marker and length."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
