"""Splits a PNG file into the chunks that decoding needs and those of its metadata.

Format: PNG (ISO/IEC 15948), third edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .exif import MAX_BYTES

__all__ = ["COLOUR_BYTES", "Png", "SIGNATURE", "XMP_KEYWORD", "png_chunk", "png_chunks", "split"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = b"XML:com.adobe.xmp"
# Written by ImageMagick before PNG had eXIf.
_EXIF_KEYWORDS = (b"Raw profile type exif", b"Raw profile type APP1")
# Chunks about the colours of the pixels, and their lengths.
COLOUR_BYTES = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Chunks about the stored file: an animation's further frames, unused bits, sizes for a screen's
# palette, when the file was changed, how Apple's decoder divides it.
_STORAGE = (b"acTL", b"fcTL", b"fdAT", b"sBIT", b"hIST", b"tIME", b"iDOT", b"vpAg")
_MAX_TEXTS = 1000
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")


@dataclass
class Png:
    """A PNG file in parts.

    data      the file without what decoding does not need
    known     bodies of the metadata chunks iCCP, eXIf, pHYs and COLOUR_BYTES, and text chunks of
              special content: ``xmp`` and ``raw exif``
    texts     (name, body) of all other text chunks
    left_out  names of chunks that are not kept
    broken    names of chunks that are too large or have a wrong checksum
    frames    number of an animation's frames, the default image included; 1 if there is none
    trailing  number of bytes after the last chunk
    """

    data: bytes = b""
    known: dict[bytes, bytes] = field(default_factory=dict)
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    left_out: list[bytes] = field(default_factory=list)
    broken: list[bytes] = field(default_factory=list)
    frames: int = 1
    trailing: int = 0


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, length of the body) of each complete chunk; the body is at start + 8."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if position + length + 12 > len(data):
            return
        yield name, position, length
        position += length + 12


def split(data: bytes) -> Png:
    """The parts of a PNG file; text chunks of at most MAX_BYTES in all."""
    found, kept, end = Png(), [data[:len(SIGNATURE)]], len(SIGNATURE)
    text_bytes, frames, pixels = 0, 0, False
    for name, start, length in png_chunks(data):
        end = start + length + 12
        if name == b"IEND":
            kept.append(data[start:end])
            found.trailing = len(data) - end
            end = len(data)
            break
        pixels = pixels or name == b"IDAT"
        if name == b"fcTL":
            # The default image is a frame of the animation if an fcTL comes first.
            frames = frames + 1 if frames else 1 + pixels
        if not (name[0] & 0x20) or name == b"tRNS":  # lower case: decoding does not need it
            kept.append(data[start:end])
            if name not in _NEEDED:
                _add(found.left_out, name)
            continue
        key = _metadata_key(name, data[start + 8:start + 8 + min(length, 80)])
        if key is None and name in _STORAGE:
            continue
        if key is None or key in found.known:
            _add(found.left_out, name)
            continue
        text_bytes += length if key in _TEXTS else 0
        large = length > MAX_BYTES or text_bytes > MAX_BYTES or len(found.texts) >= _MAX_TEXTS
        body = b"" if large else data[start + 8:end - 4]
        if large or zlib.crc32(body, zlib.crc32(name)) != struct.unpack_from(
                ">I", data, end - 4)[0] or length != COLOUR_BYTES.get(name, length):
            _add(found.broken, name)
        elif key in _TEXTS:
            found.texts.append((name, body))
        else:
            found.known[key] = body[len(XMP_KEYWORD) + 1:] if key == b"xmp" else body
    kept.append(data[end:])  # a chunk that is cut off, which the decoder reports
    found.data, found.frames = b"".join(kept), max(frames, 1)
    return found


def _add(names: list[bytes], name: bytes) -> None:
    if name not in names and len(names) < 100:
        names.append(name)


def _metadata_key(name: bytes, head: bytes) -> bytes | None:
    if name in (b"iCCP", b"eXIf", b"pHYs") or name in COLOUR_BYTES:
        return name
    keyword = head.partition(b"\0")[0]
    if name == b"iTXt" and keyword == XMP_KEYWORD:
        return b"xmp"
    if name in (b"zTXt", b"tEXt") and keyword in _EXIF_KEYWORDS:
        return b"raw exif"
    return name if name in _TEXTS and b"\0" in head else None


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return b"".join([struct.pack(">I", len(body)), name, body,
                     struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))])
