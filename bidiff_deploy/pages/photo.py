"""A photo before and after, for a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Resampling

from ..errors import ImageError
from ..images.read import read_image
from .pictures import Encoded, Part, encode, part_of
from .preview import cut, on_checkerboard, to_srgb

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from ..images.image import Image

__all__ = ["Photo", "view_photo"]

_REACH = 4  # input pixels that Lanczos uses around one
_ANY_SIZE = 1 << 62  # pixels: what was written before is read again, whatever its size


@dataclass(frozen=True)
class Photo:
    """A photo before and after.

    name, output   names of the two files
    before, after  their (width, height)
    notes          what is shown in another way than it is stored, in a few words, or None
    shown          the pictures "before" (not enlarged), "lanczos" and "after"
    """

    name: str
    output: str
    before: tuple[int, int]
    after: tuple[int, int]
    notes: str | None
    shown: Encoded


def view_photo(source: Path, output: Path, budget: int) -> Photo:
    """The photo in the file ``source`` and what was made of it in ``output``, as pictures of at
    most ``budget`` characters together. Raises ImageError for files that cannot be read, or do not
    fit the budget."""
    low, high = read_image(source, _ANY_SIZE), read_image(output, _ANY_SIZE)
    each = high.width * high.height / (low.width * low.height)
    _, _, notes = to_srgb(cut(high, 0, 0, 1, 1))

    def pictures(pixels: int) -> tuple[Part, dict[str, PillowImage]]:
        window = part_of(low.pixels, pixels / each)
        part = _enlarged(window, low, high)
        return part, _pictures(low, high, window, part)

    shown = encode(pictures, budget)
    if shown is None:
        raise ImageError(f"{output} does not fit the page; name fewer photos")
    return Photo(source.name, output.name, (low.width, low.height), (high.width, high.height),
                 notes, shown)


def _enlarged(window: Part, low: Image, high: Image) -> Part:
    """The part of the output that is made of a window of the input."""
    across, down = high.width / low.width, high.height / low.height
    left, top, width, height = window
    left, right = round(left * across), round((left + width) * across)
    top, bottom = round(top * down), round((top + height) * down)
    return left, top, max(1, right - left), max(1, bottom - top)


def _pictures(low: Image, high: Image, window: Part, part: Part) -> dict[str, PillowImage]:
    after, visible, _ = to_srgb(cut(high, *part))
    # Lanczos also uses the pixels around the window, which seams at its borders would show.
    left, top, width, height = window
    around = (max(0, left - _REACH), max(0, top - _REACH),
              min(low.width, left + width + _REACH), min(low.height, top + height + _REACH))
    wide = cut(low, *around[:2], around[2] - around[0], around[3] - around[1])
    colours, alpha, _ = to_srgb(wide)
    box = (left - around[0], top - around[1], left - around[0] + width, top - around[1] + height)

    def lanczos(picture: PillowImage) -> PillowImage:
        return picture.resize(part[2:], Resampling.LANCZOS, box)

    before = on_checkerboard(colours.crop(box), alpha and alpha.crop(box), part[2] / width)
    if width > part[2]:  # an output that is smaller than its input
        before = before.resize(part[2:], Resampling.NEAREST)
    return {
        "before": before,
        "lanczos": on_checkerboard(lanczos(colours), alpha and lanczos(alpha)),
        "after": on_checkerboard(after, visible)}
