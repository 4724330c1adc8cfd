"""Processes of their own that start at once: forked from one that has imported what takes long.

What is there before Python starts cannot be changed in them: LD_LIBRARY_PATH, PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import pytest

from support.waiting import HANG_SECONDS

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTS = (
    "numpy", "PIL.Image", "yaml", "onnx", "onnxruntime", "safetensors.numpy", "torch",
    "torch.utils.data", "torch._dynamo",  # which the first optimizer imports, for a second
    "polygraphy.comparator", "bidiff_deploy.cli", "bidiff_deploy.engines.onnxruntime.session",
    "bidiff_deploy.checkpoint.read", "bidiff_deploy.training.recipe", "attacks.limited")
COMMAND = "from bidiff_deploy.cli import main; main()"  # of `python -m bidiff_deploy`


class Forked:
    """``code`` with ``arguments`` in a process, as subprocess.Popen with pipes for its outputs.
    ``environment`` comes on top of this process's. Bytes that are not UTF-8 are read as surrogates.
    """

    def __init__(self, code: str, *arguments: object,
                 environment: Mapping[str, str] | None = None) -> None:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
        self._process = CONTEXT.Process(target=_run, args=(
            code, [*map(str, arguments)], os.getcwd(), {**os.environ, **(environment or {})},
            *(written for _, written in pipes)))
        self._process.start()
        self.pid = self._process.pid
        for _, written in pipes:
            written.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(read.fileno()), errors="surrogateescape")
                                    for read, _ in pipes)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = HANG_SECONDS) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return code

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def done(self) -> subprocess.CompletedProcess[str]:
        """Its end, with what it printed."""
        with ThreadPoolExecutor(2) as threads:
            out, err = threads.map(lambda pipe: pipe.read(), (self.stdout, self.stderr))
        return subprocess.CompletedProcess("", self.wait(), out, err)


def python(code: str, *arguments: object,
           environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``code`` in a process, to its end."""
    return Forked(code, *arguments, environment=environment).done()


def command(*arguments: object,
            environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m bidiff_deploy`` with ``arguments`` in a process, to its end."""
    return python(COMMAND, *arguments, environment=environment)


def program(path: object, *arguments: object,
            environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The file or folder ``path``, run by Python with ``arguments`` in a process, to its end."""
    code = f"import runpy\nrunpy.run_path({str(path)!r}, run_name='__main__')"
    return python(code, *arguments, environment=environment)


def start(*, imports: bool) -> None:
    """Copy this process, which has done nothing yet, as the one that the others are forked from.

    imports: both import now what takes long; else the copy does when it is first asked for.
    """
    if imports:
        import_all()
    resource_tracker.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.util, "spawnv_passfds", _copy)
        multiprocessing.forkserver.ensure_running()


def end() -> None:
    """End the process that the others are forked from, and wait for it."""
    multiprocessing.forkserver._forkserver._stop()


def import_all() -> None:
    """Import what takes long; what is not installed is left out."""
    for name in IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _copy(program: str, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """A copy of this process in place of ``program``, which multiprocessing would start."""
    copy = os.fork()
    if copy:
        return copy
    try:
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number not in passed:
                with contextlib.suppress(OSError):  # the list's own
                    os.close(number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering, closefd=False)
                                  for number, buffering in ((1, -1), (2, 1)))
        select.select(passed[:2], [], [])
        import_all()
        gc.freeze()
        gc.enable()
        serve: Any = multiprocessing.forkserver.main
        serve(*passed[:2], [], **dict(zip(["authkey_r"], passed[2:])))  # a key: of Python 3.14
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def _run(code: str, arguments: Sequence[str], folder: str, environment: Mapping[str, str],
         out: Connection, err: Connection) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for pipe, number, name, buffering in ((out, 1, "stdout", -1), (err, 2, "stderr", 1)):
        os.dup2(pipe.fileno(), number)
        setattr(sys, name, os.fdopen(number, "w", buffering, closefd=False,
                                     encoding=environment.get("PYTHONIOENCODING")))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["bidiff-deploy", *arguments]
    exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})
