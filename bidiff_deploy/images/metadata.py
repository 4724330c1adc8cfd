"""``Metadata``: what an image file says about its image, EXIF, XMP, texts, resolution and colours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import exif as exif_block
from . import xmp
from .texts import Text

__all__ = ["Dpi", "Metadata", "usable_profile"]

Dpi = tuple[float, float] | None


@dataclass(frozen=True)
class Metadata:
    """The metadata that an upright image passes on to its larger version.

    exif       a block as in PNG's eXIf chunk, without a thumbnail, its orientation 1 or absent
    xmp        an XMP packet, likewise
    dpi        pixels an inch, across and down; it is kept, so a larger image prints larger
    texts      texts and comments
    colours    PNG's chunks about colours (cICP, gAMA, ...), name and body
    photoshop  Photoshop's image resources
    dropped    the end of a sentence for each part of the file that was left out or is only
               approximate
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: Dpi = None
    texts: tuple[Text, ...] = ()
    colours: tuple[tuple[bytes, bytes], ...] = ()
    photoshop: bytes | None = None
    dropped: tuple[str, ...] = ()

    def sized(self, width: int, height: int) -> Metadata:
        """With the dimensions in EXIF and XMP, if they have any, set to ``width`` and ``height``.
        """
        exif, packet = self.exif, self.xmp
        if exif:
            exif = exif_block.parse(exif).resized(width, height).to_bytes()
        return replace(self, exif=exif, xmp=xmp.sized(packet, width, height) if packet else None)

    def scaled(self, scale: float) -> Metadata:
        """With sizes and positions in pixels (of a panorama) multiplied by ``scale``."""
        return replace(self, xmp=xmp.scaled(self.xmp, scale) if self.xmp else None)


def usable_profile(profile: bytes | None, grey: bool) -> bool:
    """Whether it is an ICC profile for grey or RGB samples (ICC.1:2022, header fields)."""
    return profile is None or (len(profile) >= 128 and profile[36:40] == b"acsp"
                               and profile[16:20] == (b"GRAY" if grey else b"RGB "))
