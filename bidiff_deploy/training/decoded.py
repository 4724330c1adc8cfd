"""Decoded photos, kept in memory or in a folder, so that a crop needs no decoding."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ..errors import ImageError, OutputError, UsageError
from ..files import make_directory
from ..images.datasets import ImagePair
from .tiles import SIDE, Tiles, Whole, stored_bytes

__all__ = ["DecodedPhotos", "Planes"]

VERSION = 1  # of the stored format; part of the file names
OPEN = 128  # pairs of files that stay mapped: each takes two of the process's file descriptors
Planes = tuple[Whole | Tiles, Whole | Tiles]  # the photo, its low-resolution image


class DecodedPhotos:
    """The pixels of pairs of files, by number.

    ``memory``: bytes that decoded photos may take in this process; the least recently used are
    dropped first. ``cache``: a folder of tiles, named by path, size and time of the files, so that
    a changed photo is decoded again; with it only the ``OPEN`` pairs used last stay mapped and no
    photo is kept in memory.
    """

    def __init__(self, pairs: Sequence[ImagePair], memory: int, cache: Path | None = None) -> None:
        self.pairs = pairs
        self.memory = memory
        self.cache = cache
        self.unreadable: dict[int, str] = {}
        self._kept: OrderedDict[int, Planes] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # A process that does not share this memory decodes for itself.
        return {**self.__dict__, "_kept": OrderedDict(), "_bytes": 0}

    def __getitem__(self, index: int) -> Planes:
        """The photo and its low-resolution image. Raises ImageError for a damaged file."""
        if index in self.unreadable:
            raise ImageError(self.unreadable[index])
        found = self._kept.get(index)
        if found is None:
            found = self._load(index)
            self._keep(index, found)
        else:
            self._kept.move_to_end(index)
        return found

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all photos in memory."""
        return sum(3 * pair.height * pair.width * (pair.scale ** 2 + 1) // pair.scale ** 2
                   for pair in self.pairs)

    @property
    def fits(self) -> bool:
        """Whether all photos fit the memory."""
        return self.decoded_bytes <= self.memory

    def prepare(self, threads: int, *, first: int = 0, skip: bool = False,
                on_photo: Callable[[int, int], object] = lambda done, total: None) -> None:
        """Decode every photo that can be kept, so that training does not wait for it.

        Does nothing without a cache if memory is too small for all. ``first``: the photo to begin
        with, so that processes with one cache share the work. ``skip``: damaged photos are listed
        in ``unreadable`` instead of raising UsageError. ``on_photo``: called with (photos done,
        number of photos). Raises OutputError if the cache cannot be written.
        """
        if self.cache is not None:
            make_directory(self.cache)
            self._check_room(self.cache)
        elif not self.fits:
            return
        count = len(self.pairs)
        order = [(first + step) % count for step in range(count)]
        with ThreadPoolExecutor(max(threads, 1)) as pool:  # decoders release Python's lock
            work: Callable[[int], Planes | None] = (
                self._load if self.cache is None else self._store)
            waiting = {pool.submit(work, index): index for index in order}
            try:
                for done, future in enumerate(as_completed(waiting), 1):
                    self._prepared(waiting[future], future, skip)
                    on_photo(done, count)
            finally:
                for future in waiting:
                    future.cancel()

    def _prepared(self, index: int, future: Future[Planes | None], skip: bool) -> None:
        try:
            planes = future.result()
            if planes is not None:
                self._keep(index, planes)
        except ImageError as error:
            if not skip:
                raise UsageError(f"{error}, or set data.skip_unreadable") from None
            self.unreadable[index] = str(error)

    def _store(self, index: int) -> None:
        self._load(index)  # not kept: the cache may have more files than a process can open

    def _load(self, index: int) -> Planes:
        pair = self.pairs[index]
        if self.cache is None:
            high = pair.read_high()
            return Whole(high), Whole(pair.read_low(high))
        return self._tiled(pair, self.cache)

    def _tiled(self, pair: ImagePair, cache: Path) -> Planes:
        high_path, low_path = (cache / f"{_key(pair, part)}.npy" for part in ("high", "low"))
        high_size, low_size = self._sizes(pair)

        def opened() -> Planes | None:
            high, low = Tiles.open(high_path, *high_size), Tiles.open(low_path, *low_size)
            return None if high is None or low is None else (high, low)

        if (found := opened()) is not None:
            return found
        high = pair.read_high()
        Tiles.write(high_path, high)
        Tiles.write(low_path, pair.read_low(high))
        if (found := opened()) is None:
            raise OutputError(f"{cache}: files written there cannot be read back; choose another "
                              "loading.cache")
        return found

    @staticmethod
    def _sizes(pair: ImagePair) -> tuple[tuple[int, int], tuple[int, int]]:
        return (pair.height, pair.width), (pair.height // pair.scale, pair.width // pair.scale)

    def _keep(self, index: int, planes: Planes) -> None:
        size = sum(plane.nbytes for plane in planes)
        if index in self._kept or size > self.memory:
            return
        self._kept[index] = planes
        self._bytes += size
        while self._bytes > self.memory or (self.cache is not None and len(self._kept) > OPEN):
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= sum(plane.nbytes for plane in dropped)

    def _check_room(self, cache: Path) -> None:
        needed = sum(stored_bytes(*size) for pair in self.pairs
                     if not (cache / f"{_key(pair, 'low')}.npy").exists()
                     for size in self._sizes(pair))
        free = shutil.disk_usage(cache).free
        if needed > free:
            raise OutputError(f"{cache}: decoded photos need {needed / 1e9:.1f} GB and "
                              f"{free / 1e9:.1f} GB are free; free some space, or change or remove "
                              "loading.cache")


def _key(pair: ImagePair, part: str) -> str:
    """A name that changes with everything the stored pixels depend on."""
    facts: list[Any] = [VERSION, SIDE, part, pair.corner, pair.height, pair.width, pair.scale]
    if pair.larger is not None:
        facts += [pair.larger.corner, pair.larger.height, pair.larger.width]
    for file in (pair.high, pair.low):
        if file is not None:
            try:
                stat = os.stat(file)
            except OSError as error:
                raise ImageError(f"{file}: cannot be read ({error.strerror})") from None
            facts += [os.path.realpath(file), stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
