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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import exif as exif_block
from . import frames, jpeg_segments, texts, xmp
from .exif import MAX_BYTES, ORIENTATION, Exif
from .metadata import Dpi, Metadata
from .metadata_blocks import TIFF_TAGS, MetadataReader, raw_profile
from .png_chunks import COLOUR_BYTES, Png
from .texts import Text, named

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["from_file", "from_pillow", "from_tiff"]

_XMP_TAG, _PROFILE_TAG, _PHOTOSHOP_TAG, _IPTC_TAG = 700, 34675, 34377, 33723
_EXTRA_SAMPLES = 338
_RESOLUTION_TAGS = (0x011A, 0x011B, 0x0128)
_PER_INCH = {2: 1.0, 3: 2.54}  # units an inch, by TIFF's tag 0x0128: inch, centimetre
# What the texts of these keywords contain is Photoshop's image resources in hexadecimal.
_RESOURCE_KEYWORDS = ("Raw profile type iptc", "Raw profile type 8bim")


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
    reader = MetadataReader()
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
    reader = MetadataReader()
    found = _from_tiff(data, reader)
    return (*_finished(found, reader), found.orientation)


def from_pillow(opened: PillowImage) -> Metadata:
    """The EXIF of a Pillow image, which need not come from a file."""
    reader = MetadataReader()
    data = opened.info.get("exif")
    return _finished(_Found(reader.exif(data if isinstance(data, bytes) else None)), reader)[0]


def _finished(found: _Found, reader: MetadataReader) -> tuple[Metadata, bytes | None]:
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


def _from_png(png: Png, reader: MetadataReader) -> _Found:
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
        if unit == 1:
            dpi = _dpi(across * 0.0254, down * 0.0254)
        else:
            reader.shape_of_pixels(across, down)
    colours = tuple((name, known[name]) for name in COLOUR_BYTES if name in known)
    found = [Text(name, body) for name, body in png.texts]
    resources = next((text for text in found if text.keyword in _RESOURCE_KEYWORDS), None)
    photoshop = raw_profile(resources.value()) if resources else None
    kept = (text for text in found if text is not resources or photoshop is None)
    return _Found(exif, packet, profile, dpi, tuple(kept), colours, photoshop,
                  trailing=png.trailing)


def _from_jpeg(opened: PillowImage, data: bytes, reader: MetadataReader) -> _Found:
    jpeg = jpeg_segments.split(data)
    profile = opened.info.get("icc_profile") or None
    if profile is None and jpeg.profile:
        reader.drop("its colour profile", "it is broken")
    if jpeg.left_out:
        reader.drop(f"its data in the segments {named(jpeg.left_out)}", "it is unknown")
    if opened.format == "MPO":
        reader.only_first(frames.jpeg_images(data), "images")
    if opened.info.get("jfif_unit") == 0:
        reader.shape_of_pixels(*opened.info.get("jfif_density", (1, 1)))
    return _Found(reader.exif(opened.info.get("exif")), reader.xmp(jpeg.xmp), profile,
                  _jfif_dpi(opened), tuple(map(texts.from_comment, jpeg.comments)),
                  photoshop=jpeg.photoshop, trailing=jpeg.trailing * (opened.format == "JPEG"))


def _from_others(opened: PillowImage, data: bytes, reader: MetadataReader) -> _Found:
    """WebP, BMP and GIF."""
    dpi, comment = opened.info.get("dpi"), opened.info.get("comment")
    if opened.format == "WEBP":
        webp = frames.split_webp(data)
        reader.only_first(webp.frames)
        if webp.left_out:
            reader.drop(f"its data in the chunks {named(webp.left_out)}", "it is unknown")
    else:
        reader.only_first(getattr(opened, "n_frames", 1))
    if opened.format == "BMP" and opened.mode == "RGB" and _has_alpha_mask(data):
        reader.drop("its transparency", "Pillow does not read that of a BMP of 16 bits a pixel")
    return _Found(reader.exif(opened.info.get("exif")), reader.xmp(opened.info.get("xmp")),
                  opened.info.get("icc_profile") or None, _dpi(*dpi) if dpi else None,
                  (texts.from_comment(comment),) if isinstance(comment, bytes) else ())


def _has_alpha_mask(data: bytes) -> bool:
    """Whether the header of a BMP says which bits are alpha."""
    header, = struct.unpack_from("<I", data, 14)
    return header >= 56 and data[30] == 3 and any(data[66:70])


def _from_tiff(data: bytes, reader: MetadataReader) -> _Found:
    pages, thumbnail = frames.tiff_pages(data)
    reader.only_first(pages, "pages")
    if thumbnail:
        reader.dropped.append("its first page, which is read, is marked as a thumbnail")
    wanted = exif_block.MAIN_TAGS | TIFF_TAGS | {_EXTRA_SAMPLES}
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
    across, down = (exif.ratio(tag) or 0 for tag in _RESOLUTION_TAGS[:2])
    if not per_inch:
        reader.shape_of_pixels(across, down)
    across, down = across * per_inch, down * per_inch
    _note_channels(main.pop(_EXTRA_SAMPLES, None), exif.order, reader)
    orientation = exif.number(ORIENTATION) or 1
    # Every TIFF has these tags; alone they are not worth an EXIF block in another format.
    for tag in (0x0100, 0x0101, ORIENTATION, *_RESOLUTION_TAGS):
        main.pop(tag, None)
    return _Found(exif, reader.xmp(packet), profile, _dpi(across, down), photoshop=photoshop,
                  orientation=orientation)


def _note_channels(extra: exif_block.Entry | None, order: str, reader: MetadataReader) -> None:
    """Note the channels of a TIFF that are neither colours nor alpha."""
    if extra is None or extra.kind != 3:
        return
    kinds = struct.unpack(f"{order}{extra.count}H", extra.value)
    lost = len(kinds) - any(kind in (1, 2) for kind in kinds)
    if lost:
        reader.dropped.append(f"{lost} of its channels {'is' if lost == 1 else 'are'} not kept: "
                              "not a colour, nor stated to be alpha")


def _jfif_dpi(opened: PillowImage) -> Dpi:
    density = opened.info.get("jfif_density")
    per_inch = {1: 1.0, 2: 2.54}.get(opened.info.get("jfif_unit", 0))
    return _dpi(*(value * per_inch for value in density)) if density and per_inch else None


def _dpi(across: float, down: float) -> Dpi:
    """The resolution; None if TIFF, JPEG and PNG cannot all store it."""
    return (across, down) if all(math.isfinite(value) and 1 <= value < 65536
                                 for value in (across, down)) else None
