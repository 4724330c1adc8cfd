"""The steps of one shape on an open plan.

A step, or a whole loop, is captured as a CUDA graph once and launched for any timesteps and
factors. As all addresses are fixed (``buffers``), the latent's are too: each step ends by copying
the new latent to the address that the next one reads. Only one row of float32 differs between
steps: a loop copies all its rows to a table on the device at once, and each step begins by copying
its own row from the table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ....graphs.update import LATENT
from .buffers import RunBuffers
from .context import FLOAT, IMAGES, PREDICTION, Activations, DeviceRows, OpenPlan
from .device import Device, Graph

__all__ = ["TensorRtStep"]

_LOOPS = 2  # captured loops kept for each shape, by their number of steps
_NOISY, _CONDITION = IMAGES


class TensorRtStep(RunBuffers):
    """``gpu.noise_predictor.Step`` by TensorRT."""

    def __init__(self, device: Device, opened: OpenPlan, activations: Activations, rows: DeviceRows,
                 shape: Sequence[int],
                 places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        """``places``: those of ``StepRows`` for ``rows``."""
        self._rows, self._shape = rows, tuple(shape)
        self._loops: OrderedDict[int, Graph | None] = OrderedDict()
        super().__init__(
            device, opened, activations,
            dict.fromkeys((_NOISY, LATENT, _CONDITION, PREDICTION), self._shape), IMAGES,
            {name: rows.row + FLOAT * offset for name, (offset, _) in places.items()})

    def load(self, latent: np.ndarray, condition: np.ndarray) -> None:
        for target, source in ((_NOISY, latent), (_CONDITION, condition)):
            self._device.upload(self._buffers[target].address,
                                np.ascontiguousarray(source, np.float32))
        self._device.synchronise()

    def run(self, row: np.ndarray) -> None:
        """Run one step to its end."""
        self._prepare()
        self._rows.put(row)
        self._run()
        self._finish()

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
        self._finish()
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
        super()._enqueue()
        noisy = self._buffers[_NOISY]
        self._device.copy(noisy.address, self._buffers[LATENT].address, noisy.size)

    def prediction(self) -> np.ndarray:
        return self._device.download(self._buffers[PREDICTION].address, self._shape)

    def latent(self) -> np.ndarray:
        return self._device.download(self._buffers[LATENT].address, self._shape)

    def _forget(self) -> None:
        super()._forget()
        loops, self._loops = self._loops, OrderedDict.fromkeys(self._loops)
        for graph in loops.values():
            if graph is not None:
                graph.release()

    def release(self) -> None:
        super().release()
        self._rows.forget()
