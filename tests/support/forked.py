"""Processes of their own that start at once: forked from one that has imported what takes long.

There are two such: forking one that has not imported torch takes a third of the time.
What is there before Python starts cannot be changed in them: LD_LIBRARY_PATH, PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import multiprocessing.util
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from support.waiting import HANG_SECONDS

CONTEXT = multiprocessing.get_context("forkserver")
# Modules that take long: those without torch, and those that a copy with torch has as well.
IMPORTS = (
    "numpy", "PIL.Image", "yaml", "onnx", "onnxruntime", "safetensors.numpy",
    "polygraphy.comparator", "bidiff_deploy.cli", "bidiff_deploy.checkpoint.read",
    "bidiff_deploy.export.write", "bidiff_deploy.networks.bi_diffsr.graph",
    "bidiff_deploy.engines.onnxruntime.noise_predictor",
    "bidiff_deploy.engines.onnxruntime.one_run", "bidiff_deploy.upscale.batch",
    "bidiff_deploy.training.recipe", "attacks.limited")
WITH_TORCH = (
    *IMPORTS, "torch", "torch.utils.data",
    "torch._dynamo")  # which the first optimizer imports, for a second
COMMAND = "from bidiff_deploy.cli import main; main()"  # of `python -m bidiff_deploy`
COMMANDS_WITH_TORCH = {"check", "evaluate", "train"}


class Copied(forkserver.ForkServer):
    """A copy of this process, from which others are forked. It has imported ``modules``."""

    def __init__(self, *modules: str) -> None:
        super().__init__()
        self.modules = modules

    def copy(self) -> None:
        """Copy this process as it is now."""
        resource_tracker.ensure_running()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multiprocessing.util, "spawnv_passfds", self._copy)
            self.ensure_running()

    def process(self, target: Callable[..., object], *arguments: object) -> BaseProcess:
        """``target(*arguments)`` in a process that is forked from the copy."""
        made = CONTEXT.Process(target=target, args=arguments)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forkserver, "connect_to_new_process", self.connect_to_new_process)
            made.start()
        return made

    def _copy(self, program: str, arguments: Sequence[str], passed: Sequence[int]) -> int:
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
            import_all(self.modules)
            gc.freeze()
            gc.enable()
            serve: Any = forkserver.main
            serve(*passed[:2], [], **dict(zip(["authkey_r"], passed[2:])))  # a key: of Python 3.14
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)


LIGHT, HEAVY = Copied(*IMPORTS), Copied(*WITH_TORCH)


class Forked:
    """``code`` with ``arguments`` in a process, as subprocess.Popen with pipes for its outputs.
    ``environment`` comes on top of this process's; ``torch``: it is needed, as by some commands.
    Bytes that are not UTF-8 are read as surrogates.
    """

    def __init__(self, code: str, *arguments: object,
                 environment: Mapping[str, str] | None = None, torch: bool = False) -> None:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
        torch |= code == COMMAND and arguments[0] in COMMANDS_WITH_TORCH
        self._process = (HEAVY if torch else LIGHT).process(
            _run, code, [*map(str, arguments)], os.getcwd(),
            {**os.environ, **(environment or {})}, *(written for _, written in pipes))
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


def python(code: str, *arguments: object, environment: Mapping[str, str] | None = None,
           torch: bool = False) -> subprocess.CompletedProcess[str]:
    """``code`` in a process, to its end."""
    return Forked(code, *arguments, environment=environment, torch=torch).done()


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
    """Copy this process, which has done nothing yet, once before it imports torch and once after.

    imports: all import now what takes long; else each copy does when it is first asked for.
    """
    for copied in (LIGHT, HEAVY):
        if imports:
            import_all(copied.modules)
        copied.copy()


def end() -> None:
    """End the copies, and wait for them."""
    for copied in (LIGHT, HEAVY):
        copied._stop()


def import_all(modules: Sequence[str]) -> None:
    """Import what takes long; what is not installed is left out."""
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


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
