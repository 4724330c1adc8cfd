"""A GPU as the TensorRT backend uses it: memory, copies, one stream, and captured graphs.

pycuda allocates and copies. It has no CUDA graphs; they come from cuda-python, on the same primary
context. Without pycuda, cuda-python does both; without cuda-python nothing is captured. Neither is
imported before a GPU is opened.
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
    """One binding of the CUDA driver, with one stream of a GPU. All calls come from the thread that
    created it, all but ``close`` between ``enter`` and ``leave``; all raise CudaError."""

    name: str
    stream: int  # handle

    def enter(self) -> None:
        """Make the GPU's primary context current."""

    def leave(self) -> None: ...

    def allocate(self, count: int) -> tuple[int, Any]:
        """(address, what ``free`` takes)"""

    def free(self, owner: Any) -> None: ...

    def upload(self, address: int, array: np.ndarray) -> None:
        """From a contiguous array, which must exist until ``synchronise``."""

    def download(self, array: np.ndarray, address: int) -> None:
        """To a contiguous array, which is complete after ``synchronise``."""

    def copy(self, target: int, source: int, count: int) -> None: ...

    def synchronise(self) -> None: ...

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes."""

    def close(self) -> None: ...


class GraphMaker(Protocol):
    """Captures of a stream as CUDA graphs; the rules of ``Driver`` apply to its calls."""

    name: str

    def begin(self, stream: int) -> None: ...

    def end(self, stream: int) -> Any:
        """The captured graph, ready to be launched. Ends the capture even if it raises
        CudaError."""

    def launch(self, graph: Any, stream: int) -> None: ...

    def destroy(self, graph: Any) -> None: ...


class Memory:
    """``size`` bytes on a device at ``address``, until ``free`` is called."""

    def __init__(self, driver: Driver, count: int) -> None:
        self._driver, self.size = driver, count
        self.address, self._owner = driver.allocate(count)

    def free(self) -> None:
        """Free the memory; may be called again."""
        owner, self._owner, self.address = self._owner, None, 0
        if owner is not None:
            self._driver.free(owner)


class Graph:
    """Captured work, which can be launched any number of times until ``release``."""

    def __init__(self, maker: GraphMaker, made: Any, stream: int) -> None:
        self._maker, self._made, self._stream = maker, made, stream

    def launch(self) -> None:
        self._maker.launch(self._made, self._stream)

    def release(self) -> None:
        """Destroy the graph; may be called again."""
        made, self._made = self._made, None
        if made is not None:
            self._maker.destroy(made)


class Device:
    """One GPU with one stream, which runs all work in order. Every call must come from the thread
    that opened the device, within ``current``, and raises CudaError if the driver refuses."""

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
        """A context manager that makes the GPU's primary context current. Not for longer, because
        pycuda ends the process if a thread ends with a current context."""
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
        """``count`` uninitialized bytes, aligned to 256."""
        return Memory(self._driver, count)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; it must not change before ``synchronise``."""
        self._held.append(array)
        self._driver.upload(address, array)

    def download(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array of that shape, copied after all earlier work."""
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
        """(free, total) bytes of the GPU's memory."""
        return self._driver.memory()

    def capture(self, work: Callable[[], None]) -> Graph | None:
        """The graph of the work that ``work`` puts on the stream; it is recorded, not run.

        None if it cannot be captured: a RuntimeWarning gives the reason, and no capture is tried
        again. An EngineError of ``work`` itself appears again when the work is run.
        """
        if self._maker is None:
            return None
        try:
            self._maker.begin(self.stream)
            try:
                work()
            except Exception:
                # The stream must leave the capture; the incomplete graph is destroyed.
                with contextlib.suppress(CudaError):
                    self._maker.destroy(self._maker.end(self.stream))
                raise
            return Graph(self._maker, self._maker.end(self.stream), self.stream)
        except EngineError as error:
            reason = str(error)
        self._maker = None
        warnings.warn(f"the steps cannot be captured as a CUDA graph ({reason}); running without, "
                      "which is slower", RuntimeWarning, stacklevel=2)
        return None

    def close(self) -> None:
        """Release stream and context, outside ``current``; memory and graphs must be freed
        before."""
        self._driver.close()


def open_device(ordinal: int, *, graphs: bool = True) -> Device:
    """GPU ``ordinal``, for this thread. ``graphs``: whether to capture CUDA graphs.

    Raises EngineError if neither binding is installed, or the driver has no such GPU.
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
        raise EngineError(f"GPU {ordinal} cannot be used: {error}; bidiff-deploy doctor shows "
                          "which GPUs there are") from None
    if not graphs:
        maker = None
    elif maker is None:
        warnings.warn(f"cuda-python cannot be imported ({missing}), and pycuda captures no CUDA "
                      "graphs; running without, which is slower; pip install cuda-python",
                      RuntimeWarning, stacklevel=2)
    return Device(driver, maker)
