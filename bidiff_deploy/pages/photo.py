"""A photo before and after, for a page: which part is shown, and as how many bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Resampling

from ..errors import ImageError
from ..images.read import read_image
from .pictures import busiest, data_uri
from .preview import cut, on_checkerboard, to_srgb

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from ..images.image import Image

Window = tuple[int, int, int, int]  # left, top, width, height

__all__ = ["MAX_PIXELS", "Photo", "view_photo"]

MAX_PIXELS = 4_000_000  # of each picture; of larger ones a part is shown
_PIXELS = (MAX_PIXELS, 2_000_000, 1_000_000, 500_000, 250_000, 120_000, 60_000, 30_000)
# Characters a pixel of all pictures that not even a smooth photo is below, with and without loss.
_LEAST_BYTES, _LOSSLESS_BYTES = 0.4, 1.5
_LOSSLESS_PIXELS = 1_000_000  # more take seconds
_QUALITIES = (95, 88)
_OVERVIEW_SIDE = 512  # pixels in which the part with the most edges is looked for
_REACH = 4  # input pixels that Lanczos uses around one
_ANY_SIZE = 1 << 62  # pixels: what was written before is read again, whatever its size


@dataclass(frozen=True)
class Photo:
    """A photo before and after.

    name, output   names of the two files
    before, after  their (width, height)
    part           of the output that is shown; None: all of it
    quality        of the pictures as JPEG; None: without loss
    notes          what is shown in another way than it is stored, in a few words, or None
    uris           the pictures, by "before" (not enlarged), "lanczos" and "after"
    """

    name: str
    output: str
    before: tuple[int, int]
    after: tuple[int, int]
    part: Window | None
    quality: int | None
    notes: str | None
    uris: dict[str, str] = field(repr=False)

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height of what is shown."""
        return self.after if self.part is None else self.part[2:]


def view_photo(source: Path, output: Path, budget: int) -> Photo:
    """The photo in the file ``source`` and what was made of it in ``output``, as pictures of at
    most ``budget`` characters together.

    Loses quality first, then shows less of it. Raises ImageError for files that cannot be read, or
    do not fit the budget.
    """
    low, high = read_image(source, _ANY_SIZE), read_image(output, _ANY_SIZE)
    for pixels in _PIXELS:
        if _LEAST_BYTES * pixels > budget:
            continue
        window = _window(low, high, pixels)
        part = _enlarged(window, low, high)
        pictures, notes = _pictures(low, high, window, part)
        area = part[2] * part[3]
        lossless = [None] if area <= min(_LOSSLESS_PIXELS, budget / _LOSSLESS_BYTES) else []
        for quality in (*lossless, *_QUALITIES):
            uris = {name: data_uri(picture, quality) for name, picture in pictures.items()}
            if sum(map(len, uris.values())) <= budget:
                whole = part[2:] == (high.width, high.height)
                return Photo(source.name, output.name, (low.width, low.height),
                             (high.width, high.height), None if whole else part, quality, notes,
                             uris)
    raise ImageError(f"{output} does not fit the page; name fewer photos")


def _window(low: Image, high: Image, pixels: int) -> Window:
    """The part of the input of which ``pixels`` are made, with the most edges; or all of it."""
    each = high.width * high.height / (low.width * low.height)
    share = (pixels / (each * low.width * low.height)) ** 0.5
    if share >= 1:
        return 0, 0, low.width, low.height
    # The shorter side first, which may be a single pixel.
    shorter = max(1, int(share * min(low.width, low.height)))
    longer = max(1, int(pixels / (each * shorter)))
    width, height = (longer, shorter) if low.width > low.height else (shorter, longer)
    step = -(-max(low.width, low.height) // _OVERVIEW_SIDE)
    top, left = busiest(low.pixels[::step, ::step], max(1, height // step), max(1, width // step))
    return (min(left * step, low.width - width), min(top * step, low.height - height), width,
            height)


def _enlarged(window: Window, low: Image, high: Image) -> Window:
    """The part of the output that is made of a window of the input."""
    across, down = high.width / low.width, high.height / low.height
    left, top, width, height = window
    left, right = round(left * across), round((left + width) * across)
    top, bottom = round(top * down), round((top + height) * down)
    return left, top, max(1, right - left), max(1, bottom - top)


def _pictures(low: Image, high: Image, window: Window, part: Window
              ) -> tuple[dict[str, PillowImage], str | None]:
    """The pictures by name, and what ``to_srgb`` notes."""
    after, visible, notes = to_srgb(cut(high, *part))
    # Lanczos also uses the pixels around the window, which seams at its borders would show.
    left, top, width, height = window
    around = (max(0, left - _REACH), max(0, top - _REACH),
              min(low.width, left + width + _REACH), min(low.height, top + height + _REACH))
    wide = cut(low, *around[:2], around[2] - around[0], around[3] - around[1])
    colours, alpha, _ = to_srgb(wide)
    box = (left - around[0], top - around[1])
    box = (*box, box[0] + width, box[1] + height)

    def lanczos(picture: PillowImage) -> PillowImage:
        return picture.resize(part[2:], Resampling.LANCZOS, box)

    return {
        "before": on_checkerboard(colours.crop(box), alpha and alpha.crop(box), part[2] / width),
        "lanczos": on_checkerboard(lanczos(colours), alpha and lanczos(alpha)),
        "after": on_checkerboard(after, visible)}, notes
