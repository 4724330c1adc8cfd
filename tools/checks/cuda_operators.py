"""Runs operators of the op contract on a GPU, from numpy arrays to numpy arrays.

    with Gpu(0) as gpu:
        y = gpu.call("BinaryConv", x, [Branch(words, alpha)]).run("popc")

A call keeps its arrays on the GPU, so that several paths can run it and it can be timed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from bidiff_deploy.engines.gpu.library import (
    DeviceInfo,
    Launch,
    ProblemStruct,
    call,
    device_info,
    launches,
    load_kernels,
    paths,
)
from bidiff_deploy.errors import EngineError
from bidiff_deploy.operators.sign_bits import WORD_BITS

__all__ = ["OPERATORS", "Branch", "Call", "Gpu"]

# In the order of ``Op`` in engines/cuda/problem.h.
OPERATORS = ("BinaryConv", "NormBinaryConv", "BinaryFusion", "BinaryDown", "BinaryUp",
             "GroupNormSwish")
_BRANCHES = {"BinaryConv": 1, "NormBinaryConv": 1, "BinaryFusion": 2, "BinaryDown": 2,
             "BinaryUp": 2, "GroupNormSwish": 0}
_ELEMENTS = {np.dtype(np.float32): 1, np.dtype(np.float16): 10}
_ALIGNMENT = 256  # of the blocks that cuMemAlloc returns

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Branch:
    """Weights of one convolution: words int32 (Cout, k, k, ceil(Cin/32)), float32 alpha (Cout), and
    optionally threshold (Cin) and rprelu (3, Cout)."""

    words: Array
    alpha: Array
    threshold: Array | None = None
    rprelu: Array | None = None


class Gpu:
    """A GPU with the kernels loaded, and the memory that is allocated on it until it is closed.

    Raises:
        EngineError: no driver, no such GPU, a GPU that is too old, or no kernels for it.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self.info: DeviceInfo = device_info(ordinal)
        self.origin = load_kernels(ordinal)
        self._blocks: set[int] = set()

    def __enter__(self) -> Gpu:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release all memory."""
        for pointer in list(self._blocks):
            self.release(pointer)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that can compute sums, the one expected to be fastest first."""
        return paths(self.info.architecture)

    @property
    def free_memory(self) -> int:
        """Bytes that no program uses."""
        free, total = ctypes.c_uint64(), ctypes.c_uint64()
        call("memory", self.info.ordinal, ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int, purpose: str = "a buffer", units: int = 0,
                 unit: str = "images") -> int:
        """Pointer to ``size`` bytes.

        Raises:
            EngineError: not enough memory; names the free bytes and how many of ``units`` would
                fit.
        """
        pointer = ctypes.c_uint64()
        call("allocate", self.info.ordinal, size, purpose.encode(), units, unit.encode(),
             ctypes.byref(pointer))
        self._blocks.add(pointer.value)
        return pointer.value

    def release(self, pointer: int) -> None:
        """Release a block that ``allocate`` returned."""
        self._blocks.discard(pointer)
        call("release", self.info.ordinal, pointer)

    def upload(self, array: Array, pointer: int | None = None) -> int:
        """Copy an array to the GPU, to a new block if no pointer is given.

        Its last byte is then the last of the block, so that compute-sanitizer notices a read beyond
        it; it is aligned to its size, not to 256 bytes.
        """
        array = np.ascontiguousarray(array)
        if pointer is None:
            pointer = self.empty(array.nbytes)
        call("upload", self.info.ordinal, pointer, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return pointer

    def empty(self, size: int, purpose: str = "an array", units: int = 0) -> int:
        """Pointer to ``size`` bytes at the end of a block; see ``upload`` and ``allocate``."""
        whole = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        return self.allocate(whole, purpose, units) + whole - size

    def download(self, pointer: int, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Copy an array from the GPU."""
        array: Array = np.empty(tuple(shape), dtype)
        call("download", self.info.ordinal, ctypes.c_void_p(array.ctypes.data), pointer,
             array.nbytes)
        return array

    def prepare(self, words: Array, in_channels: int) -> int:
        """Device form of ``words`` (Cout, k, k, ceil(Cin/32)), for every path."""
        size = ctypes.c_uint64()
        out_channels, k = words.shape[:2]
        call("prepared_bytes", out_channels, in_channels, k, ctypes.byref(size))
        prepared, given = self.allocate(size.value, "weights"), self.upload(words)
        call("prepare", self.info.ordinal, out_channels, in_channels, k, given, prepared)
        return prepared

    def call(self, operator: str, x: Array, branches: Sequence[Branch] = (), *,
             second: Array | None = None, residual: Array | None = None,
             skip: Array | None = None, time: Array | None = None, scale: Array | None = None,
             bias: Array | None = None, groups: int = 1) -> Call:
        """One operator with its arrays on the GPU.

        Args:
            operator: one of OPERATORS.
            x, second, residual, skip: maps (N, C, H, W), float32 or float16 as x is; ``second`` is
                BinaryFusion's skip; residual and skip may have one element.
            branches: the operator's convolutions.
            time, scale, bias: float32 (C), or time of one element.

        Raises:
            EngineError: dtypes or the number of branches do not fit, or no memory; shapes are
                refused when it is run.
        """
        return Call(self, operator, x, branches, {
            "second": second, "residual": residual, "skip": skip}, {
            "time": time, "scale": scale, "bias": bias}, groups)


class Call:
    """An operator's call on a GPU; made by :meth:`Gpu.call`."""

    def __init__(self, gpu: Gpu, operator: str, x: Array, branches: Sequence[Branch],
                 maps: dict[str, Array | None], vectors: dict[str, Array | None],
                 groups: int) -> None:
        self.gpu, self.operator, self.dtype = gpu, operator, x.dtype
        if x.ndim != 4 or x.dtype not in _ELEMENTS:
            raise EngineError(f"x must be float32 or float16 (N, C, H, W), not {x.dtype} {x.shape}")
        if len(branches) != _BRANCHES[operator]:
            raise EngineError(f"{operator} has {_BRANCHES[operator]} branches, but "
                              f"{len(branches)} were given")
        batch, channels, height, width = x.shape
        self.problem = problem = ProblemStruct(
            op=OPERATORS.index(operator), element=_ELEMENTS[x.dtype], batch=batch,
            channels=channels, height=height, width=width, groups=groups,
            out_channels=branches[0].words.shape[0] if branches else channels,
            k=branches[0].words.shape[1] if branches else 1, x=gpu.upload(x))
        for index, branch in enumerate(branches):
            problem.branch[index][:] = self._branch(branch, operator, channels)
        for name, value in maps.items():
            if value is not None:
                if value.dtype != x.dtype:
                    raise EngineError(f"{name} must be {x.dtype} as x is, not {value.dtype}")
                setattr(problem, name, gpu.upload(value))
        for name, value in vectors.items():
            if value is not None:
                setattr(problem, name, gpu.upload(_float32(name, value)))
        for name, value in (*maps.items(), *vectors.items()):
            if hasattr(problem, f"{name}_is_scalar") and value is not None:
                setattr(problem, f"{name}_is_scalar", int(value.size == 1))
        self.shape = _output_shape(operator, x.shape, problem.out_channels)
        problem.y = gpu.empty(int(np.prod(self.shape)) * x.itemsize, "the output", batch)
        size = ctypes.c_uint64()
        call("workspace_bytes", ctypes.byref(problem), ctypes.byref(size))
        self.workspace_bytes = size.value
        self._workspace = gpu.allocate(size.value, "the workspace", batch) if size.value else 0

    def run(self, path: str = "auto") -> Array:
        """The output, computed on the GPU by ``path``. Raises EngineError."""
        call("run", self.gpu.info.ordinal, ctypes.byref(self.problem), path.encode(),
             self._workspace)
        return self.gpu.download(self.problem.y, self.shape, self.dtype)

    def launches(self, path: str = "auto") -> list[Launch]:
        """The kernel launches of a run."""
        return launches(self.problem, self.gpu.info.architecture, path)

    def time(self, path: str = "auto", *, rounds: int, as_graph: bool = True,
             others: Sequence[Call] = ()) -> float:
        """Mean milliseconds on the GPU, measured by its events.

        ``others``: calls of the same shapes on other memory, run in turn with this one, so that
        maps do not stay in the cache. ``as_graph``: launched as a CUDA graph.
        """
        calls = [self, *others]
        problems = (ProblemStruct * len(calls))(*(entry.problem for entry in calls))
        milliseconds = ctypes.c_double()
        call("time", self.gpu.info.ordinal, problems, len(calls), path.encode(), self._workspace,
             rounds, int(as_graph), ctypes.byref(milliseconds))
        return milliseconds.value

    def _branch(self, branch: Branch, operator: str, channels: int) -> tuple[int, ...]:
        in_channels = channels // 2 if operator == "BinaryDown" else channels
        words = branch.words
        last = -(-in_channels // WORD_BITS)
        if words.dtype != np.int32 or words.ndim != 4 or words.shape[3] != last:
            raise EngineError(f"words must be int32 (Cout, k, k, {last}), not {words.dtype} "
                              f"{words.shape}")
        optional = [0 if value is None else self.gpu.upload(_float32(name, value))
                    for name, value in (("threshold", branch.threshold), ("rprelu", branch.rprelu))]
        return (self.gpu.prepare(words, in_channels),
                self.gpu.upload(_float32("alpha", branch.alpha)), *optional)


def _float32(name: str, value: Array) -> Array:
    if value.dtype != np.float32:
        raise EngineError(f"{name} must be float32, not {value.dtype}")
    return value


def _output_shape(operator: str, shape: tuple[int, ...], out_channels: int) -> tuple[int, ...]:
    batch, channels, height, width = shape
    if operator == "BinaryConv":
        return batch, out_channels, height, width
    if operator == "BinaryDown":
        return batch, 2 * channels, height // 2, width // 2
    if operator == "BinaryUp":
        return batch, channels // 2, 2 * height, 2 * width
    return shape
