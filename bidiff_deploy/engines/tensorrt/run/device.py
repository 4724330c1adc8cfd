"""A GPU as the TensorRT backend uses it: memory, copies, one stream, and captured graphs.

pycuda allocates and copies; CUDA graphs, which it lacks, come from cuda-python, whose calls work on
the same primary context. Without pycuda, cuda-python does both; without cuda-python nothing is
captured. Neither is imported before a GPU is opened.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from ....errors import EngineError
from ...gpu.failures import CudaError

__all__ = ["Device", "Driver", "Graph", "GraphMaker", "INSTALL", "Memory",
           "open_device"]

INSTALL = "pip install cuda-python pycuda"


class Driver(Protocol):
    """What a binding does for us, on one stream of a GPU. All calls come from the thread that made
    it, all but ``close`` between ``enter`` and ``leave``; all raise CudaError."""

    name: str
    stream: int  # handle

    def enter(self) -> None:
        """Make the GPU's primary context current."""

    def leave(self) -> None: ...

    def allocate(self, count: int) -> tuple[int, Any]:
        """(address, what ``free`` takes)"""

    def free(self, owner: Any) -> None: ...

    def upload(self, address: int, array: np.ndarray) -> None:
        """From a contiguous array; it may have to stay until ``synchronise``."""

    def download(self, array: np.ndarray, address: int) -> None:
        """To a contiguous array, which is filled after ``synchronise``."""

    def copy(self, target: int, source: int, count: int) -> None: ...

    def synchronise(self) -> None: ...

    def memory(self) -> tuple[int, int]:
        """Free and all bytes."""

    def close(self) -> None: ...


class GraphMaker(Protocol):
    """What captures a stream; calls as ``Driver``'s."""

    name: str

    def begin(self, stream: int) -> None: ...

    def end(self, stream: int) -> Any:
        """The captured graph, ready to be launched; the stream captures no more, even where this
        raises CudaError."""

    def launch(self, graph: Any, stream: int) -> None: ...

    def destroy(self, graph: Any) -> None: ...


class Memory:
    """Bytes on a device, from ``address`` on, until ``free`` is called."""

    def __init__(self, driver: Driver, count: int) -> None:
        self._driver, self.size = driver, count
        self.address, self._owner = driver.allocate(count)

    def free(self) -> None:
        """Give it back; more than once is fine."""
        owner, self._owner, self.address = self._owner, None, 0
        if owner is not None:
            self._driver.free(owner)


class Graph:
    """Captured work, to be launched any number of times until ``release``."""

    def __init__(self, maker: GraphMaker, made: Any, stream: int) -> None:
        self._maker, self._made, self._stream = maker, made, stream

    def launch(self) -> None:
        self._maker.launch(self._made, self._stream)

    def release(self) -> None:
        """More than once is fine."""
        made, self._made = self._made, None
        if made is not None:
            self._maker.destroy(made)


class Device:
    """One GPU with one stream, on which all work is done in order. Every call has to come from the
    thread that opened it, within ``current``, and raises CudaError where the driver refuses."""

    def __init__(self, driver: Driver, maker: GraphMaker | None) -> None:
        self._driver, self._maker = driver, maker
        self._held: list[np.ndarray] = []
        self.stream = driver.stream

    @property
    def name(self) -> str:
        """The bindings in use, with their versions."""
        return " and ".join(dict.fromkeys(
            one.name for one in (self._driver, self._maker) if one is not None))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The GPU's primary context is this thread's as long as the block runs. It is not left so:
        pycuda ends the process if a thread ends with a context of its."""
        self._driver.enter()
        try:
            yield
        finally:
            self._driver.leave()

    @property
    def captures(self) -> bool:
        """Whether ``capture`` can be tried."""
        return self._maker is not None

    def allocate(self, count: int) -> Memory:
        """``count`` bytes, aligned to 256, of no certain content."""
        return Memory(self._driver, count)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; it must not change before ``synchronise``."""
        self._held.append(array)
        self._driver.upload(address, array)

    def download(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        """float32 of that shape, once all work before is done."""
        found = np.empty(shape, np.float32)
        self._driver.download(found, address)
        self.synchronise()
        return found

    def copy(self, target: int, source: int, count: int) -> None:
        """Copy bytes on the device."""
        self._driver.copy(target, source, count)

    def synchronise(self) -> None:
        """Wait for all work."""
        try:
            self._driver.synchronise()
        finally:
            self._held.clear()

    def memory(self) -> tuple[int, int]:
        """Free and all bytes of the GPU's memory."""
        return self._driver.memory()

    def capture(self, work: Callable[[], None]) -> Graph | None:
        """What ``work`` puts on the stream as a graph; it is recorded, not run.

        None where it can not be captured: a RuntimeWarning says why, once, and nothing is tried
        again. What ``work`` raises that the capture has no part in shows when it is run.
        """
        if self._maker is None:
            return None
        told = None
        try:
            self._maker.begin(self.stream)
            try:
                work()
            except Exception:
                # The stream has to leave the capture; what it captured is of no use.
                with contextlib.suppress(CudaError):
                    self._maker.destroy(self._maker.end(self.stream))
                raise
            return Graph(self._maker, self._maker.end(self.stream), self.stream)
        except EngineError as error:
            told = str(error)
        self._maker = None
        warnings.warn(f"the steps can not be captured as a CUDA graph ({told}); running without, "
                      "which is slower", RuntimeWarning, stacklevel=2)
        return None

    def close(self) -> None:
        """Give back stream and context, outside of ``current``; memory and graphs have to be
        gone."""
        self._driver.close()


def open_device(ordinal: int, *, graphs: bool = True) -> Device:
    """GPU ``ordinal``, for this thread. ``graphs``: capture what can be.

    Raises EngineError where neither binding is installed, or the driver has no such GPU.
    """
    from . import cuda_python_driver, pycuda_driver

    binding, missing = cuda_python_driver.find()
    drv, without = pycuda_driver.find()
    if binding is None and drv is None:
        raise EngineError(f"neither pycuda ({without}) nor cuda-python ({missing}) can be imported,"
                          f" and the TensorRT backend needs one of them; {INSTALL}")
    maker = None if binding is None else cuda_python_driver.CudaPythonGraphs(binding)
    try:
        driver: Driver = (cuda_python_driver.CudaPythonDriver(binding, ordinal) if drv is None
                          else pycuda_driver.PycudaDriver(drv, ordinal))
    except CudaError as error:
        raise EngineError(f"GPU {ordinal} can not be used: {error}; bidiff-deploy doctor shows "
                          "which GPUs there are") from None
    if not graphs:
        maker = None
    elif maker is None:
        warnings.warn(f"cuda-python is not there ({missing}), and pycuda captures no CUDA graphs; "
                      "running without, which is slower; pip install cuda-python", RuntimeWarning,
                      stacklevel=2)
    return Device(driver, maker)
