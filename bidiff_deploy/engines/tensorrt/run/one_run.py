"""The backends of TensorRT and TensorRT-RTX for networks that run once."""

from __future__ import annotations

import numpy as np

from ....bundle.record import Bundle
from ....bundle.step_graphs import StepGraphs
from ...one_run import OneRun
from ..api import open_tensorrt
from ..plans import Plan
from ..sidecar import RTX_VARIANTS
from .buffers import ImageBuffers
from .context import OpenPlan
from .engine import TensorRtEngine

__all__ = ["TensorRtOneRun"]


class TensorRtOneRun(TensorRtEngine[ImageBuffers], OneRun):
    """The plans of one variant, and one set of buffers on the device for each shape."""

    what = "the network"
    usual_tile = 1024
    large_whole = True  # time grows with the area and no faster

    def __init__(self, bundle: Bundle, *, variant: str = "plugin", device_id: int = 0,
                 cuda_graph: bool = True) -> None:
        """Open the plans of a verified bundle on GPU ``device_id``.

        ``variant``: one of ``sidecar.VARIANTS``; ``cuda_graph``: whether to capture runs of shapes
        that recur. Raises EngineError as ``TensorRtNoisePredictor``.
        """
        api = open_tensorrt(rtx=variant in RTX_VARIANTS)
        super().__init__(bundle)
        graph = StepGraphs(bundle).built.model.graph
        (self._input,), (self._output,) = ([value.name for value in part]
                                            for part in (graph.input, graph.output))
        self._open_plans(api, variant, device_id, cuda_graph)

    @property
    def _ratio(self) -> int:
        return self.scale

    def _largest_tile(self) -> int:
        return max((min(plan.info.profile.maximum[1:]) for plan in self._plans),
                   default=0) * self.scale

    def _read(self, plan: Plan, content: bytes) -> OpenPlan:
        return OpenPlan(self._api, plan, content, {}, (self._input,), (self._output,))

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        with self._alone():
            return self._with_step(image.shape, lambda buffers: buffers.run(image))

    def _new_step(self, shape: tuple[int, ...]) -> ImageBuffers:
        batch, channels, height, width = shape
        return ImageBuffers(self._gpu, self._opened_for((batch, height, width)), self._activations,
                            (self._input, shape),
                            (self._output, (batch, channels, height * self.scale,
                                            width * self.scale)))
