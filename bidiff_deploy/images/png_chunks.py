"""Splits a PNG file into the chunks that decoding needs and those of its metadata.

Format: PNG (ISO/IEC 15948), third edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .exif import MAX_BYTES

__all__ = ["SIGNATURE", "XMP_KEYWORD", "png_chunk", "png_chunks", "split"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = b"XML:com.adobe.xmp"
# Written by ImageMagick before PNG had eXIf.
_EXIF_KEYWORDS = (b"Raw profile type exif", b"Raw profile type APP1")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, length of the body) of each complete chunk; the body is at start + 8."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if position + length + 12 > len(data):
            return
        yield name, position, length
        position += length + 12


def split(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The PNG file without what decoding does not need, and its metadata chunks by name.

    The chunks ``xmp`` and ``raw exif`` are text chunks of that content; ``broken`` contains the
    names of chunks that are too large or have a wrong checksum.
    """
    kept, chunks, end = [data[:len(SIGNATURE)]], {}, len(SIGNATURE)
    broken: list[bytes] = []
    for name, start, length in png_chunks(data):
        end = start + length + 12
        if not (name[0] & 0x20) or name == b"tRNS":  # lower case: decoding does not need it
            kept.append(data[start:end])
            continue
        key = _metadata_key(name, data[start + 8:start + 8 + min(length, 80)])
        if key is None or key in chunks:
            continue
        body = data[start + 8:end - 4] if length <= MAX_BYTES else b""
        if length > MAX_BYTES or zlib.crc32(body, zlib.crc32(name)) != struct.unpack_from(
                ">I", data, end - 4)[0]:
            broken.append(name)
        else:
            chunks[key] = body[len(XMP_KEYWORD) + 1:] if key == b"xmp" else body
    kept.append(data[end:])  # a chunk that is cut off, which the decoder reports
    if broken:
        chunks[b"broken"] = b" ".join(broken)
    return b"".join(kept), chunks


def _metadata_key(name: bytes, head: bytes) -> bytes | None:
    if name in (b"iCCP", b"eXIf", b"pHYs"):
        return name
    keyword = head.partition(b"\0")[0]
    if name == b"iTXt" and keyword == XMP_KEYWORD:
        return b"xmp"
    return b"raw exif" if name in (b"zTXt", b"tEXt") and keyword in _EXIF_KEYWORDS else None


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return b"".join([struct.pack(">I", len(body)), name, body,
                     struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))])
