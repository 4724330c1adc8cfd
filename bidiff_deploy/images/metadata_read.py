"""Reads the metadata of image files.

Files are untrusted: each block has at most ``exif.MAX_BYTES``, after decompression if it is
compressed. A larger or broken block is left out with a sentence that says so; the image is read
all the same.

Formats: PNG (ISO/IEC 15948, third edition), JPEG's APP1 (CIPA DC-008; XMP part 3), TIFF 6.0,
Photoshop's image resources, which contain IPTC's captions and rights.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import exif as exif_block
from . import frames, jpeg_segments, texts, xmp
from .exif import MAX_BYTES, ORIENTATION, Exif
from .metadata import Dpi, Metadata
from .png_chunks import COLOUR_BYTES, Png
from .texts import Text, named

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["from_file", "from_pillow", "from_tiff"]

_XMP_TAG, _PROFILE_TAG, _PHOTOSHOP_TAG, _IPTC_TAG = 700, 34675, 34377, 33723
_TIFF_TAGS = {_XMP_TAG, _PROFILE_TAG, _PHOTOSHOP_TAG, _IPTC_TAG}
_RESOLUTION_TAGS = (0x011A, 0x011B, 0x0128)
_PER_INCH = {2: 1.0, 3: 2.54}  # units an inch, by TIFF's tag 0x0128: inch, centimetre
_TAG_NAMES = {301: "TransferFunction", 318: "WhitePoint", 319: "PrimaryChromaticities",
              33550: "ModelPixelScale", 33922: "ModelTiepoint", 34264: "ModelTransformation",
              34735: "GeoKeyDirectory", 37724: "Photoshop layers", 42112: "GDAL metadata",
              42113: "GDAL nodata", 50838: "ImageJ metadata", 50839: "ImageJ metadata",
              50706: "DNG raw data"}
# What the texts of these keywords contain is Photoshop's image resources in hexadecimal.
_RESOURCE_KEYWORDS = ("Raw profile type iptc", "Raw profile type 8bim")


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
        unknown = [_TAG_NAMES.get(tag, f"tag {tag}") for tag in exif.left_out
                   if tag not in _TIFF_TAGS]
        if unknown:
            self.drop(f"a part of its EXIF or TIFF metadata ({named(unknown)})",
                      "it is private to a program or to the size of the original")
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

    def raw_exif(self, body: bytes) -> Exif | None:
        """EXIF from hexadecimal text, as ImageMagick wrote it before PNG had eXIf."""
        _, _, rest = body.partition(b"\0")
        text = self.inflated("its EXIF", rest[1:]) if rest[:1] == b"\0" else rest
        data = _raw_profile(text)
        if data is None and text is not None:
            self.drop("its EXIF", "it is broken")
        return self.exif(data)

    def only_first(self, count: int, what: str = "frames") -> None:
        if count > 1:
            self.dropped.append(f"only the first of its {count} {what} is read")


@dataclass
class _Found:
    """Metadata as a file has it; ``trailing``: number of bytes after the image."""

    exif: Exif | None = None
    xmp: bytes | None = None
    profile: bytes | None = None
    dpi: Dpi = None
    texts: tuple[Text, ...] = ()
    colours: tuple[tuple[bytes, bytes], ...] = ()
    photoshop: bytes | None = None
    orientation: int = 1
    trailing: int = 0


def from_file(opened: PillowImage, png: Png | None,
              data: bytes) -> tuple[Metadata, bytes | None, int | None]:
    """Metadata, colour profile and orientation of a file that Pillow has opened.

    ``png``: the parts of a PNG. ``data``: the file. The orientation is None for TIFF, whose pixels
    newer versions of Pillow turn upright themselves.
    """
    if opened.format == "TIFF":
        metadata, profile, _ = from_tiff(data)
        return metadata, profile, None
    reader = _MetadataReader()
    if png is not None:
        found = _from_png(png, reader)
    elif opened.format in ("JPEG", "MPO"):
        found = _from_jpeg(opened, data, reader)
    else:
        found = _from_others(opened, data, reader)
    orientation = found.exif.number(ORIENTATION) if found.exif else None
    if orientation is None and found.xmp:
        orientation = xmp.orientation(found.xmp)
    return (*_finished(found, reader), orientation or 1)


def from_tiff(data: bytes) -> tuple[Metadata, bytes | None, int]:
    """Metadata, colour profile and orientation of a TIFF file."""
    reader = _MetadataReader()
    found = _from_tiff(data, reader)
    return (*_finished(found, reader), found.orientation)


def from_pillow(opened: PillowImage) -> Metadata:
    """The EXIF of a Pillow image, which need not come from a file."""
    reader = _MetadataReader()
    data = opened.info.get("exif")
    return _finished(_Found(reader.exif(data if isinstance(data, bytes) else None)), reader)[0]


def _finished(found: _Found, reader: _MetadataReader) -> tuple[Metadata, bytes | None]:
    packet, profile = found.xmp, found.profile
    lost: list[str] = []
    if packet:
        packet, lost = xmp.without_lost_data(xmp.upright(packet))
    if lost:
        reader.drop(f"its {' and '.join(lost)}", "only the image itself is read")
    elif found.trailing:
        reader.drop(f"the data after the image's end ({found.trailing} bytes)",
                    "only the image itself is read")
    if profile is not None and len(profile) > MAX_BYTES:
        reader.drop("its colour profile", f"it has more than {MAX_BYTES >> 20} MiB")
        profile = None
    exif = found.exif.upright().to_bytes() if found.exif else b""
    photoshop = jpeg_segments.without_thumbnails(found.photoshop) if found.photoshop else b""
    return Metadata(exif or None, packet, found.dpi, found.texts, found.colours, photoshop or None,
                    tuple(reader.dropped)), profile


def _from_png(png: Png, reader: _MetadataReader) -> _Found:
    known = png.known
    for name in png.broken:
        reader.drop(f"its {named([name.decode('latin-1')])} chunk", "it is broken or too large")
    if png.left_out:
        names = named(name.decode("latin-1") for name in png.left_out)
        reader.drop(f"its data in the chunks {names}", "it is unknown or of the original's size")
    reader.only_first(png.frames)
    exif = reader.exif(known.get(b"eXIf"))
    if exif is None and b"raw exif" in known:
        exif = reader.raw_exif(known[b"raw exif"])
    packet = None
    if b"xmp" in known:
        flag, rest = known[b"xmp"][:1], known[b"xmp"][2:]
        text = rest.split(b"\0", 2)[-1]  # after language and translated keyword
        packet = reader.xmp(reader.inflated("its XMP", text) if flag == b"\1" else text)
    profile = None
    if b"iCCP" in known:
        _, _, rest = known[b"iCCP"].partition(b"\0")
        profile = reader.inflated("its colour profile", rest[1:])
    dpi = None
    if len(known.get(b"pHYs", b"")) == 9:
        across, down, unit = struct.unpack(">IIB", known[b"pHYs"])
        dpi = _dpi(across * 0.0254, down * 0.0254) if unit == 1 else None
    colours = tuple((name, known[name]) for name in COLOUR_BYTES if name in known)
    found = [Text(name, body) for name, body in png.texts]
    resources = next((text for text in found if text.keyword in _RESOURCE_KEYWORDS), None)
    photoshop = _raw_profile(resources.value()) if resources else None
    kept = (text for text in found if text is not resources or photoshop is None)
    return _Found(exif, packet, profile, dpi, tuple(kept), colours, photoshop,
                  trailing=png.trailing)


def _raw_profile(text: bytes | None) -> bytes | None:
    """The bytes of hexadecimal text, as ImageMagick writes them; None if it is broken."""
    try:
        return bytes.fromhex(b"".join((text or b"").split()[2:]).decode("ascii")) or None
    except ValueError:
        return None


def _from_jpeg(opened: PillowImage, data: bytes, reader: _MetadataReader) -> _Found:
    jpeg = jpeg_segments.split(data)
    profile = opened.info.get("icc_profile") or None
    if profile is None and jpeg.profile:
        reader.drop("its colour profile", "it is broken")
    if jpeg.left_out:
        reader.drop(f"its data in the segments {named(jpeg.left_out)}", "it is unknown")
    if opened.format == "MPO":
        reader.only_first(frames.jpeg_images(data), "images")
    return _Found(reader.exif(opened.info.get("exif")), reader.xmp(jpeg.xmp), profile,
                  _jfif_dpi(opened), tuple(map(texts.from_comment, jpeg.comments)),
                  photoshop=jpeg.photoshop, trailing=jpeg.trailing * (opened.format == "JPEG"))


def _from_others(opened: PillowImage, data: bytes, reader: _MetadataReader) -> _Found:
    """WebP, BMP and GIF."""
    dpi, comment = opened.info.get("dpi"), opened.info.get("comment")
    if opened.format == "WEBP":
        webp = frames.split_webp(data)
        reader.only_first(webp.frames)
        if webp.left_out:
            reader.drop(f"its data in the chunks {named(webp.left_out)}", "it is unknown")
    else:
        reader.only_first(getattr(opened, "n_frames", 1))
    return _Found(reader.exif(opened.info.get("exif")), reader.xmp(opened.info.get("xmp")),
                  opened.info.get("icc_profile") or None, _dpi(*dpi) if dpi else None,
                  (texts.from_comment(comment),) if isinstance(comment, bytes) else ())


def _from_tiff(data: bytes, reader: _MetadataReader) -> _Found:
    pages, thumbnail = frames.tiff_pages(data)
    reader.only_first(pages, "pages")
    if thumbnail:
        reader.dropped.append("its first page, which is read, is marked as a thumbnail")
    wanted = exif_block.MAIN_TAGS | _TIFF_TAGS
    try:
        exif = reader.checked(exif_block.parse(data, wanted.__contains__))
    except (ValueError, struct.error) as error:
        reader.drop("its metadata", str(error))
        return _Found()
    exif.maker_note = None  # its offset in the file is far beyond the end of any block
    main = exif.directories["image"]
    packet, profile, photoshop, iptc = (
        entry.value if (entry := main.pop(tag, None)) else None
        for tag in (_XMP_TAG, _PROFILE_TAG, _PHOTOSHOP_TAG, _IPTC_TAG))
    if photoshop is None and iptc is not None:
        photoshop = b"8BIM\4\4\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)
    per_inch = _PER_INCH.get(exif.number(_RESOLUTION_TAGS[2]) or 2, 0)
    across, down = ((exif.ratio(tag) or 0) * per_inch for tag in _RESOLUTION_TAGS[:2])
    orientation = exif.number(ORIENTATION) or 1
    # Every TIFF has these tags; alone they are not worth an EXIF block in another format.
    for tag in (0x0100, 0x0101, ORIENTATION, *_RESOLUTION_TAGS):
        main.pop(tag, None)
    return _Found(exif, reader.xmp(packet), profile, _dpi(across, down), photoshop=photoshop,
                  orientation=orientation)


def _jfif_dpi(opened: PillowImage) -> Dpi:
    density = opened.info.get("jfif_density")
    per_inch = {1: 1.0, 2: 2.54}.get(opened.info.get("jfif_unit", 0))
    return _dpi(*(value * per_inch for value in density)) if density and per_inch else None


def _dpi(across: float, down: float) -> Dpi:
    """The resolution; None if TIFF, JPEG and PNG cannot all store it."""
    return (across, down) if all(math.isfinite(value) and 1 <= value < 65536
                                 for value in (across, down)) else None
