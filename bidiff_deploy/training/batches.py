"""Batches of crops, cut ahead of training by worker processes."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Generator, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import BidiffError, UsageError
from .crops import Crops

__all__ = ["batches"]

_Part = tuple[Tensor, Tensor] | BidiffError
_AHEAD = 3  # batches that each worker keeps ready


def batches(crops: Crops, batch: int, *, start: int = 0, rank: int = 0, ranks: int = 1,
            workers: int = 0, pin: bool = False) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Photos and inputs of iterations ``start``, ``start + 1``, ... without end.

    batch    crops of an iteration over all ranks, a multiple of ``ranks``
    rank     the part of each batch to yield: float32 (batch / ranks, 3, crop, crop)
    workers  processes that cut crops; 0: this process, on demand. The batches are the same to the
             bit for any number
    pin      use page-locked memory, from which a GPU copies faster

    Closing the iterator ends the workers. Raises UsageError for a batch that is not a multiple of
    ``ranks``, and for photos as ``Crops.batch`` does.
    """
    if batch % ranks:
        raise UsageError(f"run.batch={batch} cannot be divided among {ranks} processes; make it a "
                         "multiple")
    share = batch // ranks
    parts = _Parts(crops, batch, rank * share, share)
    loader = DataLoader(parts, batch_size=None, sampler=_From(start), num_workers=workers,
                        pin_memory=pin, prefetch_factor=_AHEAD if workers else None,
                        worker_init_fn=_begin, multiprocessing_context=_context(workers),
                        generator=torch.Generator())  # by default it draws from the run's own
    return _checked(loader)


def _checked(loader: DataLoader[_Part]) -> Generator[tuple[Tensor, Tensor], None, None]:
    for found in loader:
        if isinstance(found, BidiffError):
            raise found
        high, given = found
        yield high, given


class _Parts(Dataset[_Part]):
    """One rank's part of each batch."""

    def __init__(self, crops: Crops, batch: int, first: int, count: int) -> None:
        self.crops, self._batch, self._first, self._count = crops, batch, first, count

    def __getitem__(self, iteration: int) -> _Part:
        try:
            return self.crops.batch_of(iteration, iteration * self._batch + self._first,
                                       self._count)
        except BidiffError as error:
            return error  # an exception raised in a worker would arrive with a traceback


class _From:
    """Iteration numbers from ``start`` on."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def _begin(_: int) -> None:
    # Ctrl-C and SIGTERM reach the whole group; the training process decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    info = get_worker_info()
    assert info is not None and isinstance(info.dataset, _Parts)
    photos = info.dataset.crops.photos
    if not photos.fits:  # otherwise they are decoded already, in shared memory
        photos.memory //= info.num_workers


def _context(workers: int) -> str | None:
    """Forked workers share the decoded photos."""
    if not workers:
        return None
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
