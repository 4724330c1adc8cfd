"""Batches of crops, cut ahead of training by other processes."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import BidiffError, UsageError
from .data import Crops

__all__ = ["batches"]

_AHEAD = 3  # batches that each worker has ready


def batches(crops: Crops, batch: int, *, start: int = 0, rank: int = 0, ranks: int = 1,
            workers: int = 0, pin: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Photos and conditions of iterations ``start``, ``start + 1``, ... without end.

    batch    crops of an iteration over all ranks, a multiple of ``ranks``
    rank     which part of each batch is given: float32 (batch / ranks, 3, crop, crop)
    workers  processes that cut crops; 0: this one, when the next batch is asked for. Whatever the
             number, the batches are the same to the bit
    pin      put them into page-locked memory, from where a GPU copies faster

    Closing the iterator ends the workers. Raises UsageError for a batch that can not be shared
    out, and what ``Crops.batch`` raises.
    """
    if batch % ranks:
        raise UsageError(f"run.batch={batch} can not be shared out among {ranks} processes; make "
                         "it a multiple")
    share = batch // ranks
    parts = _Parts(crops, batch, rank * share, share)
    loader = DataLoader(parts, batch_size=None, sampler=_From(start), num_workers=workers,
                        pin_memory=pin, prefetch_factor=_AHEAD if workers else None,
                        worker_init_fn=_begin, multiprocessing_context=_context(workers),
                        generator=torch.Generator())  # else it draws from the run's own
    return _checked(loader)


def _checked(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    for found in loader:
        if isinstance(found, BidiffError):
            raise found
        yield tuple(found)


class _Parts(Dataset):
    def __init__(self, crops: Crops, batch: int, first: int, count: int) -> None:
        self.crops, self._batch, self._first, self._count = crops, batch, first, count

    def __getitem__(self, iteration: int) -> Any:
        try:
            return self.crops.batch(iteration * self._batch + self._first, self._count)
        except BidiffError as error:
            return error  # raised by a worker, its sentence would come with a traceback


class _From:
    """Numbers from ``start`` on."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def _begin(_: int) -> None:
    # Ctrl-C and SIGTERM go to the whole group; the training process decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    info = get_worker_info()
    photos = info.dataset.crops.photos
    if not photos.fits:  # else they are decoded already, in memory that is shared
        photos.memory //= info.num_workers


def _context(workers: int) -> str | None:
    """Forked workers share the decoded photos."""
    if not workers:
        return None
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
