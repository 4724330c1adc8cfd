"""Image files out: PNG, JPEG, WebP and TIFF, whole or absent."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import BidiffError, OutputError
from ..files import atomic_file, check_target
from . import sixteen_bit_write
from .convert import from_array, to_pil
from .image import EXTENSIONS, Image, to_8_bits
from .metadata import Metadata, jpeg_segments, png_header_chunks

__all__ = ["check_output", "write_image"]

_LONGEST_SIDE = {"PNG": (1 << 31) - 1, "JPEG": 65500, "WEBP": 16383, "TIFF": (1 << 32) - 1}
_AFTER_IHDR = 33  # signature and the first chunk of a PNG


def check_output(path: str | os.PathLike[str], overwrite: bool = False,
                 image: Image | None = None, scale: int = 1) -> str:
    """Whether ``image``, enlarged by ``scale``, may and can be written to ``path``.

    Returns the format's name. To be asked before the work is done: raises OutputError for an
    unknown extension, a place that can not be written or is taken, and an image that the format
    can not hold (too large, or transparent as JPEG).
    """
    shown = os.fspath(path)
    extension = os.path.splitext(shown)[1].lower()
    if extension not in EXTENSIONS:
        raise OutputError(f"can not write {shown}: images are written as "
                          f"{', '.join(EXTENSIONS)}, not as {extension or 'a name without one'}")
    kind = EXTENSIONS[extension]
    check_target(path, overwrite)
    if image is not None:
        if max(image.width, image.height) * scale > _LONGEST_SIDE[kind]:
            raise OutputError(f"can not write {shown}: {image.width * scale}x"
                              f"{image.height * scale} pixels are more than {kind} can hold; "
                              "choose .png")
        if kind == "JPEG" and image.alpha is not None:
            raise OutputError(f"can not write {shown}: JPEG has no transparency, which the image "
                              "has; choose .png or .webp")
    return kind


def write_image(path: str | os.PathLike[str], image: Image | np.ndarray, *,
                overwrite: bool = False,
                on_whole: Callable[[Path], None] | None = None) -> tuple[str, ...]:
    """Write an Image, or an array as ``from_array`` takes it, in the format of the extension.

    16-bit images stay so in PNG and TIFF, and are rounded to 8 bits in JPEG and WebP, which are
    written with quality 95. The file appears whole or not at all; ``on_whole`` is called with the
    temporary that has all of it, before it gets its name. Returns what of the metadata the format
    can not hold, in words. Raises OutputError as ``check_output`` does, and where writing fails.
    """
    if isinstance(image, np.ndarray):
        image = from_array(image)
    kind = check_output(path, overwrite, image)
    dropped: list[str] = []
    with atomic_file(path, overwrite) as temporary:
        try:
            with open(temporary, "wb") as file:
                _encode(file, image, kind, dropped)
        except (MemoryError, ValueError, SystemError, OSError) as error:
            if isinstance(error, BidiffError) or getattr(error, "errno", None):
                raise  # of the file; the others are the encoder's
            raise OutputError(f"can not write {os.fspath(path)} as {kind}: "
                              f"{str(error) or 'not enough memory'}") from None
        if on_whole is not None:
            on_whole(temporary)
    return tuple(dropped)


def _encode(file: BinaryIO, image: Image, kind: str, dropped: list[str]) -> None:
    image = replace(image, metadata=image.metadata.sized(image.width, image.height))
    if kind == "TIFF":
        sixteen_bit_write.write_tiff(file, image, dropped)
        return
    if kind == "PNG" and image.bits == 16:
        sixteen_bit_write.write_png(file, image)
        return
    metadata = image.metadata
    options: dict[str, Any] = {}
    if kind in ("JPEG", "WEBP"):
        options["quality"] = 95
        if kind == "WEBP" and image.grey and image.icc_profile:
            dropped.append("its colour profile is not kept: WebP is always RGB, and the profile is "
                           "of grey")
        elif image.icc_profile:
            options["icc_profile"] = image.icc_profile
    if kind == "JPEG":
        options["subsampling"] = 0  # halving the colour's resolution would undo our work
        if metadata.dpi:
            options["dpi"] = metadata.dpi
    if kind == "WEBP":
        options |= {name: body for name, body in (("exif", metadata.exif), ("xmp", metadata.xmp))
                    if body}
    # Through memory, since Pillow's own writing does not tell why it failed (a full disk).
    encoded = io.BytesIO()
    picture = to_pil(to_8_bits(replace(image, icc_profile=None, metadata=Metadata())))
    picture.save(encoded, format=kind, **options)
    content = encoded.getbuffer()
    if kind == "PNG":
        start, added = _AFTER_IHDR, png_header_chunks(metadata, image.icc_profile)
    elif kind == "JPEG":
        # After JFIF's segment, which has to be the first.
        start = 4 + int.from_bytes(content[4:6], "big") if content[2:4] == b"\xff\xe0" else 2
        added = jpeg_segments(metadata, dropped)
    else:
        start, added = 0, b""
    file.write(content[:start])
    file.write(added)
    file.write(content[start:])
