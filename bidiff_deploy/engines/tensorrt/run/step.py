"""The steps of one shape on an open plan.

Each shape has its own execution context, and all addresses are fixed. So a step, or a whole loop,
is captured as a CUDA graph once and launched for any timesteps and factors. In TensorRT a captured
graph is undefined after any change to its context, so the latent's addresses are fixed too: each
step ends by copying the new latent to the address that the next one reads. Only one row of float32
differs between steps: a loop copies all its rows to a table on the device at once, and each step
begins by copying its own row from the table.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....errors import EngineError
from ....graphs.update import LATENT
from .context import FLOAT, IMAGES, PREDICTION, Activations, DeviceRows, OpenPlan
from .device import Device, Graph, Memory

__all__ = ["TensorRtStep"]

_LOOPS = 2  # captured loops kept for each shape, by their number of steps


class TensorRtStep:
    """``gpu.noise_predictor.Step`` by TensorRT; created by the device's thread."""

    def __init__(self, device: Device, opened: OpenPlan, activations: Activations, rows: DeviceRows,
                 shape: Sequence[int],
                 places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        """``places``: those of ``StepRows`` for ``rows``."""
        self.opened = opened
        self._device, self._activations, self._rows = device, activations, rows
        self._shape = tuple(shape)
        self._graph: Graph | None = None  # of a step
        self._loops: OrderedDict[int, Graph | None] = OrderedDict()
        self._warm = False
        self._generation = -1
        self._buffers: list[Memory] = []
        self._context: Any = None
        try:
            self._bytes = FLOAT * int(np.prod(self._shape))
            for _ in range(4):
                self._buffers.append(device.allocate(self._bytes))
            self._noisy, self._latent, self._condition, self._prediction = self._buffers
            self._context = opened.context(device.stream)
            self._bind(places)
            self._needed = opened.activation_bytes(self._context)
        except BaseException:
            self.release()
            raise

    def _bind(self, places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        addresses = {"noisy": self._noisy.address, "condition": self._condition.address,
                     PREDICTION: self._prediction.address, LATENT: self._latent.address,
                     **{name: self._rows.row + FLOAT * offset
                        for name, (offset, _) in places.items()}}
        for name in IMAGES:
            if not self._context.set_input_shape(name, self._shape):
                raise self.opened.failure(f"shape {self._shape} of {name}")
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self.opened.failure(f"address of {name}")

    def load(self, latent: np.ndarray, condition: np.ndarray) -> None:
        for target, source in ((self._noisy, latent), (self._condition, condition)):
            self._device.upload(target.address, np.ascontiguousarray(source, np.float32))
        self._device.synchronise()

    def run(self, row: np.ndarray) -> None:
        """Run one step to its end. The first run of a shape captures nothing: it may be the only
        one, and TensorRT initializes itself in it."""
        self._prepare()
        self._rows.put(row)
        if self._warm and self._graph is None:
            self._graph = self._device.capture(self._enqueue)
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()
        self._device.synchronise()
        self._warm = True

    def loop(self, key: object, rows: Callable[[], np.ndarray], steps: int) -> np.ndarray:
        """The latent after ``steps`` steps from the loaded latent. ``rows()`` returns their table,
        which ``key`` identifies. The loop is captured when its number of steps recurs."""
        self._prepare()
        self._rows.load(key, rows)
        graph = self._loop_graph(steps)
        if graph is None:
            self._steps(steps)
        else:
            graph.launch()
        self._device.synchronise()
        self._warm = True
        return self.latent()

    def _loop_graph(self, steps: int) -> Graph | None:
        if steps not in self._loops:
            while len(self._loops) >= _LOOPS:
                _, oldest = self._loops.popitem(last=False)
                if oldest is not None:
                    oldest.release()
            self._loops[steps] = None  # seen once
            return None
        self._loops.move_to_end(steps)
        if self._loops[steps] is None and self._warm:
            self._loops[steps] = self._device.capture(lambda: self._steps(steps))
        return self._loops[steps]

    def _steps(self, steps: int) -> None:
        for step in range(steps):
            self._rows.take(step)
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise self.opened.failure("execute_async_v3")
        self._device.copy(self._noisy.address, self._latent.address, self._bytes)

    def _prepare(self) -> None:
        """Set the context's activations; graphs captured with other addresses are dropped."""
        self._activations.ensure(self._needed)
        if self._generation == self._activations.generation:
            return
        self._forget()
        self.opened.give_memory(self._context, self._activations.address, self._activations.size)
        self._generation = self._activations.generation

    def prediction(self) -> np.ndarray:
        return self._device.download(self._prediction.address, self._shape)

    def latent(self) -> np.ndarray:
        return self._device.download(self._latent.address, self._shape)

    def _forget(self) -> None:
        graphs = [self._graph, *self._loops.values()]
        self._graph, self._warm = None, False
        self._loops = OrderedDict.fromkeys(self._loops)
        for graph in graphs:
            if graph is not None:
                graph.release()

    def release(self) -> None:
        """Release graphs, then the context, then the buffers, each even if another fails."""
        for action in (self._device.synchronise, self._forget):
            with contextlib.suppress(EngineError):
                action()
        self._context = None
        self._rows.forget()
        for memory in self._buffers:
            with contextlib.suppress(EngineError):
                memory.free()
