"""Three stages over many jobs at once: a thread ahead decodes, the caller computes, one encodes.

The computation stays in the calling thread, where Ctrl-C arrives and an engine's own threads are
started from. How far the others may be apart from it is bounded, so memory does not grow with the
number of jobs: ``ahead`` inputs are decoded or being decoded, one is computed, and ``behind``
results wait or are being encoded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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


@dataclass(frozen=True)
class _Crash:
    """What no stage should raise; it ends the run."""

    error: BaseException


def run(jobs: Sequence[Job], decode: Callable[[Job], Input],
        compute: Callable[[Job, Input], Output], encode: Callable[[Job, Output], Any],
        report: Callable[[Job, Any], None], *, ahead: int = AHEAD, behind: int = BEHIND) -> None:
    """``report(job, encode(job, compute(job, decode(job))))`` of every job, in their order.

    ``decode`` and ``encode`` run in threads of their own, one each; ``compute`` and ``report`` in
    the calling one. A job whose stage raises BidiffError or MemoryError is reported as a Failure
    and the others go on. Any other error, KeyboardInterrupt among them, stops the run: what is
    computed by then is encoded and reported, no thread is left behind, and the error is raised.
    """
    line = _Line(decode, encode, ahead, behind)
    try:
        line.start(jobs)
        for job in jobs:
            item = line.take()
            if not isinstance(item, Failure):
                item = _attempt(compute, job, item)
            line.hand_on(job, item)
            del item  # it may be large, and the next one takes long to come
            line.report(report)
    finally:
        interruption = line.stop()
        line.report(report)
        if interruption is not None:
            raise interruption


def _attempt(stage: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return stage(*arguments)
    except (BidiffError, MemoryError) as error:
        return Failure(error)


class _Line(Generic[Job, Input, Output]):
    """The two threads, and the queues between them and the caller."""

    def __init__(self, decode: Callable[[Job], Input], encode: Callable[[Job, Output], Any],
                 ahead: int, behind: int) -> None:
        self._decode, self._encode = decode, encode
        self._stopped = threading.Event()
        self._room, self._space = threading.Semaphore(ahead), threading.Semaphore(behind)
        self._decoded: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._computed: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[Job, Any]] = queue.SimpleQueue()
        self._threads: list[tuple[threading.Thread, threading.Event]] = []

    def start(self, jobs: Sequence[Job]) -> None:
        for name, work in (("decode", lambda: self._decoding(jobs)), ("encode", self._encoding)):
            ended = threading.Event()
            thread = threading.Thread(target=_run_to, args=(work, ended), name=name)
            self._threads.append((thread, ended))
            thread.start()

    def _decoding(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._room.acquire()
            if self._stopped.is_set():
                return
            self._decoded.put(_guarded(self._decode, job))

    def _encoding(self) -> None:
        while (next_one := self._computed.get()) is not None:
            job, item = next_one
            del next_one
            if not isinstance(item, Failure):
                item = _guarded(self._encode, job, item)
                self._space.release()
            self._finished.put((job, item))
            del item

    def take(self) -> Any:
        """The next decoded input or Failure."""
        item = self._decoded.get()
        self._room.release()
        return _checked(item)

    def hand_on(self, job: Job, item: Any) -> None:
        if not isinstance(item, Failure):
            self._space.acquire()
        self._computed.put((job, item))

    def report(self, report: Callable[[Job, Any], None]) -> None:
        """What is finished so far."""
        while not self._finished.empty():
            job, result = self._finished.get()
            report(job, _checked(result))

    def stop(self) -> KeyboardInterrupt | None:
        """Decode nothing more, encode what is computed, and wait for both threads.

        Ctrl-C does not cut this short, so that no output is left half-written; it is returned.
        """
        self._stopped.set()
        self._room.release()
        self._computed.put(None)
        interruption = None
        for thread, ended in self._threads:
            if thread.ident is None:
                continue  # the run was interrupted before it began
            # Not by join alone: interrupted there, Python 3.11 takes a running thread for ended.
            while not ended.is_set():
                try:
                    ended.wait()
                except KeyboardInterrupt as error:
                    interruption = error
            thread.join()
        return interruption


def _run_to(work: Callable[[], None], ended: threading.Event) -> None:
    try:
        work()
    finally:
        ended.set()


def _guarded(stage: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return _attempt(stage, *arguments)
    except BaseException as error:  # noqa: BLE001 - raised in the calling thread
        return _Crash(error)


def _checked(item: Any) -> Any:
    if isinstance(item, _Crash):
        raise item.error
    return item
