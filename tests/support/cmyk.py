"""A small CMYK colour profile, and an image of ink bars."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
from PIL import Image as pillow
from PIL import ImageCms

# Lab of offset printing's overprints, by cyan, magenta and yellow.
PAPER: dict[tuple[int, ...], tuple[float, float, float]] = {
         (0, 0, 0): (95, 0, -2), (1, 0, 0): (55, -37, -50), (0, 1, 0): (48, 74, -3),
         (0, 0, 1): (89, -5, 93), (1, 1, 0): (24, 22, -46), (1, 0, 1): (50, -65, 27),
         (0, 1, 1): (47, 68, 48), (1, 1, 1): (23, 0, 0)}
INKS = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (255, 255, 0, 0),
        (0, 0, 0, 128)]


def cmyk_profile() -> bytes:
    """An ICC profile (version 2, lut8) with two grid points a channel."""
    table = bytearray()
    for *inks, black in itertools.product((0, 1), repeat=4):
        lightness, a, b = PAPER[tuple(inks)]
        if black:
            lightness, a, b = 8 + lightness * 0.08, a * 0.1, b * 0.1
        table += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    ramp, white = bytes(range(256)), struct.pack(">3i", 63190, 65536, 54061)
    name = b"small offset profile\0"
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
            b"cprt": b"text" + bytes(4) + b"no copyright\0", b"wtpt": b"XYZ " + bytes(4) + white,
            b"A2B0": b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
            + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536) + ramp * 4 + bytes(table)
            + ramp * 3}
    index, body = b"", b""
    for key, data in tags.items():
        data += bytes(-len(data) % 4)
        index += key + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    size = 132 + 12 * len(tags) + len(body)
    return (struct.pack(">I4sI", size, b"lcms", 0x02400000) + b"prtrCMYKLab "
            + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white + bytes(48)
            + struct.pack(">I", len(tags)) + index + body)


def bars() -> pillow.Image:
    """Six bars of 16 columns, each of one of INKS."""
    return pillow.fromarray(np.repeat(np.array([INKS], np.uint8), 16, axis=1).repeat(24, axis=0),
                            "CMYK")


def expected() -> np.ndarray:
    """RGB of the bars by lcms, (6, 3)."""
    converted = ImageCms.profileToProfile(
        bars(), ImageCms.ImageCmsProfile(io.BytesIO(cmyk_profile())),
        ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(converted)[12, 8::16].astype(int)
