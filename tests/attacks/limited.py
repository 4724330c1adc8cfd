"""Opens a bundle and runs one step, or reads a checkpoint or options, in a process of its own with
limits.

The process is forked from one that has done nothing yet. One that has run other tests has free
memory of all sizes, in which an honest file costs nothing and a hostile one as much as ever.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bidiff_deploy import BidiffError, load_bundle
from bidiff_deploy.checkpoint.options import read_options
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines.one_run import OneRun
from bidiff_deploy.machine import peak_memory
from support.forked import CONTEXT, LIGHT

MEMORY = 256 << 20  # beyond what the process has before it opens the file
SLACK = 16 << 20  # of allocators
SECONDS = 10  # of processor time


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    error   the sentence that refused the file; empty where it was taken
    digest  of the prediction or the weights, where it was taken
    died    the signal that ended the process, or 0
    printed what went to stderr meanwhile
    grown   by how many bytes the peak of memory grew
    seconds processor time
    """

    error: str
    digest: str
    died: int
    printed: str
    grown: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether it was taken or refused in one line, within the limits."""
        return (not self.died and self.error.isprintable() and not self.printed
                and self.grown < MEMORY)

    def costs_no_more_than(self, honest: Outcome) -> bool:
        """Whether it took at most twice the memory of an honest bundle."""
        return self.grown < 2 * honest.grown + SLACK

    def __str__(self) -> str:
        how = f"died of signal {self.died}" if self.died else self.error or "ran"
        how += f", printed {self.printed!r}" if self.printed else ""
        return f"{how} ({self.grown >> 20} MiB, {self.seconds:.2f} s)"


def outcome_of(bundle: Path) -> Outcome:
    """Open a bundle and run it, or one of its steps, at 16x16."""
    return _limited(_run, bundle)


def outcome_of_reading(checkpoint: Path, options: Path | None = None) -> Outcome:
    """Read a checkpoint."""
    return _limited(_read, checkpoint, options)


def outcome_of_text(reader: Callable[[Path], object], path: Path) -> Outcome:
    """Read a file of options or a recipe."""
    return _limited(_text, reader, path)


def _run(bundle: Path) -> bytes:
    with load_bundle(bundle, threads=1) as engine:
        if isinstance(engine, OneRun):
            return engine.enlarge(np.ones((1, 3, 16, 16), np.float32)).tobytes()
        return engine.predict(*np.ones((2, 1, 3, 16, 16), np.float32),
                              engine.timesteps[0]).tobytes()


def _read(checkpoint: Path, options: Path | None) -> bytes:
    found = read_checkpoint(checkpoint, options and read_options(options))
    return b"".join(value.tobytes() for value in found.latent().values())


def _text(reader: Callable[[Path], object], path: Path) -> bytes:
    return str(reader(path)).encode()


def _limited(run: Callable[..., bytes], *arguments: object) -> Outcome:
    """Fork, run, and report through a pipe."""
    reading, writing = CONTEXT.Pipe(duplex=False)
    process = LIGHT.process(_inside, writing, run, arguments)
    writing.close()
    try:
        said = reading.recv()
    except EOFError:
        said = None
    process.join()
    code = process.exitcode or 0
    return said or Outcome("", "", -code if code < 0 else -1, "", 0, SECONDS)


def _inside(writing: Connection, run: Callable[..., bytes], arguments: tuple[Any, ...]) -> None:
    stderr = os.memfd_create("stderr")
    os.dup2(stderr, 2)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(30 * SECONDS)  # it may also wait for ever
    before, started = peak_memory(), time.process_time()
    error, digest = "", ""
    try:
        digest = hashlib.sha256(run(*arguments)).hexdigest()
    except BidiffError as refused:
        error = str(refused)
    except BaseException as other:
        error = f"raises {type(other).__name__}\n{other}"
    grown = max(0, peak_memory() - before)
    seconds = time.process_time() - started
    printed = os.pread(stderr, 1000, 0).decode(errors="replace")
    writing.send(Outcome(error, digest, 0, printed, grown, seconds))
