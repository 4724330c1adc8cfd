"""The backends of TensorRT and TensorRT-RTX for diffusion models.

Without ``on_step`` a whole loop is one CUDA graph, with it each step is one (``step``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....bundle.record import NoisePredictorBundle
from ....bundle.step_graphs import StepGraphs
from ....sampling.sampler import OnStep
from ...gpu.noise_predictor import Factors, GpuNoisePredictor
from ..api import open_tensorrt
from ..plans import Plan
from ..sidecar import RTX_VARIANTS
from .context import DeviceRows, OpenPlan
from .device import Device
from .engine import TensorRtEngine
from .step import TensorRtStep

__all__ = ["TensorRtNoisePredictor"]


class TensorRtNoisePredictor(TensorRtEngine[TensorRtStep], GpuNoisePredictor[TensorRtStep]):
    """The plans of one variant, and one set of buffers on the device for each shape."""

    fuses_loop = True
    _device_rows: DeviceRows | None = None

    def __init__(self, bundle: NoisePredictorBundle, *, variant: str = "plugin", device_id: int = 0,
                 cuda_graph: bool = True) -> None:
        """Open the plans of a verified bundle on GPU ``device_id``.

        ``variant``: one of ``sidecar.VARIANTS``; ``cuda_graph``: whether to capture steps and loops
        that recur. Raises EngineError without TensorRT, plugin, GPU or a Python binding of the
        driver, and without a plan that was built for this machine.
        """
        api = open_tensorrt(rtx=variant in RTX_VARIANTS)
        super().__init__(bundle, StepGraphs(bundle), rows_apart=variant != "plugin")
        self._open_plans(api, variant, device_id, cuda_graph)

    def _read(self, plan: Plan, content: bytes) -> OpenPlan:
        return OpenPlan(self._api, plan, content, self._rows.places)

    def _allocate(self, gpu: Device) -> None:
        self._device_rows = DeviceRows(gpu, self._rows.size, len(self.timesteps))

    def _run_loop(self, first: np.ndarray, condition: np.ndarray, timesteps: tuple[int, ...],
                  factors: Sequence[Factors], on_step: OnStep | None) -> np.ndarray:
        if on_step is not None:  # a step must be finished when it is reported
            return super()._run_loop(first, condition, timesteps, factors, on_step)

        def rows() -> np.ndarray:
            return np.stack([self._rows.row(*step) for step in zip(timesteps, factors)])

        def whole(step: TensorRtStep) -> np.ndarray:
            step.load(first, condition)
            return step.loop((timesteps, tuple(map(tuple, factors))), rows, len(timesteps))

        return self._with_step(condition.shape, whole)

    def _new_step(self, shape: tuple[int, ...]) -> TensorRtStep:
        batch, _, height, width = shape
        assert self._device_rows is not None, "opening the device allocated them"
        return TensorRtStep(self._gpu, self._opened_for((batch, height, width)), self._activations,
                            self._device_rows, shape, self._rows.places)

    def _free_device(self) -> None:
        super()._free_device()
        if self._device_rows is not None:
            self._device_rows.release()
