"""One thread for all that an engine does on its device.

ONNX Runtime captures a CUDA graph for the thread that runs, and would capture it anew for the next;
and what another thread allocates or copies while one is captured spoils the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class DeviceThread:
    """Runs calls one after the other, in the order of their arrival."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bidiff-device")
        # Now, because an interrupt while the pool starts its thread has it start a second one.
        self._pool.submit(int).result()

    def call(self, function: Callable[_Arguments, _Result], *args: _Arguments.args,
             **kwargs: _Arguments.kwargs) -> _Result:
        """What ``function`` returns or raises there. An interrupt ends the wait here; the call
        itself goes on, and the next waits for it. Raises RuntimeError after ``close``."""
        return self._pool.submit(function, *args, **kwargs).result()

    def end_with(self, function: Callable[[], object]) -> None:
        """Run this last, and wait for nothing: any thread may call it, this one too. Raises
        RuntimeError once the interpreter is ending."""
        self._pool.submit(function)
        self._pool.shutdown(wait=False)

    def close(self) -> None:
        """Wait for what still runs and end the thread."""
        self._pool.shutdown()
