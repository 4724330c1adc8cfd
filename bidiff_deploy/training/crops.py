"""Pairs of a high-resolution crop and its low-resolution image or condition.

Low-resolution images come from their own folder, or are made as Matlab's imresize makes them
(``images.matlab_bicubic``), 8 bits, or as ``degrade`` does. The condition is what the runtime
computes from such an image.

Crop number i of a run depends only on the run's seed and on i, and, of several scales, on that of
its batch, which ``draws.drawn_scale`` draws. The batch of iteration k is crops
k * batch to (k + 1) * batch, of which each of n ranks takes its part, so a resumed run continues
with the same crops, whatever its number of processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ImageError, UsageError
from ..images.datasets import ImagePair
from ..images.resample import source_crop, to_condition, to_unit
from ..progress import Progress
from .decoded import DecodedPhotos, Planes
from .degrade import MARGIN, degraded
from .draws import drawn_scale
from .photos import find_sources
from .recipe import Recipe
from .recipe_parts import Data

__all__ = ["CONDITION", "LOW", "Crops", "open_crops"]

CONDITION, LOW = "condition", "low"  # inputs of a network
_MAX_THREADS = 16  # for decoding before training

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class _Place:
    """Where a crop is cut, in output pixels, and how it is augmented."""

    pair: ImagePair
    planes: Planes
    top: int
    left: int
    turns: int
    flip: bool
    colors: npt.NDArray[np.int64]


def open_crops(recipe: Recipe, folder: Path, rank: int = 0, ranks: int = 1,
               say: Callable[[str], object] | None = None, given: str = CONDITION) -> Crops:
    """The crops of a recipe: its photos are found, checked, and decoded if they can be kept.

    ``given``: the network's input, see ``Crops``. The ``ranks`` processes share memory and, with a
    cache, the work; only rank 0 reports progress and photos that are left out, to ``say`` (default:
    stderr). Raises UsageError for photos that cannot be used, OutputError for a cache that cannot
    be written.
    """
    say = (lambda line: None) if rank else say or (
        lambda line: print(line, file=sys.stderr, flush=True))
    data, loading = recipe.data, recipe.loading

    def skip(_: Path, reason: str) -> None:
        if not data.skip_unreadable:
            raise UsageError(f"{reason}, or set data.skip_unreadable")
        say(f"left out: {reason}")

    sources = [source for scale in recipe.scales
               for source in find_sources(data.train, folder, scale, data.crop, skip=skip,
                                          sizes=data.sizes)]
    photos = DecodedPhotos([source.files for source in sources],
                           int(loading.memory_gb * 1e9 / ranks),
                           folder / loading.cache if loading.cache else None)
    crops = Crops(photos, data, seed=recipe.run.seed,
                  weights=[source.weight for source in sources], given=given)
    if photos.cache is None and not photos.fits:
        say(f"decoded photos take {photos.decoded_bytes * ranks / 1e9:.1f} GB, more than "
            f"loading.memory_gb={loading.memory_gb:g}: photos are decoded repeatedly; set "
            "loading.cache to a folder to avoid it")
    with Progress("photos", len(sources), quiet=bool(rank)) as progress:
        photos.prepare(min(max(loading.workers, 1), _MAX_THREADS),
                       first=rank * len(sources) // ranks, skip=data.skip_unreadable,
                       on_photo=lambda done, _: progress.update(done))
    for reason in photos.unreadable.values():
        say(f"left out: {reason}")
    return crops


class Crops:
    """Endless random crops of photos, each a pure function of its number.

    photos   decoded pairs, of one scale or several; every side is at least ``data.crop``
    weights  how often each is drawn, relative to the others of its scale; equally by default
    given    the network's input: CONDITION, the low-resolution image enlarged to the crop's size,
             or LOW, that image itself, crop / scale pixels a side; only for aligned crops
    """

    def __init__(self, photos: DecodedPhotos, data: Data, *, seed: int = 0,
                 weights: Sequence[float] = (), given: str = CONDITION) -> None:
        if given == LOW and not data.aligned:
            raise UsageError("data.aligned must be true for a feed-forward network, whose input is "
                             "a crop of the low-resolution image; set it to true")
        self.given = given
        self.photos = photos
        self.data = data
        self._seed = seed % (1 << 64)
        shares = np.asarray(weights or [1.0] * len(photos.pairs), np.float64)
        scale_of = np.array([pair.scale for pair in photos.pairs])
        self.scales = tuple(sorted(set(scale_of.tolist())))
        self._indices = {scale: np.flatnonzero(scale_of == scale) for scale in self.scales}
        self._bounds = {scale: np.cumsum(shares[indices] / shares[indices].sum())
                        for scale, indices in self._indices.items()}

    def batch(self, first: int, count: int, scale: int | None = None) -> tuple[Tensor, Tensor]:
        """Photos and inputs of crops ``first`` to ``first + count``: float32 (count, 3, crop, crop)
        each, photos in [0, 1]; LOW is smaller by the scale. ``scale``: one of ``scales``, by
        default the first. Raises UsageError for a damaged photo."""
        crops = [self.crop(index, scale) for index in range(first, first + count)]
        photos, inputs = (torch.from_numpy(np.stack(part)) for part in zip(*crops))
        return photos.float().div_(255), inputs

    def batch_of(self, iteration: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """``batch`` at the scale of an iteration."""
        return self.batch(first, count, drawn_scale(self.scales, self._seed, iteration))

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``batch`` crops from a number that ``generator`` draws."""
        return self.batch(int(torch.randint(1 << 62, (), generator=generator)), batch)

    def crop(self, index: int, scale: int | None = None) -> tuple[Pixels, Floats]:
        """Crop number ``index``: the photo, uint8 (3, crop, crop), and the input, float32."""
        if self.data.crops:
            index %= self.data.crops
        random = np.random.Generator(np.random.Philox(key=(index << 64) | self._seed))
        scale = scale or self.scales[0]
        places = [self._place(random, scale) for _ in range(self.data.candidates)]
        crops = [self._cut(place, *self._low(place, None)) for place in places]
        best = int(np.argmax([np.square(photo / np.float32(255) - condition).sum()
                              for photo, condition, _ in crops])) if len(crops) > 1 else 0
        photo, condition, low = crops[best]
        if self.data.degrade.kernels:
            photo, condition, low = self._cut(places[best], *self._low(places[best], random))
        return photo, low if self.given == LOW else condition

    def _place(self, random: np.random.Generator, scale: int) -> _Place:
        pair, planes = self._photo(random, scale)
        data, size = self.data, self.data.crop
        unit = pair.scale if data.aligned else 1
        top, left = (int(random.integers((side - size) // unit + 1)) * unit
                     for side in (pair.height, pair.width))
        turns = int(random.integers(4)) if data.rotate else 0
        flip = bool(random.integers(2)) if data.flip else False
        colors = random.permutation(3) if data.shuffle_colors else np.arange(3)
        return _Place(pair, planes, top, left, turns, flip, colors)

    def _low(self, place: _Place,
             random: np.random.Generator | None) -> tuple[Pixels, int, int]:
        """The low-resolution pixels that the crop's condition depends on, and the crop's top and
        left in output pixels from the first of them; ``random``: degraded."""
        pair, (high, low), size = place.pair, place.planes, self.data.crop
        scale = pair.scale
        rows, above = source_crop(place.top, size, scale, pair.height // scale)
        columns, before = source_crop(place.left, size, scale, pair.width // scale)
        if random is None:
            return low.window(rows.start, columns.start, rows.stop - rows.start,
                              columns.stop - columns.start), above, before
        # A margin of random size, so that JPEG's blocks begin anywhere.
        first, last, start, stop = (
            max(rows.start - MARGIN + int(random.integers(8)), 0),
            min(rows.stop + MARGIN, pair.height // scale),
            max(columns.start - MARGIN + int(random.integers(8)), 0),
            min(columns.stop + MARGIN, pair.width // scale))
        window = high.window(first * scale, start * scale, (last - first) * scale,
                             (stop - start) * scale)
        small = degraded(window, scale, self.data.degrade, random)
        return small[rows.start - first:rows.stop - first,
                     columns.start - start:columns.stop - start], above, before

    def _cut(self, place: _Place, small: Pixels, above: int,
             before: int) -> tuple[Pixels, Floats, Floats]:
        """The photo, uint8, its condition and low-resolution image, float32, augmented alike."""
        size, scale = self.data.crop, place.pair.scale
        # Enlarged from the pixels it depends on; equal to a crop of the whole condition.
        condition = to_condition(small, scale)[:, above:above + size, before:before + size]
        photo = place.planes[0].window(place.top, place.left, size, size).transpose(2, 0, 1)

        def augment(image: npt.NDArray[T]) -> npt.NDArray[T]:
            image = np.rot90(image[place.colors], place.turns, (1, 2))
            return np.ascontiguousarray(image[:, :, ::-1] if place.flip else image)

        small = small[above // scale:, before // scale:][:size // scale, :size // scale]
        return augment(photo), augment(condition), augment(to_unit(small).transpose(2, 0, 1))

    def _photo(self, random: np.random.Generator, scale: int) -> tuple[ImagePair, Planes]:
        bounds, indices = self._bounds[scale], self._indices[scale]
        while True:
            found = int(np.searchsorted(bounds, random.random(), side="right"))
            index = int(indices[min(found, len(bounds) - 1)])
            try:
                return self.photos.pairs[index], self.photos[index]
            except ImageError as error:
                if not self.data.skip_unreadable:
                    raise UsageError(f"{error}, or set data.skip_unreadable") from None
                # Drawn again from the same stream, so that every process gets the same crop.
                self.photos.unreadable[index] = str(error)
                if set(indices.tolist()) <= set(self.photos.unreadable):
                    raise UsageError("none of the photos in data.train can be read; name "
                                     "others") from None
