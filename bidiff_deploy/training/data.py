"""Photos -> pairs of high-resolution crop and upsampled low-resolution condition.

Low-resolution images come from their own folder, or are made as Matlab's imresize makes them
(``bidiff_deploy.images.matlab_bicubic``), 8 bits. The condition is what the runtime computes from such an image.

Crop number i of a run depends on the run's seed and on i alone. So a run that resumes at iteration
k, in however many processes, goes on with the crops it would have had: the batch of iteration k is
crops k * batch to (k + 1) * batch, of which each of n ranks takes its part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError, UsageError
from ..images.datasets import ImagePair
from ..images.resample import source_crop, to_condition, to_unit
from ..progress import Progress
from .decoded import DecodedPhotos
from .photos import find_sources
from .recipe import Data, Photo, Recipe

__all__ = ["CONDITION", "LOW", "Crops", "Pair", "load_pairs", "open_crops"]

CONDITION, LOW = "condition", "low"
_MAX_THREADS = 16  # that decode at the start


@dataclass(frozen=True, eq=False)
class Pair:
    """A whole photo and its low-resolution image, uint8 (H, W, 3) each, as validation uses them."""

    name: str
    high: np.ndarray
    low: np.ndarray

    @property
    def scale(self) -> int:
        return self.high.shape[0] // self.low.shape[0]

    @property
    def condition(self) -> np.ndarray:
        """float32 (3, H, W), the network's condition."""
        return to_condition(self.low, self.scale)


def load_pairs(photos: Sequence[Photo], folder: Path, scale: int) -> list[Pair]:
    """Whole pairs of every photo; paths relative to ``folder``.

    Rows and columns beyond a multiple of the scale are cut off. Raises UsageError as
    ``photos.find_sources``, and ImageError for a file that is damaged behind its header.
    """
    pairs = []
    for source in find_sources(photos, folder, scale, cut=True):
        high = source.files.read_high()
        pairs.append(Pair(source.files.name, high, source.files.read_low(high)))
    return pairs


def open_crops(recipe: Recipe, folder: Path, rank: int = 0, ranks: int = 1,
               say: Callable[[str], object] | None = None, given: str = CONDITION) -> Crops:
    """The crops of a recipe: photos are found, checked, and decoded as far as they can be kept.

    ``given``: what comes with a photo's crop, see ``Crops``.
    ``rank`` of ``ranks`` processes share memory and, in a cache, the work; only rank 0 says what
    is left out and how far it is. Raises UsageError for photos that can not be used, OutputError
    for a cache that can not be written.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    if rank:
        say = lambda line: None  # noqa: E731
    data, loading = recipe.data, recipe.loading

    def skip(_: Path, reason: str) -> None:
        if not data.skip_unreadable:
            raise UsageError(f"{reason}, or set data.skip_unreadable")
        say(f"left out: {reason}")

    sources = find_sources(data.train, folder, recipe.scale, data.crop, skip=skip,
                           sizes=data.sizes)
    photos = DecodedPhotos([source.files for source in sources],
                           int(loading.memory_gb * 1e9 / ranks),
                           folder / loading.cache if loading.cache else None)
    crops = Crops(photos, data, seed=recipe.run.seed,
                  weights=[source.weight for source in sources], given=given)
    if photos.cache is None and not photos.fits:
        say(f"decoded photos take {photos.decoded_bytes * ranks / 1e9:.1f} GB, more than "
            f"loading.memory_gb={loading.memory_gb:g}: photos are decoded over and over; give "
            "loading.cache a folder to avoid it")
    with Progress("photos", len(sources), quiet=bool(rank)) as progress:
        photos.prepare(min(max(loading.workers, 1), _MAX_THREADS),
                       first=rank * len(sources) // ranks, skip=data.skip_unreadable,
                       on_photo=lambda done, _: progress.update(done))
    for reason in photos.unreadable.values():
        say(f"left out: {reason}")
    return crops


class Crops:
    """Endless random crops of photos, each a pure function of its number.

    photos   decoded pairs; all at least ``data.crop`` a side
    weights  how often each is drawn, relative to the others; equally by default
    given    what comes with a crop: CONDITION, the low-resolution image enlarged to its size, or
             LOW, that image itself, of crop / scale pixels a side; for aligned crops only
    """

    def __init__(self, photos: DecodedPhotos, data: Data, *, seed: int = 0,
                 weights: Sequence[float] = (), given: str = CONDITION) -> None:
        if given == LOW and not data.aligned:
            raise UsageError("data.aligned must be true for a feed-forward network: its input is "
                             "the low-resolution image, which has no part of a pixel")
        self.given = given
        self.photos = photos
        self.data = data
        self._seed = seed % (1 << 64)
        shares = np.asarray(weights or [1.0] * len(photos.pairs), np.float64)
        self._bounds = np.cumsum(shares / shares.sum())

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Photos and what comes with them of crops ``first`` to ``first + count``: float32 (count,
        3, crop, crop) each, photos in [0, 1]; LOW is smaller by the scale. Raises UsageError where
        a photo is damaged."""
        crops = [self.crop(index) for index in range(first, first + count)]
        photos, conditions = (torch.from_numpy(np.stack(part)) for part in zip(*crops))
        return photos.float().div_(255), conditions

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``batch`` of a number that ``generator`` draws."""
        return self.batch(int(torch.randint(1 << 62, (), generator=generator)), batch)

    def crop(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Crop number ``index``: uint8 photo (3, crop, crop), and float32 of what comes with it."""
        random = np.random.Generator(np.random.Philox(key=(index << 64) | self._seed))
        crops = [self._candidate(random) for _ in range(self.data.candidates)]
        photo, condition, low = max(crops, key=lambda crop: float(np.square(
            crop[0] / np.float32(255) - crop[1]).sum())) if len(crops) > 1 else crops[0]
        return photo, low if self.given == LOW else condition

    def _candidate(self, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """uint8 photo, float32 condition and low-resolution image, augmented alike."""
        pair, (high, low) = self._photo(random)
        data, size, scale = self.data, self.data.crop, pair.scale
        unit = scale if data.aligned else 1
        top, left = (int(random.integers((side - size) // unit + 1)) * unit
                     for side in (pair.height, pair.width))
        turns = int(random.integers(4)) if data.rotate else 0
        flip = bool(random.integers(2)) if data.flip else False
        colors = random.permutation(3) if data.shuffle_colors else np.arange(3)
        rows, above = source_crop(top, size, scale, pair.height // scale)
        columns, before = source_crop(left, size, scale, pair.width // scale)
        small = low.window(rows.start, columns.start, rows.stop - rows.start,
                           columns.stop - columns.start)
        # Enlarged from the pixels it depends on, to what a crop of the whole would be.
        condition = to_condition(small, scale)[:, above:above + size, before:before + size]
        photo = high.window(top, left, size, size).transpose(2, 0, 1)

        def augment(image: np.ndarray) -> np.ndarray:
            image = np.rot90(image[colors], turns, (1, 2))
            return np.ascontiguousarray(image[:, :, ::-1] if flip else image)

        small = small[top // scale - rows.start:, left // scale - columns.start:]
        small = to_unit(small[:size // scale, :size // scale]).transpose(2, 0, 1)
        return augment(photo), augment(condition), augment(small)

    def _photo(self, random: np.random.Generator) -> tuple[ImagePair, tuple]:
        while True:
            index = min(int(np.searchsorted(self._bounds, random.random(), side="right")),
                        len(self._bounds) - 1)
            try:
                return self.photos.pairs[index], self.photos[index]
            except ImageError as error:
                if not self.data.skip_unreadable:
                    raise UsageError(f"{error}, or set data.skip_unreadable") from None
                # Drawn again from the same stream, so that it does not matter who finds it.
                self.photos.unreadable[index] = str(error)
                if len(self.photos.unreadable) == len(self.photos.pairs):
                    raise UsageError("none of the photos can be read; name others") from None
