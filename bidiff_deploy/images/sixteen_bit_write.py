"""Writes 16-bit PNG and 8- or 16-bit TIFF, which Pillow cannot write with all we keep.

Formats: PNG (ISO/IEC 15948), TIFF 6.0.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from ..errors import OutputError
from . import exif as exif_block
from .image import Image, to_array
from .metadata_write import png_header_chunks
from .png_chunks import SIGNATURE, png_chunk

__all__ = ["write_png", "write_tiff"]

_BLOCK_BYTES = 1 << 20  # rows are filtered and compressed about this much at a time


def write_png(file: BinaryIO, image: Image) -> None:
    """Write an Image of 16 bits as PNG, each row with the filter of the smallest absolute sum."""
    samples = _samples(image)
    height, width, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file.write(SIGNATURE)
    file.write(png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)))
    file.write(png_header_chunks(image.metadata, image.icc_profile))
    compressor = zlib.compressobj(6)
    above = np.zeros((1, width * channels * 2), np.uint8)
    step = max(1, _BLOCK_BYTES // above.size)
    for top in range(0, height, step):
        rows = np.ascontiguousarray(samples[top:top + step], ">u2").view(np.uint8)
        rows = rows.reshape(len(rows), -1)
        part = compressor.compress(_filtered(rows, above, channels * 2).tobytes())
        if part:
            file.write(png_chunk(b"IDAT", part))
        above = rows[-1:]
    file.write(png_chunk(b"IDAT", compressor.flush()) + png_chunk(b"IEND", b""))


def _filtered(rows: np.ndarray, above: np.ndarray, stride: int) -> np.ndarray:
    """uint8 (rows, 1 + bytes): each row after PNG's filter 0, 1, 2 or 4, the filter's number first.
    """
    up = np.concatenate([above, rows[:-1]])
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, stride:], corner[:, stride:] = rows[:, :-stride], up[:, :-stride]
    a, b, c = left.astype(np.int16), up.astype(np.int16), corner.astype(np.int16)
    from_a, from_b, from_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    paeth = np.where((from_a <= from_b) & (from_a <= from_c), left,
                     np.where(from_b <= from_c, up, corner))
    candidates = {0: rows, 1: rows - left, 2: rows - up, 4: rows - paeth}  # modulo 256
    sums = np.stack([np.minimum(x, -x).sum(axis=1, dtype=np.int64) for x in candidates.values()])
    best = sums.argmin(axis=0)
    out = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    for index, (number, candidate) in enumerate(candidates.items()):
        chosen = best == index
        out[chosen, 0] = number
        out[chosen, 1:] = candidate[chosen]
    return out


def write_tiff(file: BinaryIO, image: Image) -> None:
    """Write an Image of 8 or 16 bits as TIFF: strips, deflate, horizontal differences.

    Grey with alpha is written as RGB with alpha, because few readers support the former at 16 bits.
    Raises OutputError if offsets would exceed the format's 4 GiB.
    """
    samples = _samples(image)
    profile = image.icc_profile
    if samples.shape[2] == 2:
        samples = samples[:, :, [0, 0, 0, 1]]
    height, width, channels = samples.shape
    step = max(1, _BLOCK_BYTES // (width * channels * samples.itemsize))
    file.write(b"II*\0" + bytes(4))
    offsets, lengths = [], []
    for top in range(0, height, step):
        rows = samples[top:top + step].astype(samples.dtype.newbyteorder("<"))
        rows[:, 1:] -= samples[top:top + step, :-1]  # modulo the type's range
        strip = zlib.compress(rows.tobytes(), 6)
        offsets.append(file.tell())
        lengths.append(len(strip))
        file.write(strip)
    try:
        exif = _tiff_metadata(image)
        main = exif.directories["image"]
        for tag, code, values in [
                (256, "I", [width]), (257, "I", [height]),
                (258, "H", [samples.itemsize * 8] * channels), (259, "H", [8]),
                (262, "H", [1 if channels == 1 else 2]), (273, "I", offsets),
                (277, "H", [channels]), (278, "I", [step]), (279, "I", lengths), (284, "H", [1]),
                (317, "H", [2]), (338, "H", [2] * (channels == 4)),  # straight alpha
                (339, "H", [1] * channels)]:
            if values:
                main[tag] = _tiff_entry(code, values)
        if profile:
            main[34675] = exif_block.Entry(7, len(profile), profile)
        block = exif_block.Block(file.tell())
        start = struct.pack("<I", exif_block.write_directories(exif, block))
    except struct.error:
        raise OutputError("cannot write a TIFF of more than 4 GiB; choose .png") from None
    file.write(block.content)
    file.seek(4)
    file.write(start)


def _tiff_metadata(image: Image) -> exif_block.Exif:
    """The EXIF directories of the image's metadata, values in little-endian order."""
    metadata = image.metadata
    exif = exif_block.parse(metadata.exif).little_endian() if metadata.exif else \
        exif_block.Exif("<")
    main = exif.directories["image"]
    if metadata.dpi:
        for tag, value in zip((282, 283), metadata.dpi):
            main[tag] = _tiff_entry("II", [round(value * 10000), 10000])
        main[296] = _tiff_entry("H", [2])  # inches
    if metadata.xmp:
        main[700] = _tiff_entry("B", metadata.xmp)
    if metadata.photoshop:
        main[34377] = exif_block.Entry(7, len(metadata.photoshop), metadata.photoshop)
    return exif


def _tiff_entry(code: str, values: Sequence[int]) -> exif_block.Entry:
    """Values of TIFF's type BYTE (B), SHORT (H), LONG (I) or RATIONAL (II)."""
    kind = {"B": 1, "H": 3, "I": 4, "II": 5}[code]
    body = bytes(values) if code == "B" else struct.pack(f"<{len(values)}{code[0]}", *values)
    return exif_block.Entry(kind, len(values) // len(code), body)


def _samples(image: Image) -> np.ndarray:
    """(H, W, C), alpha last."""
    return to_array(image).reshape(image.height, image.width, -1)
