"""One thread for all work that an engine does on its device.

ONNX Runtime captures a CUDA graph for the thread that runs it, and would capture it again for the
next one; and a capture fails if another thread allocates or copies meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class DeviceThread:
    """Runs calls one after another, in the order of their arrival."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bidiff-device")
        # Started now: an interrupt while the pool starts its thread makes it start a second one.
        self._pool.submit(int).result()

    def call(self, function: Callable[_Arguments, _Result], *args: _Arguments.args,
             **kwargs: _Arguments.kwargs) -> _Result:
        """Returns or raises what ``function`` does in the device's thread. An interrupt ends only
        the wait; the call goes on, and the next one waits for it. Raises RuntimeError after
        ``close``."""
        return self._pool.submit(function, *args, **kwargs).result()

    def end_with(self, function: Callable[[], object]) -> None:
        """Run ``function`` last, without waiting for it; any thread may call this. Raises
        RuntimeError while the interpreter shuts down."""
        self._pool.submit(function)
        self._pool.shutdown(wait=False)

    def close(self) -> None:
        """Wait for the calls that still run and end the thread."""
        self._pool.shutdown()
