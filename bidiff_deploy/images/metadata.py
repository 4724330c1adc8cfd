"""The metadata of image files: EXIF, XMP, resolution and colour profile.

Files are untrusted: each block has at most ``exif.MAX_BYTES``, after decompression if it is
compressed. A larger or broken block is left out with a sentence that says so; the image is read
all the same.

Formats: PNG (ISO/IEC 15948, third edition), JPEG's APP1 (CIPA DC-008; XMP part 3), TIFF 6.0.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import exif as exif_block
from .exif import MAX_BYTES, ORIENTATION, Exif
from .png_chunks import XMP_KEYWORD, png_chunk

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["Metadata", "from_file", "from_pillow", "jpeg_segments", "png_header_chunks",
           "usable_profile"]

_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_TAG, _PROFILE_TAG, _RESOLUTION_TAGS = 700, 34675, (0x011A, 0x011B, 0x0128)
_PER_INCH = {2: 1.0, 3: 2.54}  # units an inch, by TIFF's tag 0x0128: inch, centimetre
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>))([1-8])(?=[\"'<])")
_XMP_SIZES = [re.compile(rb"((?:%s)(?:\s*=\s*[\"']|\s*>))\d{1,10}(?=[\"'<])" % names) for names in (
    rb"tiff:ImageWidth|exif:PixelXDimension", rb"tiff:ImageLength|exif:PixelYDimension")]


Dpi = tuple[float, float] | None


@dataclass(frozen=True)
class Metadata:
    """The metadata that an upright image passes on to its larger version.

    exif     a block as in PNG's eXIf chunk, without a thumbnail, its orientation 1 or absent
    xmp      an XMP packet, likewise
    dpi      pixels an inch, across and down; it is kept, so a larger image prints larger
    dropped  the end of a sentence for each part of the file's metadata that was left out
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: Dpi = None
    dropped: tuple[str, ...] = ()

    def sized(self, width: int, height: int) -> Metadata:
        """With the dimensions in EXIF and XMP, if they have any, set to ``width`` and ``height``.
        """
        exif, xmp = self.exif, self.xmp
        if exif:
            exif = exif_block.parse(exif).resized(width, height).to_bytes()
        if xmp:
            for pattern, size in zip(_XMP_SIZES, (width, height)):
                xmp = pattern.sub(rb"\g<1>%d" % size, xmp)
        return replace(self, exif=exif, xmp=xmp)


class _MetadataReader:
    """Reads the metadata of one file; ``dropped``: what is left out, and why."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def drop(self, what: str, why: str) -> None:
        self.dropped.append(f"{what} is not kept: {why}")

    def exif(self, data: bytes | None) -> Exif | None:
        if not data:
            return None
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
            return self.checked(exif_block.parse(data))
        except (ValueError, struct.error) as error:
            self.drop("its EXIF", str(error))
            return None

    def checked(self, exif: Exif) -> Exif:
        if exif.damaged:
            self.drop("a part of its EXIF", "it is broken")
        return exif

    def xmp(self, data: bytes | None) -> bytes | None:
        if not data:
            return None
        if len(data) > MAX_BYTES:
            self.drop("its XMP", f"it has more than {MAX_BYTES >> 20} MiB")
        elif b"rdf:RDF" not in data:
            self.drop("its XMP", "it is broken")
        else:
            return data
        return None

    def inflated(self, what: str, body: bytes) -> bytes | None:
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(body, MAX_BYTES + 1)
        except zlib.error:
            data = b""
        if len(data) > MAX_BYTES:
            self.drop(what, f"it has more than {MAX_BYTES >> 20} MiB")
        elif not inflater.eof:
            self.drop(what, "it is broken")
        else:
            return data
        return None


def from_file(opened: PillowImage, chunks: dict[bytes, bytes],
              data: bytes) -> tuple[Metadata, bytes | None, int | None]:
    """Metadata, colour profile and orientation of a file that Pillow has opened.

    ``chunks``: from ``png_chunks.split`` for a PNG. ``data``: the file. The orientation is None for
    TIFF, whose pixels newer versions of Pillow turn upright themselves.
    """
    found = _MetadataReader()
    profile = opened.info.get("icc_profile") or None
    dpi = None
    if opened.format == "PNG":
        exif, xmp, profile, dpi = _from_png(chunks, found)
    elif opened.format == "TIFF":
        exif, xmp, profile, dpi = _from_tiff(data, found)
    else:
        exif = found.exif(opened.info.get("exif"))
        xmp = opened.info.get("xmp")
        if opened.format != "WEBP":
            dpi = _jfif_dpi(opened)
            segments = getattr(opened, "applist", ())
            xmp = next((body[len(_XMP_SEGMENT):] for name, body in segments
                        if name == "APP1" and body.startswith(_XMP_SEGMENT)), None)
            if profile is None and any(name == "APP2" and body.startswith(b"ICC_PROFILE\0")
                                       for name, body in segments):
                found.drop("its colour profile", "it is broken")
        xmp = found.xmp(xmp)
    orientation = None
    if opened.format != "TIFF":
        orientation = exif.number(ORIENTATION) if exif else None
        match = _XMP_ORIENTATION.search(xmp) if xmp and orientation is None else None
        orientation = int(match.group(2)) if match else orientation or 1
    if profile is not None and len(profile) > MAX_BYTES:
        found.drop("its colour profile", f"it has more than {MAX_BYTES >> 20} MiB")
        profile = None
    metadata = Metadata(exif.upright().to_bytes() or None if exif else None,
                        _upright_xmp(xmp) if xmp else None, dpi, tuple(found.dropped))
    return metadata, profile, orientation


def from_pillow(opened: PillowImage) -> Metadata:
    """The EXIF of a Pillow image, which need not come from a file."""
    found = _MetadataReader()
    data = opened.info.get("exif")
    exif = found.exif(data if isinstance(data, bytes) else None)
    return Metadata(exif.upright().to_bytes() or None if exif else None)


def usable_profile(profile: bytes | None, grey: bool) -> bool:
    """Whether it is an ICC profile for grey or RGB samples (ICC.1:2022, header fields)."""
    return profile is None or (len(profile) >= 128 and profile[36:40] == b"acsp"
                               and profile[16:20] == (b"GRAY" if grey else b"RGB "))


def _from_png(chunks: dict[bytes, bytes], found: _MetadataReader) -> tuple[
        Exif | None, bytes | None, bytes | None, Dpi]:
    """EXIF, XMP, colour profile and resolution."""
    for name in chunks.get(b"broken", b"").split():
        found.drop(f"its {name.decode('latin-1')} chunk", "it is broken or too large")
    exif = found.exif(chunks.get(b"eXIf"))
    if exif is None and b"raw exif" in chunks:
        exif = found.exif(_raw_profile(chunks[b"raw exif"], found))
    xmp = None
    if b"xmp" in chunks:
        flag, rest = chunks[b"xmp"][:1], chunks[b"xmp"][2:]
        text = rest.split(b"\0", 2)[-1]  # after language and translated keyword
        xmp = found.xmp(found.inflated("its XMP", text) if flag == b"\1" else text)
    profile = None
    if b"iCCP" in chunks:
        _, _, rest = chunks[b"iCCP"].partition(b"\0")
        profile = found.inflated("its colour profile", rest[1:])
    dpi = None
    if len(chunks.get(b"pHYs", b"")) == 9:
        across, down, unit = struct.unpack(">IIB", chunks[b"pHYs"])
        dpi = _dpi(across * 0.0254, down * 0.0254) if unit == 1 else None
    return exif, xmp, profile, dpi


def _raw_profile(body: bytes, found: _MetadataReader) -> bytes | None:
    """EXIF from hexadecimal text, as ImageMagick wrote it before PNG had eXIf."""
    _, _, rest = body.partition(b"\0")
    text = found.inflated("its EXIF", rest[1:]) if rest[:1] == b"\0" else rest
    if text is None:
        return None
    try:
        return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except ValueError:
        found.drop("its EXIF", "it is broken")
        return None


def _from_tiff(data: bytes, found: _MetadataReader) -> tuple[
        Exif | None, bytes | None, bytes | None, Dpi]:
    """EXIF, XMP, colour profile and resolution."""
    wanted = exif_block.MAIN_TAGS | {_XMP_TAG, _PROFILE_TAG}
    try:
        exif = found.checked(exif_block.parse(data, wanted.__contains__))
    except (ValueError, struct.error) as error:
        found.drop("its metadata", str(error))
        return None, None, None, None
    exif.maker_note = None  # its offset in the file is far beyond the end of any block
    main = exif.directories["image"]
    xmp, profile = (main.pop(tag, None) for tag in (_XMP_TAG, _PROFILE_TAG))
    per_inch = _PER_INCH.get(exif.number(_RESOLUTION_TAGS[2]) or 2, 0)
    across, down = ((exif.ratio(tag) or 0) * per_inch for tag in _RESOLUTION_TAGS[:2])
    # Every TIFF has these tags; alone they are not worth an EXIF block in another format.
    for tag in (0x0100, 0x0101, ORIENTATION, *_RESOLUTION_TAGS):
        main.pop(tag, None)
    return (exif, found.xmp(xmp.value if xmp else None), profile.value if profile else None,
            _dpi(across, down))


def _jfif_dpi(opened: PillowImage) -> Dpi:
    density = opened.info.get("jfif_density")
    per_inch = {1: 1.0, 2: 2.54}.get(opened.info.get("jfif_unit", 0))
    return _dpi(*(value * per_inch for value in density)) if density and per_inch else None


def _dpi(across: float, down: float) -> Dpi:
    """The resolution; None if TIFF, JPEG and PNG cannot all store it."""
    return (across, down) if all(math.isfinite(value) and 1 <= value < 65536
                                 for value in (across, down)) else None


def _upright_xmp(xmp: bytes) -> bytes:
    """The packet with orientation 1 and without thumbnails."""
    xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
    kept, position = [], 0
    while (start := xmp.find(b"<xmp:Thumbnails", position)) >= 0:
        stop = xmp.find(b"</xmp:Thumbnails>", start)
        if stop < 0:
            break
        kept.append(xmp[position:start])
        position = stop + len(b"</xmp:Thumbnails>")
    return b"".join(kept) + xmp[position:]


def png_header_chunks(metadata: Metadata, profile: bytes | None) -> bytes:
    """A PNG's metadata chunks, which follow its IHDR."""
    parts = []
    if profile:
        parts.append(png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)))
    if metadata.dpi:
        parts.append(png_chunk(b"pHYs", struct.pack(
            ">IIB", *(round(value / 0.0254) for value in metadata.dpi), 1)))
    if metadata.exif:
        parts.append(png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        parts.append(png_chunk(b"iTXt", XMP_KEYWORD + bytes(5) + metadata.xmp))
    return b"".join(parts)


def jpeg_segments(metadata: Metadata, dropped: list[str]) -> bytes:
    """APP1 segments; what is too long for one is left out and recorded in ``dropped``."""
    parts = []
    for what, head, body in (("EXIF", b"Exif\0\0", metadata.exif),
                             ("XMP", _XMP_SEGMENT, metadata.xmp)):
        if not body:
            continue
        if len(head) + len(body) > 65533:
            dropped.append(f"its {what} is not kept: JPEG stores at most 64 KiB of it")
            continue
        parts.append(b"\xff\xe1" + struct.pack(">H", len(head) + len(body) + 2) + head + body)
    return b"".join(parts)
