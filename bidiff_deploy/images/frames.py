"""Counts the frames and pages of a file of which only the first is read.

Formats: TIFF 6.0 and BigTIFF, WebP (RFC 9649), CIPA DC-007 (several images in a JPEG).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["Webp", "gif_frames", "jpeg_images", "split_webp", "tiff_pages"]

_MAX_PAGES = 10_000
_MAX_CHUNKS = 100_000
_SUBTYPE, _THUMBNAIL, _MASK = 254, 1, 4  # TIFF's NewSubfileType
_KNOWN = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"EXIF", b"XMP ", b"ANIM", b"ANMF"}


def tiff_pages(data: bytes) -> tuple[int, bool]:
    """The number of a TIFF's pages without thumbnails and masks, the first one always included, up
    to 10,000; and whether the first is a thumbnail."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    number, table, entry = ("Q", 8, 20) if big else ("I", 2, 12)
    pages, first_is_thumbnail = 0, False
    seen: set[int] = set()
    try:
        offset, = struct.unpack_from(order + number, data, 8 if big else 4)
        while offset and offset not in seen and len(seen) < _MAX_PAGES:
            count, = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
            subtype = _subtype(data, order, offset + table, min(count, 8), entry)
            first_is_thumbnail |= not seen and bool(subtype & _THUMBNAIL)
            pages += not seen or not subtype & (_THUMBNAIL | _MASK)
            seen.add(offset)
            offset, = struct.unpack_from(order + number, data, offset + table + entry * count)
    except (struct.error, OverflowError):
        pass  # the chain of pages is broken
    return max(pages, 1), first_is_thumbnail


def _subtype(data: bytes, order: str, start: int, count: int, size: int) -> int:
    """The value of NewSubfileType, one of the first entries because they are sorted."""
    for at in range(start, start + count * size, size):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag == _SUBTYPE:
            place = at + size - (8 if size == 20 else 4)
            return int(struct.unpack_from(order + ("I" if kind == 4 else "H"), data, place)[0])
    return 0


def jpeg_images(data: bytes) -> int:
    """The number of images in a JPEG that has several (Pillow's format MPO), without thumbnails
    and smaller ones of unstated purpose."""
    from PIL.MpoImagePlugin import MpoImageFile

    found = 1
    opened: Any  # Pillow's types lack mpinfo before 13
    with MpoImageFile(io.BytesIO(data)) as opened:
        pixels = opened.width * opened.height
        for index, image in enumerate(opened.mpinfo[0xB002][1:16], 1):
            kind = str(image["Attribute"]["MPType"])
            if "Thumbnail" in kind:
                continue
            try:
                opened.seek(index)
                found += kind != "Undefined" or opened.width * opened.height >= pixels
            except Exception:  # it is not where the index says
                continue
    return found


def gif_frames(opened: PillowImage) -> int:
    """The number of a GIF's frames."""
    return int(getattr(opened, "n_frames", 1))


@dataclass
class Webp:
    """What a WebP file's chunks say: the number of frames, whether pixels are lossless, and names
    of chunks that are not kept."""

    frames: int = 1
    lossless: bool = False
    left_out: tuple[str, ...] = ()


def split_webp(data: bytes) -> Webp:
    """The chunks of a WebP file, as far as it goes."""
    frames, lossless, position = 0, False, 12
    others: dict[str, None] = {}
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        name, length = struct.unpack_from("<4sI", data, position)
        frames += name == b"ANMF"
        lossless |= name == b"VP8L"
        if name not in _KNOWN and len(others) < 100:
            others[name.decode("latin-1")] = None
        position += 8 + length + length % 2
    return Webp(max(frames, 1), lossless, tuple(others))
