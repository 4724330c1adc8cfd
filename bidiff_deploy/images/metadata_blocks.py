"""Blocks of metadata, bounded and checked, whatever file has them; what is left out is noted."""

from __future__ import annotations

import struct
import zlib

from . import exif as exif_block
from .exif import MAX_BYTES, Exif
from .texts import named

__all__ = ["MetadataReader", "TIFF_TAGS", "raw_profile"]

# Blocks that a TIFF has in tags of their own: XMP, profile, Photoshop's resources, IPTC.
TIFF_TAGS = {700, 34675, 34377, 33723}
_TAG_NAMES = {301: "TransferFunction", 318: "WhitePoint", 319: "PrimaryChromaticities",
              33550: "ModelPixelScale", 33922: "ModelTiepoint", 34264: "ModelTransformation",
              34735: "GeoKeyDirectory", 37724: "Photoshop layers", 42112: "GDAL metadata",
              42113: "GDAL nodata", 50838: "ImageJ metadata", 50839: "ImageJ metadata",
              50706: "DNG raw data"}


class MetadataReader:
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
                   if tag not in TIFF_TAGS]
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
        data = raw_profile(text)
        if data is None and text is not None:
            self.drop("its EXIF", "it is broken")
        return self.exif(data)

    def shape_of_pixels(self, across: float, down: float) -> None:
        """Note a ratio of sides that comes without a unit of length."""
        if across > 0 and down > 0 and across != down:
            self.dropped.append(f"its pixels are not square ({down:.6g} wide, {across:.6g} high), "
                                "but are enlarged as if they were")

    def only_first(self, count: int, what: str = "frames") -> None:
        if count > 1:
            self.dropped.append(f"only the first of its {count} {what} is read")


def raw_profile(text: bytes | None) -> bytes | None:
    """The bytes of hexadecimal text, as ImageMagick writes them; None if it is broken."""
    try:
        return bytes.fromhex(b"".join((text or b"").split()[2:]).decode("ascii")) or None
    except ValueError:
        return None
