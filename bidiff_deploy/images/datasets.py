"""Pairs of originals and low-resolution images in folders, as super-resolution data sets have them.

    DF2K/HR/0001.png          DF2K/LR_bicubic/X4/0001x4.png       (template '{}x4')

Pairs are found by name, and sizes are read from the files' headers, so that thousands of images are
checked in seconds. Without low-resolution images, ``matlab_bicubic.make_low`` makes them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError, UsageError
from .decode import to_rgb
from .image import EXTENSIONS
from .matlab_bicubic import imresize, make_low
from .read import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["ImagePair", "check_template", "image_size", "list_images", "listed", "match_names",
           "pair_files", "read_rgb8"]

SUFFIXES = (*EXTENSIONS, ".bmp")
_MAX_NAMED = 5  # files that one error message lists


@dataclass(frozen=True)
class ImagePair:
    """An original and its low-resolution image.

    high, low       files; ``low`` is None if it is computed from the original
    scale           how many times larger the original is
    height, width   of the part of the original that is used, multiples of ``scale``
    corner          (top, left) of that part in the file
    larger          the pair that this is a smaller version of, see ``smaller``
    """

    high: Path
    low: Path | None
    scale: int
    height: int
    width: int
    corner: tuple[int, int] = (0, 0)
    larger: ImagePair | None = None

    def smaller(self, share: float) -> ImagePair:
        """The pair with the original resized to ``share`` of its size, in (0, 1): a photo has
        little detail per pixel at full size, and more when it is smaller. Raises UsageError if
        there is a file of the low-resolution image."""
        if self.low is not None:
            raise UsageError(f"{self.high} has a low-resolution image, {self.low}, so it cannot be "
                             "used at other sizes; leave data.sizes out")
        height, width = (round(side * share) // self.scale * self.scale
                         for side in (self.height, self.width))
        return dataclasses.replace(self, height=height, width=width, corner=(0, 0), larger=self)

    @property
    def name(self) -> str:
        return self.high.name

    def read_high(self) -> np.ndarray:
        """uint8 (height, width, 3). Raises ImageError."""
        if self.larger is not None:
            return imresize(self.larger.read_high(), self.height, self.width)
        return self._cut(read_rgb8(self.high), self.high, 1)

    def read_low(self, high: np.ndarray | None = None) -> np.ndarray:
        """uint8 (height / scale, width / scale, 3). ``high``: the result of ``read_high``, so that
        it is not read again to compute the low-resolution image. Raises ImageError."""
        if self.low is None:
            return make_low(self.read_high() if high is None else high, self.scale)
        return self._cut(read_rgb8(self.low), self.low, self.scale)

    def _cut(self, pixels: np.ndarray, file: Path, factor: int) -> np.ndarray:
        top, left, height, width = (side // factor for side in (*self.corner, self.height,
                                                                 self.width))
        if pixels.shape[0] < top + height or pixels.shape[1] < left + width:
            raise ImageError(f"{file} has changed since it was checked; start again")
        return np.ascontiguousarray(pixels[top:top + height, left:left + width])


def list_images(folder: Path) -> list[Path]:
    """The images in a folder, not in its subfolders, sorted by name, without hidden ones. Raises
    UsageError if there are none."""
    try:
        found = sorted(path for path in folder.iterdir()
                       if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    except OSError as error:
        raise UsageError(f"{folder} cannot be read as a folder ({error.strerror})") from None
    if not found:
        raise UsageError(f"{folder} contains no images ({', '.join(SUFFIXES)}); name another")
    return found


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header. Raises ImageError for a file that is not an 8-bit image."""
    with _opened(path) as image:
        return image.height, image.width


def read_rgb8(path: Path) -> np.ndarray:
    """uint8 (H, W, 3); grey becomes RGB, CMYK becomes sRGB by its profile, alpha and EXIF
    orientation are ignored. Raises ImageError for a file that is not an image, is damaged, or does
    not have 8 bits a sample."""
    try:
        with _opened(path) as image:
            return np.array(to_rgb(image, image.info.get("icc_profile"))[0])
    except ImageError:
        raise
    except Exception:  # decoders raise all kinds of errors on damaged data
        raise _unreadable(path) from None


def check_template(template: str) -> None:
    """Raises UsageError unless the template is a file name with one ``{}``, which is replaced by
    the original's name."""
    if template.count("{}") != 1 or "/" in template or "{" in template.replace("{}", ""):
        raise UsageError(f"template {template!r} must be a file name with one {{}}, such as "
                         "'{}x4': {} is replaced by the original's name without its extension")


def match_names(highs: Sequence[Path], lows: Sequence[Path],
                template: str) -> tuple[dict[Path, Path], list[Path], list[Path]]:
    """{original: low-resolution image} by the template, and the originals and the low-resolution
    images without a partner."""
    by_stem = {path.stem: path for path in lows}
    found = {high: low for high in highs
             if (low := by_stem.get(template.replace("{}", high.stem))) is not None}
    taken = set(found.values())
    return found, [high for high in highs if high not in found], \
        [low for low in lows if low not in taken]


def pair_files(high: Path, low: Path | None, template: str, scale: int, *, cut: bool = False,
               min_size: int = 1, box: Sequence[int] = (),
               skip: Callable[[Path, str], None] | None = None) -> list[ImagePair]:
    """The pairs of a file or folder of originals, checked by their headers.

    low       file or folder of the low-resolution images; None: they are computed
    template  how their names follow from the originals', without extensions
    cut       whether an original may exceed ``scale`` times its low-resolution image by less than
              ``scale`` pixels, which are cropped (as benchmarks are evaluated)
    min_size  smallest side of an original in pixels
    box       (top, left, height, width) of the part of every original that is used; empty: all
    skip      called with a file that cannot be read and the reason; the file is then left out.
              None: such a file is an error

    Raises UsageError that names the files: an empty folder, names without a partner, two originals
    with one partner, sizes that do not fit the scale, images that are too small or, without
    ``skip``, unreadable, and a box that is outside an original or, with low-resolution images, not
    aligned to their pixels.
    """
    check_template(template)
    highs = list_images(high) if high.is_dir() else [high]
    partners: dict[Path, Path] = {}
    if low is not None:
        if low.is_dir() != high.is_dir():
            raise UsageError(f"{low} must be a folder if {high} is one, and a file if it is a file")
        if low.is_dir():
            partners, alone, spare = match_names(highs, list_images(low), template)
            if alone or spare:
                raise UsageError(_unpaired(high, low, template, alone, spare))
            _check_distinct(partners)
        else:
            partners = {high: low}
    pairs = []
    for file in highs:
        try:
            pairs.append(_checked(file, partners.get(file), scale, cut, min_size, box))
        except ImageError as error:
            if skip is None:
                raise UsageError(str(error)) from None
            skip(file, str(error))
    if not pairs:
        raise UsageError(f"none of the images in {high} can be read; name another")
    return pairs


def _checked(high: Path, low: Path | None, scale: int, cut: bool, min_size: int,
             box: Sequence[int]) -> ImagePair:
    height, width = image_size(high)
    if low is not None:
        small = image_size(low)
        whole = height % scale == width % scale == 0
        if small != (height // scale, width // scale) or not (cut or whole):
            raise UsageError(f"{high} has {height}x{width} pixels, which is not {scale} times the "
                             f"{small[0]}x{small[1]} of {low}; give pairs that fit the scale")
    top, left, rows, columns = box or (0, 0, height, width)
    if top + rows > height or left + columns > width:
        raise UsageError(f"{high}: box {list(box)} is not inside the image's {height}x{width} "
                         "pixels; correct it")
    if low is not None and (top % scale or left % scale):
        raise UsageError(f"{high}: box {list(box)} must begin at multiples of the scale {scale}, "
                         f"because {low} is given")
    used = rows // scale * scale, columns // scale * scale
    if min(used) < scale:
        raise UsageError(f"{high}: {rows}x{columns} pixels are less than one pixel of a "
                         f"low-resolution image {scale} times smaller; leave it out")
    if min(used) < min_size:
        raise UsageError(f"{high}: {rows}x{columns} pixels are less than a crop of {min_size}; "
                         "use a larger photo or a smaller crop")
    return ImagePair(high, low, scale, *used, corner=(top, left))


def _unpaired(high: Path, low: Path, template: str, alone: list[Path], spare: list[Path]) -> str:
    parts = []
    for files, folder, reason in ((alone, high, f"no partner in {low}"),
                                  (spare, low, f"none in {high}" if alone else
                                   f"no partner in {high}")):
        if files:
            have = "has" if len(files) == 1 else "have"
            parts.append(f"{listed([path.name for path in files])} of {folder} {have} {reason}")
    return (f"{' and '.join(parts)} by the template {template!r}; complete the folders or correct "
            "the template")


def _check_distinct(partners: dict[Path, Path]) -> None:
    """Raises UsageError if two originals, such as a.png and a.jpg, have one partner."""
    taken: dict[Path, Path] = {}
    for high, low in partners.items():
        first = taken.setdefault(low, high)
        if first is not high:
            raise UsageError(f"{first} and {high.name} in the same folder share one low-resolution "
                             f"image, {low}; keep the original it was made from, and remove the "
                             "other")


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    named = ", ".join(names[:_MAX_NAMED])
    return named if len(names) <= _MAX_NAMED else f"{named} and {len(names) - _MAX_NAMED} more"


def _opened(path: Path) -> PillowImage:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images; the size is checked below
            image = Image.open(path)
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has too many pixels; at most {MAX_PIXELS} are read") from None
    except (OSError, ValueError, SyntaxError):
        raise _unreadable(path) from None
    reason = None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        reason = f"samples (mode {image.mode}) that do not have 8 bits; convert it first"
    elif image.width * image.height > MAX_PIXELS:
        reason = f"{image.width}x{image.height} pixels; at most {MAX_PIXELS} are read"
    if reason is not None:
        image.close()
        raise ImageError(f"{path} has {reason}")
    return image


def _unreadable(path: Path) -> ImageError:
    if not path.is_file():
        return ImageError(f"{path} does not exist or is not a file; correct the path")
    return ImageError(f"{path} cannot be read as an image; remove it or name another")
