"""A step's inputs and outputs on a device, at addresses that do not change.

So a CUDA graph of a step can be captured once for a shape and launched for every timestep. What
differs between steps is one row of float32, copied to the device before each; the latent goes back
and forth between two buffers. Any device of ONNX Runtime will do, the CPU among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...graphs.update import LATENT
from .cuda_provider import Target

# ONNX Runtime captures a graph for each number, and none for this one.
NO_GRAPH = -1


class DeviceStep:
    """One shape: buffers on the device, and one binding for each direction of the latent."""

    def __init__(self, ort: Any, session: Any, target: Target, shape: Sequence[int],
                 places: Mapping[str, tuple[int, tuple[int, ...]]], size: int,
                 graph_ids: tuple[int, int]) -> None:
        """``places`` and ``size`` as ``StepRows`` has them. ``graph_ids``: two numbers that no
        other object of the session has."""
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
        """One step with these constants. The first run of a shape captures no graph: it may be the
        only one, and a capture costs as much as two more."""
        self._row.update_inplace(row)
        options = self._ort.RunOptions()
        graph = self._graph_ids[self._side] if self._warm else NO_GRAPH
        options.add_run_config_entry("gpu_graph_id", str(graph))
        self._session.run_with_iobinding(self._bindings[self._side], options)
        self._warm = True
        self._side = 1 - self._side

    def prediction(self) -> np.ndarray:
        """What the network saw in the last run, float32, copied to the host."""
        return np.array(self._prediction.numpy())

    def latent(self) -> np.ndarray:
        """What the last run's update made of the latent, float32, copied to the host."""
        return np.array(self._latents[self._side].numpy())

    def release(self) -> None:
        """Give back the captured graphs, where this ONNX Runtime can do so before the session
        ends. To be called before the buffers go."""
        give_back = getattr(self._session, "release_captured_graph", None)
        if give_back is not None and self._warm:
            for number in self._graph_ids:
                give_back(number)
