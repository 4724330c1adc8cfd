"""Three stages over many jobs at once: a thread ahead decodes, the caller computes, one encodes.

The computation stays in the calling thread, where Ctrl-C arrives and an engine's own threads are
started from. How far the others may be apart from it is bounded, so memory does not grow with the
number of jobs: ``ahead`` inputs are decoded or being decoded, one is computed, and ``behind``
results wait or are being encoded.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from ..errors import BidiffError

__all__ = ["AHEAD", "BEHIND", "Failure", "run"]

AHEAD = 2  # a large image between small ones is decoded while two are computed
BEHIND = 1  # results are the larger ones

Job = TypeVar("Job")
Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Failure:
    """A job that a stage refused: ``error`` is a BidiffError or MemoryError."""

    error: Exception


def run(jobs: Sequence[Job], decode: Callable[[Job], Input],
        compute: Callable[[Job, Input], Output], encode: Callable[[Job, Output], Any],
        report: Callable[[Job, Any], None], *, ahead: int = AHEAD, behind: int = BEHIND) -> None:
    """``report(job, encode(job, compute(job, decode(job))))`` of every job, in their order.

    ``decode`` and ``encode`` run in threads of their own, one each; ``compute`` and ``report`` in
    the calling one. A job whose stage raises BidiffError or MemoryError is reported as a Failure
    and the others go on. Any other error, KeyboardInterrupt among them, stops the run: what is
    computed by then is encoded and reported, no thread is left behind, and the error is raised.
    """
    decoder, encoder = pools = [ThreadPoolExecutor(1, name) for name in ("decode", "encode")]
    decoding: deque[Future[Any]] = deque()
    # Filled by the encoder's thread: a signal, which interrupts this one anywhere, loses nothing.
    encoded: deque[tuple[Job, Future[Any]]] = deque()
    undecoded, space = iter(jobs), threading.Semaphore(behind)

    def decode_ahead(count: int) -> None:
        for job in islice(undecoded, count):
            decoding.append(decoder.submit(_attempt, decode, job))

    def report_finished() -> None:
        while encoded:
            job, future = encoded.popleft()
            report(job, future.result())

    try:
        # Without work: a pool that is interrupted while its thread starts never waits for it.
        wait([pool.submit(int) for pool in pools])
        decode_ahead(ahead)
        for job in jobs:
            item = decoding[0].result()
            decoding.popleft()
            decode_ahead(1)
            if not isinstance(item, Failure):
                item = _attempt(compute, job, item)
            if isinstance(item, Failure):
                refused: Future[Any] = Future()
                refused.set_result(item)
                encoder.submit(encoded.append, (job, refused))
            else:
                held = [item]
                try:
                    space.acquire()
                finally:  # interrupted or not, what is computed is encoded
                    encoder.submit(_encode, encode, job, held, space, encoded)
            del item  # it may be large, and the next one takes long to come
            report_finished()
    finally:
        interruption = _stop(pools, decoding)
        report_finished()
        if interruption is not None:
            raise interruption


def _attempt(stage: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return stage(*arguments)
    except (BidiffError, MemoryError) as error:
        return Failure(error)


def _encode(encode: Callable[[Job, Output], Any], job: Job, held: list[Output],
            space: threading.Semaphore, encoded: deque[tuple[Job, Future[Any]]]) -> None:
    """``held`` is emptied: the pool keeps arguments until after the result is there."""
    future: Future[Any] = Future()
    try:
        future.set_result(_attempt(encode, job, held.pop()))
    except BaseException as error:
        future.set_exception(error)
    encoded.append((job, future))
    space.release()


def _stop(pools: Sequence[ThreadPoolExecutor], decoding: Iterable[Future[Any]]
          ) -> KeyboardInterrupt | None:
    """Decode nothing more, encode what is computed, and wait for both threads.

    Ctrl-C does not cut this short, so that no output is left half-written; it is returned.
    """
    interruption = None
    last: list[Future[Any]] = []  # in each pool
    while True:
        try:
            running = [future for future in decoding if not future.cancel()]
            while len(last) < len(pools):
                last.append(pools[len(last)].submit(int))
            # Not by shutdown alone: interrupted there, Python 3.11 takes a running thread for ended
            wait([*running, *last])
            for pool in pools:
                pool.shutdown()
            return interruption
        except KeyboardInterrupt as error:
            interruption = error
