"""Image files in and out: PNG, JPEG, WebP and TIFF, 8 and 16 bit, grey, alpha and palette.

Pillow decodes and encodes (it is imported when first needed). It has no 16-bit colour, so
``deep_images`` gets the second byte of each sample out of it and writes such files itself; that
spares a second image library, whose wheels would be many times this package.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..errors import BidiffError, ImageError, OutputError
from ..files import atomic_file, check_target
from .metadata import (Metadata, from_file, from_pillow, jpeg_segments, png_header_chunks,
                       usable_profile)
from .resample import enlarge, pad_reflect, to_condition, to_unit

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["EXTENSIONS", "Image", "MAX_PIXELS", "Metadata", "check_output", "decode_image",
           "enlarge", "from_array", "from_pil", "pad_reflect", "read_bytes", "read_image",
           "to_array", "to_condition", "to_pil", "write_image"]

# Refused beyond this, so that a small file can not claim all memory. Pillow has a limit as well
# (PIL.Image.MAX_IMAGE_PIXELS; it refuses beyond twice that), which holds for files too.
MAX_PIXELS = 1 << 27
EXTENSIONS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF",
              ".tiff": "TIFF"}
_LONGEST_SIDE = {"PNG": (1 << 31) - 1, "JPEG": 65500, "WEBP": 16383, "TIFF": (1 << 32) - 1}
_ORIENTATION = 0x0112  # EXIF tag
_AFTER_IHDR = 33  # signature and the first chunk of a PNG


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded image, upright.

    pixels       (H, W, 3) RGB or (H, W, 1) grey, uint8 or uint16 using the type's whole range
    alpha        (H, W) of the same type, or None; colours are not premultiplied with it
    icc_profile  the colour profile that ``pixels`` refer to, or None for sRGB
    metadata     EXIF, XMP and resolution
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    metadata: Metadata = Metadata()

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def bits(self) -> int:
        return self.pixels.dtype.itemsize * 8

    @property
    def grey(self) -> bool:
        return self.pixels.shape[2] == 1

    def enlarged(self, sample: np.ndarray, scale: int) -> Image:
        """The image that a network's output stands for, in this one's form.

        ``sample``: float32 (3, H * scale, W * scale) in [0, 1]. All but pixels is kept. A grey
        image becomes the mean of the three channels: each estimates the same value with noise of
        its own, so the plain mean has the least of it. Alpha is enlarged by bicubic.
        """
        planes = sample.mean(axis=0, keepdims=True) if self.grey else sample
        alpha = self.alpha
        if alpha is not None:
            alpha = _quantise(enlarge(to_unit(alpha), scale), alpha.dtype)
        return replace(self, pixels=_quantise(planes.transpose(1, 2, 0), self.pixels.dtype),
                       alpha=alpha)


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a PNG, JPEG, WebP or TIFF file, known by its content and not by its name.

    EXIF orientation is applied, palettes are expanded, a transparent colour becomes alpha, other
    colour spaces (CMYK, Lab) are converted to RGB, and of several frames the first is taken.
    16-bit grey and RGB keep their 16 bits. Metadata that is broken is left out, and told by
    ``metadata.dropped``. Raises ImageError for a file that is missing, empty, damaged, no such
    image, of float samples, or larger than ``max_pixels``.
    """
    return decode_image(read_bytes(path), path, max_pixels)


def decode_image(data: bytes, path: str | os.PathLike[str],
                 max_pixels: int = MAX_PIXELS) -> Image:
    """``read_image`` of a file's bytes; ``path`` is what errors call it."""
    shown = os.fspath(path)
    from PIL import UnidentifiedImageError
    from PIL import Image as pillow

    from . import sixteen_bit as deep_images, png_chunks

    chunks: dict[bytes, bytes] = {}
    if data.startswith(png_chunks.SIGNATURE):
        # Pillow would refuse the picture for what is wrong with its metadata.
        data, chunks = png_chunks.split(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that is not used; limits are checked below
        try:
            with pillow.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF")) as opened:
                if opened.width * opened.height > max_pixels:
                    raise ImageError(f"{shown} has {opened.width}x{opened.height} pixels; at most "
                                     f"{max_pixels} are read")
                metadata, profile, orientation = from_file(opened, chunks, data)
                deep = deep_images.read(opened, data)
                image = _decode(opened, data, profile) if deep is None else Image(*deep, profile)
                if orientation is None:
                    orientation = _orientation(opened)
                return _upright(_with_metadata(image, metadata), orientation)
        except ImageError as error:
            raise error if shown in str(error) else ImageError(f"{shown}: {error}") from None
        except UnidentifiedImageError:
            raise ImageError(f"{shown} is not a PNG, JPEG, WebP or TIFF image, or is damaged") \
                from None
        except pillow.DecompressionBombError as error:
            raise ImageError(f"{shown} is too large: {error}") from None
        except MemoryError:
            raise ImageError(f"there is not enough memory to read {shown}") from None
        except Exception as error:  # decoders raise of every kind on damaged data
            raise ImageError(f"{shown} can not be decoded, it is damaged or of an unsupported "
                             f"kind ({str(error) or type(error).__name__})") from None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file that is not empty; ImageError in a sentence."""
    shown = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(shown).st_mode):
            raise ImageError(f"{shown} is not a file")
        data = Path(shown).read_bytes()
    except MemoryError:
        raise ImageError(f"there is not enough memory to read {shown}") from None
    except FileNotFoundError:
        raise ImageError(f"{shown} does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{shown!r} can not be read: {reason}") from None
    if not data:
        raise ImageError(f"{shown} is empty (0 bytes), so it is no image")
    return data


def _decode(opened: PillowImage, data: bytes, profile: bytes | None) -> Image:
    """8 bits a sample, as Pillow decodes it; ``data`` is the file's, where it is one."""
    opened.load()
    mode = opened.mode
    if mode in ("F", "I") or mode.startswith("I;"):
        raise ImageError(f"its samples (mode {mode}) are not 8 or 16 bit whole numbers; convert "
                         "it first")
    if mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        profile = None  # it describes the colour space that is left here
        opened, mode = opened.convert("RGB"), "RGB"
    key = opened.info.get("transparency")
    if mode in ("1", "L", "LA", "La"):
        if isinstance(key, int) and mode in ("1", "L"):
            grey = np.asarray(opened.convert("L"))
            if mode == "1":
                key = 255 if key else 0  # by Pillow's version it is 1 or 255
            elif opened.format == "PNG" and len(data) > 24 and data[24] < 8:
                key *= 255 // ((1 << data[24]) - 1)  # Pillow scales the samples, but not the key
            return Image(grey[:, :, None], np.where(grey == key, 0, 255).astype(np.uint8), profile)
        if mode in ("LA", "La"):
            both = np.asarray(opened.convert("LA"))
            return Image(both[:, :, :1].copy(), both[:, :, 1].copy(), profile)
        return Image(np.array(opened.convert("L"))[:, :, None], None, profile)
    if mode in ("PA", "RGBA", "RGBa") or key is not None:
        colour = np.asarray(opened.convert("RGBA"))
        return Image(colour[:, :, :3].copy(), colour[:, :, 3].copy(), profile)
    return Image(np.array(opened.convert("RGB")), None, profile)


def _with_metadata(image: Image, metadata: Metadata) -> Image:
    if not usable_profile(image.icc_profile, image.grey):
        reason = f"it is broken, or not of {'grey' if image.grey else 'RGB'} samples"
        return replace(image, icc_profile=None, metadata=replace(metadata, dropped=(
            *metadata.dropped, f"its colour profile is not kept: {reason}")))
    return replace(image, metadata=metadata)


def _orientation(opened: PillowImage) -> int:
    try:
        return opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to refuse a whole picture
        return 1


def _upright(image: Image, orientation: int) -> Image:
    turns = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
             5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
             7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: np.rot90(a)}
    if orientation not in turns:
        return image
    turn = turns[orientation]
    alpha = None if image.alpha is None else np.ascontiguousarray(turn(image.alpha))
    return replace(image, pixels=np.ascontiguousarray(turn(image.pixels)), alpha=alpha)


def from_pil(picture: PillowImage) -> Image:
    """An Image from a Pillow image of any mode but floats and 32-bit integers (ImageError)."""
    if picture.mode.startswith("I;16"):
        picture.load()
        wide = np.asarray(picture).astype(np.uint16)  # in native byte order
        image = Image(wide[:, :, None], None, picture.info.get("icc_profile") or None)
    else:
        image = _decode(picture, b"", picture.info.get("icc_profile") or None)
    return _upright(replace(image, metadata=from_pillow(picture)), _orientation(picture))


def to_pil(image: Image) -> PillowImage:
    """A Pillow image of mode L, LA, RGB, RGBA, or I;16 for 16-bit grey.

    Pillow has no other 16-bit modes: other images of 16 bits are rounded to 8.
    """
    from PIL import Image as pillow

    if image.bits == 16 and not (image.grey and image.alpha is None):
        image = _to_8_bits(image)
    array = to_array(image)
    if array.ndim == 3 and array.shape[2] == 2:
        picture = pillow.merge("LA", [pillow.fromarray(np.ascontiguousarray(array[:, :, i]))
                                      for i in range(2)])
    else:
        picture = pillow.fromarray(array)
    if image.icc_profile:
        picture.info["icc_profile"] = image.icc_profile
    exif = image.metadata.sized(image.width, image.height).exif
    if exif:
        picture.info["exif"] = b"Exif\0\0" + exif
    return picture


def from_array(array: np.ndarray) -> Image:
    """An Image from uint8 or uint16 (H, W), (H, W, 3) or, with alpha, (H, W, 4). ImageError else.
    """
    if array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise ImageError(f"an image array of type {array.dtype} is not supported; give uint8 or "
                         "uint16")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ImageError(f"an image array of shape {array.shape} is not supported; give (height, "
                         "width), (height, width, 3) or (height, width, 4)")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 2:
        return Image(array[:, :, None])
    return Image(array[:, :, :3], array[:, :, 3] if array.shape[2] == 4 else None)


def to_array(image: Image) -> np.ndarray:
    """(H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha."""
    if image.alpha is not None:
        return np.concatenate([image.pixels, image.alpha[:, :, None]], axis=2)
    return np.ascontiguousarray(image.pixels[:, :, 0] if image.grey else image.pixels)


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
    from . import sixteen_bit as deep_images

    image = replace(image, metadata=image.metadata.sized(image.width, image.height))
    if kind == "TIFF":
        deep_images.write_tiff(file, image, dropped)
        return
    if kind == "PNG" and image.bits == 16:
        deep_images.write_png(file, image)
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
    picture = to_pil(_to_8_bits(replace(image, icc_profile=None, metadata=Metadata())))
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


def _to_8_bits(image: Image) -> Image:
    if image.bits == 8:
        return image

    def narrow(array: np.ndarray | None) -> np.ndarray | None:  # 65535 / 257 = 255
        return None if array is None else ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)

    return replace(image, pixels=narrow(image.pixels), alpha=narrow(image.alpha))


def _quantise(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    top = np.float32(np.iinfo(dtype).max)
    return np.rint(np.clip(values, np.float32(0), np.float32(1)) * top).astype(dtype)
