"""Folders of originals and their low-resolution images, as super-resolution data sets have them.

    DF2K/HR/0001.png          DF2K/LR_bicubic/X4/0001x4.png       (template '{}x4')

Pairs are made by name, and sizes are read from the files' headers, so that thousands of images are
checked in seconds. Where there are no low-resolution images, ``imresize.make_low`` makes them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ImageError, UsageError
from .matlab_bicubic import imresize, make_low

__all__ = ["ImagePair", "check_template", "image_size", "list_images", "listed", "match_names",
           "pair_files", "read_rgb8"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_MAX_PIXELS = 1 << 27
_NAMED = 5  # of many files at fault, so many are named


@dataclass(frozen=True)
class ImagePair:
    """An original and its low-resolution image.

    high, low       files; no ``low``: it is made of the original
    scale           how many times larger the original is
    height, width   of the part of the original that is used, multiples of ``scale``
    corner          (top, left) of that part in the file
    larger          the pair of which this is a smaller version, see ``smaller``
    """

    high: Path
    low: Path | None
    scale: int
    height: int
    width: int
    corner: tuple[int, int] = (0, 0)
    larger: ImagePair | None = None

    def smaller(self, share: float) -> ImagePair:
        """This original at ``share`` of its size, in (0, 1): a photo has little detail at its
        finest, and more when it is made smaller. Only where the low-resolution image is made."""
        if self.low is not None:
            raise UsageError(f"{self.high}: has a low-resolution image of its own, {self.low}, so "
                             "it can not be used at other sizes; leave data.sizes out")
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
        """uint8 (height / scale, width / scale, 3); ``high``: what ``read_high`` gave, which saves
        reading it again where the low-resolution image has to be made. Raises ImageError."""
        if self.low is None:
            return make_low(self.read_high() if high is None else high, self.scale)
        return self._cut(read_rgb8(self.low), self.low, self.scale)

    def _cut(self, pixels: np.ndarray, file: Path, factor: int) -> np.ndarray:
        top, left, height, width = (side // factor for side in (*self.corner, self.height,
                                                                 self.width))
        if pixels.shape[0] < top + height or pixels.shape[1] < left + width:
            raise ImageError(f"{file}: has changed since it was checked; start again")
        return np.ascontiguousarray(pixels[top:top + height, left:left + width])


def list_images(folder: Path) -> list[Path]:
    """The images right in a folder, by name, without hidden ones. Raises UsageError for none."""
    try:
        found = sorted(path for path in folder.iterdir()
                       if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    except OSError as error:
        raise UsageError(f"{folder}: can not be read as a folder ({error.strerror})") from None
    if not found:
        raise UsageError(f"{folder}: has no photos ({', '.join(SUFFIXES)}); name a folder that has")
    return found


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header. Raises ImageError for a file that is no image of 8 bits."""
    with _opened(path) as image:
        return image.height, image.width


def read_rgb8(path: Path) -> np.ndarray:
    """uint8 (H, W, 3); grey becomes RGB, alpha and EXIF orientation are left out. Raises
    ImageError for a file that is no image, is damaged, or has samples of other than 8 bits."""
    try:
        with _opened(path) as image:
            return np.array(image.convert("RGB"))
    except ImageError:
        raise
    except Exception:  # decoders raise of every kind on damaged data
        raise _unreadable(path) from None


def check_template(template: str) -> None:
    """UsageError unless the template is a file name with one ``{}`` for the original's."""
    if template.count("{}") != 1 or "/" in template or "{" in template.replace("{}", ""):
        raise UsageError(f"template {template!r} must be a file name with one {{}} in it, such as "
                         "'{}x4': what stands there is the original's name without its extension")


def match_names(highs: Sequence[Path], lows: Sequence[Path],
                template: str) -> tuple[dict[Path, Path], list[Path], list[Path]]:
    """Partners by the template, and the files of either folder that have none."""
    by_stem = {path.stem: path for path in lows}
    found = {high: low for high in highs
             if (low := by_stem.get(template.replace("{}", high.stem))) is not None}
    taken = set(found.values())
    return found, [high for high in highs if high not in found], \
        [low for low in lows if low not in taken]


def pair_files(high: Path, low: Path | None, template: str, scale: int, *, cut: bool = False,
               smallest: int = 1, box: Sequence[int] = (),
               skip: Callable[[Path, str], None] | None = None) -> list[ImagePair]:
    """The pairs of a file or folder of originals, checked by their headers.

    low       file or folder of the low-resolution images; None: they are made
    template  how their names follow from the originals', without extensions
    cut       whether an original may exceed ``scale`` times its low-resolution image by less than
              ``scale`` pixels, which are cut off (as benchmarks are evaluated)
    smallest  least side of an original in pixels
    box       (top, left, height, width) of the part of every original that is used; all of it
              where empty
    skip      called with a file that can not be read and why, which is then left out; None: it is
              an error

    Raises UsageError, one sentence that names the files: an empty folder, names without a partner,
    two originals with one partner, sizes that do not fit the scale, images that are too small or,
    without ``skip``, unreadable, and a box that is not inside or, with low-resolution images, not
    on their pixels.
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
            pairs.append(_checked(file, partners.get(file), scale, cut, smallest, box))
        except ImageError as error:
            if skip is None:
                raise UsageError(str(error)) from None
            skip(file, str(error))
    if not pairs:
        raise UsageError(f"{high}: none of its images can be read; name another")
    return pairs


def _checked(high: Path, low: Path | None, scale: int, cut: bool, smallest: int,
             box: Sequence[int]) -> ImagePair:
    height, width = image_size(high)
    if low is not None:
        small = image_size(low)
        whole = height % scale == width % scale == 0
        if small != (height // scale, width // scale) or not (cut or whole):
            raise UsageError(f"{high} has {height}x{width} pixels and {low} {small[0]}x{small[1]}, "
                             f"which is not {scale} times less; give pairs that fit the scale")
    top, left, *part = box or (0, 0, height, width)
    if top + part[0] > height or left + part[1] > width:
        raise UsageError(f"{high}: box {list(box)} does not lie inside its {height}x{width} "
                         "pixels; correct it")
    if low is not None and (top % scale or left % scale):
        raise UsageError(f"{high}: box {list(box)} must begin at multiples of the scale {scale}, "
                         f"because {low} is given")
    used = [side // scale * scale for side in part]
    if min(used) < scale:
        raise UsageError(f"{high}: {part[0]}x{part[1]} pixels are less than one of a low-resolution "
                         f"image {scale} times smaller; leave it out")
    if min(used) < smallest:
        raise UsageError(f"{high}: {part[0]}x{part[1]} pixels are less than a crop of {smallest}; "
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
    return (f"{' and '.join(parts)}, going by the template {template!r}; complete the folders or "
            "correct the template")


def _check_distinct(partners: dict[Path, Path]) -> None:
    """UsageError where two originals, such as a.png and a.jpg, have one partner."""
    taken: dict[Path, Path] = {}
    for high, low in partners.items():
        first = taken.setdefault(low, high)
        if first is not high:
            raise UsageError(f"{first} and {high.name} beside it have one low-resolution image, "
                             f"{low}; keep the original that it was made of, and remove the other")


def listed(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    named = ", ".join(names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"


def _opened(path: Path):
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large image; the limit is checked here
            image = Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise _unreadable(path) from None
    reason = None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        reason = f"has samples (mode {image.mode}) of other than 8 bits; convert it first"
    elif image.width * image.height > _MAX_PIXELS:
        reason = f"has {image.width}x{image.height} pixels; at most {_MAX_PIXELS} are read"
    if reason is not None:
        image.close()
        raise ImageError(f"{path}: {reason}")
    return image


def _unreadable(path: Path) -> ImageError:
    if not path.is_file():
        return ImageError(f"{path}: does not exist or is not a file; correct the path")
    return ImageError(f"{path}: is no image that can be read; remove it or name another photo")
