"""The buffers and the execution context of one shape on an open plan.

Each shape has its own execution context, and all addresses are fixed. So a run is captured as a
CUDA graph once and launched for any input. In TensorRT a captured graph is undefined after any
change to its context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....errors import EngineError
from .context import FLOAT, Activations, OpenPlan
from .device import Device, Graph, Memory

__all__ = ["ImageBuffers", "RunBuffers"]


class RunBuffers:
    """``gpu.engine.Buffers`` by TensorRT; created by the device's thread."""

    def __init__(self, device: Device, opened: OpenPlan, activations: Activations,
                 tensors: Mapping[str, Sequence[int]], images: Sequence[str],
                 addresses: Mapping[str, int]) -> None:
        """
        tensors    the shapes of the inputs and outputs that get buffers, by name
        images     those of them whose shapes the context receives
        addresses  of all other inputs
        """
        self.opened = opened
        self._device, self._activations = device, activations
        self._graph: Graph | None = None  # of a run
        self._warm = False
        self._generation = -1
        self._buffers: dict[str, Memory] = {}
        self._context: Any = None
        try:
            for name, shape in tensors.items():
                self._buffers[name] = device.allocate(FLOAT * int(np.prod(shape)))
            self._context = opened.context(device.stream)
            for name in images:
                if not self._context.set_input_shape(name, tuple(tensors[name])):
                    raise opened.failure(f"shape {tuple(tensors[name])} of {name}")
            for name, address in {**addresses, **{name: memory.address for name, memory
                                                  in self._buffers.items()}}.items():
                if not self._context.set_tensor_address(name, address):
                    raise opened.failure(f"address of {name}")
            self._needed = opened.activation_bytes(self._context)
        except BaseException:
            self.release()
            raise

    def _run(self) -> None:
        """Put one run on the stream. The first of a shape captures nothing: it may be the only one,
        and TensorRT initializes itself in it."""
        if self._warm and self._graph is None:
            self._graph = self._device.capture(self._enqueue)
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()

    def _finish(self) -> None:
        """Wait for the work on the stream."""
        self._device.synchronise()
        self._warm = True

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise self.opened.failure("execute_async_v3")

    def _prepare(self) -> None:
        """Set the context's activations; graphs captured with other addresses are dropped."""
        self._activations.ensure(self._needed)
        if self._generation == self._activations.generation:
            return
        self._forget()
        self.opened.give_memory(self._context, self._activations.address, self._activations.size)
        self._generation = self._activations.generation

    def _forget(self) -> None:
        """Release the captured graphs."""
        graph, self._graph, self._warm = self._graph, None, False
        if graph is not None:
            graph.release()

    def release(self) -> None:
        """Release graphs, then the context, then the buffers, each even if another fails."""
        for action in (self._device.synchronise, self._forget):
            with contextlib.suppress(EngineError):
                action()
        self._context = None
        for memory in self._buffers.values():
            with contextlib.suppress(EngineError):
                memory.free()


class ImageBuffers(RunBuffers):
    """The input and the output of a network that runs once."""

    def __init__(self, device: Device, opened: OpenPlan, activations: Activations,
                 source: tuple[str, Sequence[int]], target: tuple[str, Sequence[int]]) -> None:
        """``source``, ``target``: name and shape of input and output."""
        self._source, (self._target, shape) = source[0], target
        self._shape = tuple(shape)
        super().__init__(device, opened, activations, dict((source, target)), (source[0],), {})

    def run(self, image: np.ndarray) -> np.ndarray:
        """The output for a contiguous float32 image."""
        self._prepare()
        self._device.upload(self._buffers[self._source].address, image)
        self._run()
        self._finish()
        return self._device.download(self._buffers[self._target].address, self._shape)
