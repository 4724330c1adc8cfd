"""Metadata as each format stores it, and what a format has no place for.

Formats: PNG (ISO/IEC 15948, third edition), JPEG's APP1 and APP13, TIFF 6.0, WebP (RFC 9649).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

from . import exif as exif_block
from .exif import Entry, Exif
from .jpeg_segments import COMMENT as COMMENT_MARKER
from .jpeg_segments import PHOTOSHOP, XMP_SEGMENT, jpeg_segment
from .metadata import Metadata
from .png_chunks import XMP_KEYWORD, png_chunk
from .texts import COMMENT, Text, named, put_into_exif

__all__ = ["fitted", "jpeg_segments", "png_header_chunks"]

_SEGMENT_BYTES = 65533
# What these chunks say of a plain sRGB image: cICP (BT.709 primaries, sRGB curve), gamma 1/2.2, and
# the primaries of sRGB. cICP also has BT.709's curve at times, but that is another one.
_SRGB = {b"sRGB": None, b"gAMA": struct.pack(">I", 45455), b"cICP": bytes([1, 13, 0, 1]),
         b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)}


def fitted(metadata: Metadata, kind: str, profile: bool, dropped: list[str]) -> Metadata:
    """The metadata with texts in EXIF where ``kind`` (PNG, JPEG, WEBP or TIFF) has no other place
    for them; what has none is recorded in ``dropped``.

    ``profile``: whether the image keeps a colour profile, which replaces gAMA and cHRM.
    """
    if kind == "PNG":
        return metadata
    lost = [name.decode() for name, body in metadata.colours
            if _SRGB.get(name, b"") not in (None, body) and not (
                profile and name in (b"gAMA", b"cHRM"))]
    if lost:
        dropped.append(f"its {named(lost)} {_is(lost)} not kept: only PNG has a place for "
                       f"{'it' if len(lost) == 1 else 'them'}, so colours may look different")
    comments: list[Text] = []
    texts: list[Text] = []
    for text in metadata.texts:
        fits = kind == "JPEG" and text.keyword == COMMENT and _comment(text.value())
        (comments if fits else texts).append(text)
    exif = exif_block.parse(metadata.exif) if metadata.exif else Exif("<")
    if kind == "WEBP" and metadata.dpi and 0x011A not in exif.directories["image"]:
        for tag, value in zip((0x011A, 0x011B), metadata.dpi):
            exif.directories["image"][tag] = Entry(5, 1, struct.pack(
                exif.order + "II", round(value * 10000), 10000))
        exif.directories["image"][0x0128] = Entry(3, 1, struct.pack(exif.order + "H", 2))
    others = put_into_exif(texts, exif)
    block = exif.to_bytes() or None
    if kind == "JPEG" and block and len(block) + 6 > _SEGMENT_BYTES:
        block, others = metadata.exif, texts
    if others:
        dropped.append(f"its text ({named(text.keyword for text in others)}) is not kept: {kind} "
                       "has no place for it; choose .png")
    photoshop = metadata.photoshop
    if photoshop and kind == "WEBP":
        dropped.append("its Photoshop data (IPTC's captions and rights) is not kept: WEBP has no "
                       "place for it; choose another format")
        photoshop = None
    return replace(metadata, exif=block, texts=tuple(comments), photoshop=photoshop)


def png_header_chunks(metadata: Metadata, profile: bytes | None) -> bytes:
    """A PNG's metadata chunks, which follow its IHDR."""
    parts = [png_chunk(name, body) for name, body in metadata.colours]
    if profile:
        parts.append(png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)))
    if metadata.dpi:
        parts.append(png_chunk(b"pHYs", struct.pack(
            ">IIB", *(round(value / 0.0254) for value in metadata.dpi), 1)))
    if metadata.exif:
        parts.append(png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        parts.append(png_chunk(b"iTXt", XMP_KEYWORD + bytes(5) + metadata.xmp))
    if metadata.photoshop:
        parts.append(png_chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(
            b"\niptc\n%8d\n" % len(metadata.photoshop) + metadata.photoshop.hex("\n", -36).encode()
            + b"\n")))
    parts += [png_chunk(text.name, text.body) for text in metadata.texts]
    return b"".join(parts)


def jpeg_segments(metadata: Metadata, dropped: list[str]) -> bytes:
    """APP1, APP13 and comments; what is too long for a segment is left out and recorded in
    ``dropped``."""
    parts = []
    for what, head, body in (("EXIF", b"Exif\0\0", metadata.exif),
                             ("XMP", XMP_SEGMENT, metadata.xmp)):
        if not body:
            continue
        if len(head) + len(body) > _SEGMENT_BYTES:
            dropped.append(f"its {what} is not kept: JPEG stores at most 64 KiB of it")
            continue
        parts.append(jpeg_segment(0xE1, head + body))
    resources, room = metadata.photoshop or b"", _SEGMENT_BYTES - len(PHOTOSHOP)
    parts += [jpeg_segment(0xED, PHOTOSHOP + resources[at:at + room])
              for at in range(0, len(resources), room)]
    parts += [jpeg_segment(COMMENT_MARKER, _comment(text.value()) or b"")
              for text in metadata.texts]
    return b"".join(parts)


def _comment(text: bytes | None) -> bytes | None:
    return text if text and len(text) <= _SEGMENT_BYTES else None


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
