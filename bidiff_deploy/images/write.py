"""Writes image files: PNG, JPEG, WebP and TIFF, whole or not at all."""

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
from .image import EXTENSIONS, Image, is_opaque, to_8_bits
from .metadata import Metadata
from .metadata_write import fitted, jpeg_segments, png_header_chunks

__all__ = ["check_output", "write_image"]

_MAX_SIDE = {"PNG": (1 << 31) - 1, "JPEG": 65500, "WEBP": 16383, "TIFF": (1 << 32) - 1}
_AFTER_IHDR = 33  # signature and the first chunk of a PNG


def check_output(path: str | os.PathLike[str], overwrite: bool = False,
                 image: Image | None = None, size: tuple[int, int] | None = None) -> str:
    """The name of the format that ``image`` is written to ``path`` in, with the width and height
    of ``size``; None: with its own.

    Called before the work is done: raises OutputError for an unknown extension, a path that cannot
    be written or exists, and an image that the format cannot store (too large, or transparent as
    JPEG).
    """
    shown = os.fspath(path)
    extension = os.path.splitext(shown)[1].lower()
    if extension not in EXTENSIONS:
        raise OutputError(f"cannot write {shown}: {extension or 'a name without an extension'} is "
                          f"not supported; choose one of {', '.join(EXTENSIONS)}")
    kind = EXTENSIONS[extension]
    check_target(path, overwrite)
    if image is not None:
        width, height = size or (image.width, image.height)
        if max(width, height) > _MAX_SIDE[kind]:
            raise OutputError(f"cannot write {shown}: {width}x{height} pixels are more than {kind} "
                              "can store; choose .png")
        if kind == "JPEG" and not is_opaque(image):
            raise OutputError(f"cannot write {shown}: the image is transparent, which JPEG cannot "
                              "store; choose .png or .webp")
    return kind


def write_image(path: str | os.PathLike[str], image: Image | np.ndarray, *,
                overwrite: bool = False, quality: int | None = None,
                on_whole: Callable[[Path], None] | None = None) -> tuple[str, ...]:
    """Write an Image, or an array as ``from_array`` accepts it, in the format of the extension.

    16-bit images keep 16 bits in PNG and TIFF, and are rounded to 8 bits in JPEG and WebP.
    ``quality``, from 1 to 100, is that of JPEG and WebP; None: 95, or a WebP without losses if the
    image comes from one. Opaque alpha is left out in JPEG. The file appears whole or not at all;
    ``on_whole`` is called with the complete temporary file before it is renamed. Returns a sentence
    for each part of the metadata that the format cannot store. Raises OutputError as
    ``check_output`` does, and if writing fails.
    """
    if isinstance(image, np.ndarray):
        image = from_array(image)
    kind = check_output(path, overwrite, image)
    dropped: list[str] = []
    with atomic_file(path, overwrite) as temporary:
        try:
            with open(temporary, "wb") as file:
                _encode(file, image, kind, quality, dropped)
        except (MemoryError, ValueError, SystemError, OSError) as error:
            if isinstance(error, BidiffError) or getattr(error, "errno", None):
                raise  # the file's error; all others are the encoder's
            raise OutputError(f"cannot write {os.fspath(path)} as {kind}: "
                              f"{str(error) or 'not enough memory'}") from None
        if on_whole is not None:
            on_whole(temporary)
    return tuple(dropped)


def _encode(file: BinaryIO, image: Image, kind: str, quality: int | None,
            dropped: list[str]) -> None:
    profile = image.icc_profile
    if profile and image.grey and (kind == "WEBP" or kind == "TIFF" and image.alpha is not None):
        what = "WebP is always" if kind == "WEBP" else "TIFF with transparency is written as"
        dropped.append(f"its colour profile is not kept: {what} RGB, but the profile is for grey")
        profile = None
    metadata = fitted(image.metadata.sized(image.width, image.height), kind, profile is not None,
                      dropped)
    image = replace(image, metadata=metadata, icc_profile=profile)
    if kind == "TIFF":
        sixteen_bit_write.write_tiff(file, image)
        return
    if kind == "PNG" and image.bits == 16:
        sixteen_bit_write.write_png(file, image)
        return
    options: dict[str, Any] = {}
    if kind in ("JPEG", "WEBP"):
        options["quality"] = quality or 95
        if profile:
            options["icc_profile"] = profile
    if kind == "JPEG":
        options["subsampling"] = 0  # half the colour resolution would undo the upscaling
        image = replace(image, alpha=None)
        if metadata.dpi:
            options["dpi"] = metadata.dpi
    if kind == "WEBP":
        if image.lossless and quality is None:
            options |= {"lossless": True, "quality": 80}  # how hard it tries to be small
        options |= {name: body for name, body in (("exif", metadata.exif), ("xmp", metadata.xmp))
                    if body}
    # Through memory, because Pillow does not report why writing a file failed (a full disk).
    encoded = io.BytesIO()
    plain = to_pil(to_8_bits(replace(image, icc_profile=None, metadata=Metadata())))
    plain.save(encoded, format=kind, **options)
    content = encoded.getbuffer()
    if kind == "PNG":
        start, added = _AFTER_IHDR, png_header_chunks(metadata, profile)
    elif kind == "JPEG":
        # After JFIF's segment, which must be the first.
        jfif = bytes(content[2:4]) == b"\xff\xe0"
        start = 4 + int.from_bytes(content[4:6], "big") if jfif else 2
        added = jpeg_segments(metadata, dropped)
    else:
        start, added = 0, b""
    file.write(content[:start])
    file.write(added)
    file.write(content[start:])
