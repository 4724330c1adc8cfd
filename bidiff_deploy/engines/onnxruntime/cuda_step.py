"""A step's inputs and outputs on a device, at fixed addresses.

So the CUDA graph of a step is captured once for a shape and launched for every timestep. Only one
row of float32 differs between steps; it is copied to the device before each. The latent alternates
between two buffers. Any device of ONNX Runtime works, including the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...graphs.update import LATENT
from .cuda_provider import Target

# ONNX Runtime captures a graph for each number except this one.
NO_GRAPH = -1


class DeviceStep:
    """The buffers of one shape, and one binding for each direction of the latent."""

    def __init__(self, ort: Any, session: Any, target: Target, shape: Sequence[int],
                 places: Mapping[str, tuple[int, tuple[int, ...]]], size: int,
                 graph_ids: tuple[int, int]) -> None:
        """``places``, ``size``: those of ``StepRows``. ``graph_ids``: two numbers that no other
        step of the session uses."""
        self._ort, self._session = ort, session

        def empty(*dims: int) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(dims, np.float32, target.device,
                                                             target.device_id)

        self._latents = empty(*shape), empty(*shape)
        self._condition, self._prediction, self._row = empty(*shape), empty(*shape), empty(size)
        self._side = 0
        self._graph_ids = graph_ids
        self._warm = False
        self._bindings = []
        for side in (0, 1):
            binding = session.io_binding()
            binding.bind_ortvalue_input("noisy", self._latents[side])
            binding.bind_ortvalue_input("condition", self._condition)
            for name, (offset, dims) in places.items():
                binding.bind_input(name, target.device, target.device_id, np.float32, list(dims),
                                   self._row.data_ptr() + 4 * offset)
            binding.bind_ortvalue_output("prediction", self._prediction)
            binding.bind_ortvalue_output(LATENT, self._latents[1 - side])
            self._bindings.append(binding)

    def load(self, latent: np.ndarray, condition: np.ndarray) -> None:
        """Copy the loop's first latent and its condition to the device."""
        self._side = 0
        self._latents[0].update_inplace(np.ascontiguousarray(latent, np.float32))
        self._condition.update_inplace(np.ascontiguousarray(condition, np.float32))

    def run(self, row: np.ndarray) -> None:
        """Run one step with these constants. The first run of a shape captures no graph: it may be
        the only one, and a capture takes as long as two more runs."""
        self._row.update_inplace(row)
        options = self._ort.RunOptions()
        graph = self._graph_ids[self._side] if self._warm else NO_GRAPH
        options.add_run_config_entry("gpu_graph_id", str(graph))
        self._session.run_with_iobinding(self._bindings[self._side], options)
        self._warm = True
        self._side = 1 - self._side

    def prediction(self) -> np.ndarray:
        """The prediction of the last run, float32, copied to the host."""
        return np.array(self._prediction.numpy())

    def latent(self) -> np.ndarray:
        """The latent after the last run's update, float32, copied to the host."""
        return np.array(self._latents[self._side].numpy())

    def release(self) -> None:
        """Release the captured graphs, if this ONNX Runtime can before the session ends. Must be
        called before the buffers are freed."""
        release = getattr(self._session, "release_captured_graph", None)
        if release is not None and self._warm:
            for number in self._graph_ids:
                release(number)
