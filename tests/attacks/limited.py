"""Opens a bundle and runs one step, in a process of its own with limits."""

from __future__ import annotations

import ast
import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bidiff_deploy import BidiffError, load_bundle
from bidiff_deploy.machine import peak_memory

MEMORY = 256 << 20  # beyond what the process has before it opens the bundle
SLACK = 16 << 20  # of allocators
SECONDS = 10  # of processor time


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    error   the sentence that refused the bundle; empty where it ran
    digest  of the prediction, where it ran
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
        """Whether it ran or was refused in one line, within the limits."""
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
    """Fork, open, run a step at 16x16, and report through a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        stderr = os.memfd_create("stderr")
        os.dup2(stderr, 2)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(30 * SECONDS)  # it may also wait for ever
        before, started = peak_memory(), time.process_time()
        error, digest = "", ""
        try:
            with load_bundle(bundle, threads=1) as engine:
                result = engine.predict(*np.ones((2, 1, 3, 16, 16), np.float32),
                                        engine.timesteps[0])
                digest = str(hash(result.tobytes()))
        except BidiffError as refused:
            error = str(refused)
        except BaseException as other:
            error = f"raises {type(other).__name__}\n{other}"
        grown = max(0, peak_memory() - before)
        seconds = time.process_time() - started
        printed = os.pread(stderr, 1000, 0).decode(errors="replace")
        os.write(writing, ascii((error, digest, printed, grown, seconds)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if not said:
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1
        return Outcome("", "", died, "", 0, SECONDS)
    error, digest, printed, grown, seconds = ast.literal_eval(said.decode())
    return Outcome(error, digest, 0, printed, grown, seconds)
