"""16 bits a sample: what Pillow can not decode in one go, and what it can not write.

Pillow unpacks a 16-bit colour sample to its high byte. It has unpackers for both byte orders, so
that unpacking the same bytes by the other order yields the low byte; the two together are the
whole sample. Its inflating, unfiltering and LZW are used for both, at the speed of C.

Formats: PNG (ISO/IEC 15948), TIFF 6.0.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from . import exif as exif_block
from ..errors import ImageError, OutputError
from .metadata import png_header_chunks
from .png_chunks import SIGNATURE, png_chunk, png_chunks

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from .image import Image

__all__ = ["read", "write_png", "write_tiff"]

Samples = tuple[np.ndarray, "np.ndarray | None"]  # pixels and alpha

_BLOCK_BYTES = 1 << 20  # rows are filtered and compressed about this much at a time


def read(opened: PillowImage, data: bytes) -> Samples | None:
    """The samples of a file that Pillow has opened, if it is one of 16-bit grey or colour.

    ``data``: the file. Returns uint16 (H, W, 1 or 3) and alpha, uint16 (H, W) or None; or None
    for another kind, to be decoded as usual. Raises ImageError for 16-bit kinds that can not be
    read, and what Pillow raises for damaged data.
    """
    if opened.format == "PNG" and len(data) > 28 and data[24] == 16:
        return _read_png(opened, data)
    if opened.format == "TIFF":
        bits = opened.tag_v2.get(258, (1,))
        bits = bits if isinstance(bits, tuple) else (bits,)
        if max(bits) > 8:
            return _read_tiff(opened, data, bits)
    return None


def _read_png(opened: PillowImage, data: bytes) -> Samples:
    from PIL import Image as pillow

    opened.load()  # checks the checksums, and reads what follows the pixels
    size, interlaced = opened.size, data[28]
    content = b"".join(data[start + 8:start + 8 + length]
                       for name, start, length in png_chunks(data) if name == b"IDAT")

    def unpacked(mode: str, raw_mode: str) -> np.ndarray:
        return np.asarray(pillow.frombytes(mode, size, content, "zip", (raw_mode, interlaced)))

    colour_type = data[25]
    alpha = None
    if colour_type == 4:  # four bytes a pixel, which pass through as if they were RGBA
        joined = _join(*np.moveaxis(unpacked("RGBA", "RGBA").reshape(*size[::-1], 2, 2), 3, 0))
        samples, alpha = joined[:, :, :1], joined[:, :, 1]
    elif colour_type == 0:
        samples = unpacked("I;16", "I;16B").astype(np.uint16)[:, :, None]
    else:
        mode = "RGBA" if colour_type == 6 else "RGB"
        joined = _join(unpacked(mode, f"{mode};16B"), unpacked(mode, f"{mode};16L"))
        samples, alpha = joined[:, :, :3], joined[:, :, 3] if colour_type == 6 else None
    key = opened.info.get("transparency")
    if alpha is None and key is not None:
        alpha = np.where((samples == np.array(key)).all(axis=2), 0, 65535).astype(np.uint16)
    return np.ascontiguousarray(samples), alpha


def _read_tiff(opened: PillowImage, data: bytes, bits: tuple[int, ...]) -> Samples | None:
    from PIL import Image as pillow

    photometric = opened.tag_v2.get(262)
    if opened.mode.startswith("I;16") and photometric in (0, 1) and bits[0] in (12, 16):
        opened.load()
        grey = np.asarray(opened).astype(np.uint16)
        if bits[0] == 12:
            grey = np.rint(np.minimum(grey, 4095) * (65535 / 4095)).astype(np.uint16)
        return (~grey if photometric == 0 else grey)[:, :, None], None
    if opened.mode not in ("RGB", "RGBA") or photometric != 2:
        return None  # refused or converted as every unusual kind
    if set(bits) == {16} and opened.tag_v2.get(284, 1) == 2:
        return _read_planar(opened, data)
    raw_modes = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in opened.tile}
    raw_mode = raw_modes.pop() if len(raw_modes) == 1 else ""
    base, _, order = raw_mode.rpartition(";")
    if (set(bits) != {16} or base not in ("RGB", "RGBA", "RGBX")
            or order not in ("16L", "16B", "16N")):
        raise ImageError("TIFF colour of more than 8 bits a sample is read only with 16 bits and "
                         "straight alpha; convert it first")
    native = "16L" if sys.byteorder == "little" else "16B"
    swapped = "16B" if (native if order == "16N" else order) == "16L" else "16L"
    with pillow.open(io.BytesIO(data), formats=("TIFF",)) as again:
        again.tile = [_with_raw_mode(tile, f"{base};{swapped}") for tile in again.tile]
        again.load()
        low = np.asarray(again)
    opened.load()
    joined = _join(np.asarray(opened), low)
    alpha = joined[:, :, 3] if base == "RGBA" else None
    return np.ascontiguousarray(joined[:, :, :3]), alpha


def _read_planar(opened: PillowImage, data: bytes) -> Samples:
    """Planes one after another, which Pillow reads with 8 bits only."""
    try:
        import tifffile
    except ImportError:
        raise ImageError("its 16-bit colours are not in contiguous samples, which needs the "
                         "package tifffile: pip install tifffile; or convert it first") from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        extra = [int(kind) for kind in page.extrasamples]
        # Pillow's size, which was checked, may be turned upright already.
        if (page.dtype != np.uint16 or len(page.shape) != 3 or page.shape[0] - len(extra) != 3
                or sorted(page.shape[1:]) != sorted(opened.size) or 1 in extra):
            raise ImageError("TIFF colour of separate planes is read only as RGB with straight "
                             "alpha; convert it first")
        planes = page.asarray(maxworkers=1)
    alpha = np.ascontiguousarray(planes[3 + extra.index(2)]) if 2 in extra else None
    return np.ascontiguousarray(np.moveaxis(planes[:3], 0, 2)), alpha


def _with_raw_mode(tile: tuple[Any, ...], raw_mode: str) -> tuple[Any, ...]:
    codec, extents, offset, arguments = tile
    changed = (codec, extents, offset, (raw_mode, *arguments[1:]))
    return changed if type(tile) is tuple else type(tile)(*changed)  # named since Pillow 11


def _join(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return (high.astype(np.uint16) << np.uint16(8)) | low


def write_png(file: BinaryIO, image: Image) -> None:
    """Write an Image of 16 bits as PNG, each row with the filter that leaves the least sum."""
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
    """uint8 (R, 1 + bytes): rows after PNG's filters 0, 1, 2 or 4, the filter's number first."""
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


def write_tiff(file: BinaryIO, image: Image, dropped: list[str]) -> None:
    """Write an Image of 8 or 16 bits as TIFF: strips, deflate, horizontal differences.

    Grey with alpha is written as RGB with alpha, since few readers know the former at 16 bits; a
    profile of grey does not fit that and is told in ``dropped``. Raises OutputError where offsets
    would pass the 4 GiB of the format.
    """
    samples = _samples(image)
    profile = image.icc_profile
    if samples.shape[2] == 2:
        samples = samples[:, :, [0, 0, 0, 1]]
        if profile:
            dropped.append("its colour profile is not kept: TIFF with transparency is written as "
                           "RGB, and the profile is of grey")
            profile = None
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
        raise OutputError("can not write a TIFF of more than 4 GiB; choose .png") from None
    file.write(block.content)
    file.seek(4)
    file.write(start)


def _tiff_metadata(image: Image) -> exif_block.Exif:
    """The directories that the metadata fills, values in little-endian order."""
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
    return exif


def _tiff_entry(code: str, values: Sequence[int]) -> exif_block.Entry:
    """Of TIFF's type BYTE (B), SHORT (H), LONG (I) or RATIONAL (II)."""
    kind = {"B": 1, "H": 3, "I": 4, "II": 5}[code]
    body = bytes(values) if code == "B" else struct.pack(f"<{len(values)}{code[0]}", *values)
    return exif_block.Entry(kind, len(values) // len(code), body)


def _samples(image: Image) -> np.ndarray:
    array = image.pixels
    return array if image.alpha is None else np.concatenate([array, image.alpha[:, :, None]], 2)
