"""Opens a bundle and runs one step, in a process of its own with limits."""

from __future__ import annotations

import ast
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bidiff_deploy import BidiffError, load_bundle
from bidiff_deploy.machine import peak_memory

MEMORY = 256 << 20  # beyond what the process has before it opens the bundle
SECONDS = 10  # of processor time


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    error   the sentence that refused the bundle; empty where it ran
    digest  of the prediction, where it ran
    died    the signal that ended the process, or 0
    grown   by how many bytes the peak of memory grew
    """

    error: str
    digest: str
    died: int
    grown: int

    @property
    def good(self) -> bool:
        """Whether it ran or was refused in one line, within the limits."""
        return not self.died and self.error.isprintable() and self.grown < MEMORY

    def __str__(self) -> str:
        how = f"died of signal {self.died}" if self.died else self.error or "ran as before"
        return f"{how} ({self.grown >> 20} MiB)"


def outcome_of(bundle: Path) -> Outcome:
    """Fork, open, run a step at 16x16, and report through a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        before = peak_memory()
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
        os.write(writing, repr((error, digest, grown)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if not said:
        return Outcome("", "", os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1, 0)
    error, digest, grown = ast.literal_eval(said.decode())
    return Outcome(error, digest, 0, grown)
