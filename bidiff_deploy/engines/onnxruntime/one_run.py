"""Networks without a loop by ONNX Runtime on CPUs: one run of one graph for each image or tile."""

from __future__ import annotations

import numpy as np

from ...bundle.record import Bundle
from ...bundle.step_graphs import StepGraphs
from ..one_run import OneRun
from .session import (
    import_onnxruntime,
    open_session,
    precision_in_use,
    run_failure,
    thread_count,
)

__all__ = ["OnnxRuntimeOneRun"]


class OnnxRuntimeOneRun(OneRun):
    """One session of the bundle's one graph."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None, packed: bool = True) -> None:
        """Open a verified bundle. ``packed=False`` does not load the op library. Raises EngineError
        without onnxruntime, or if a forced kernel cannot run on this CPU."""
        super().__init__(bundle)
        self._ort = import_onnxruntime()
        self.threads = thread_count(threads)
        self._session, self.kernel = open_session(StepGraphs(bundle), self.threads, packed)
        self._input = self._session.get_inputs()[0].name

    @property
    def precision(self) -> str:
        """As the base class has it; float16 is not used."""
        return "float32" if self.bundle.precision == "float16" else super().precision

    @property
    def description(self) -> str:
        """Backend, version, kernel, precision and threads in a few words."""
        return (f"onnxruntime {self._ort.__version__}, kernel {self.kernel}, feed-forward, "
                f"{precision_in_use(self.bundle.precision, self.kernel)}, "
                f"{self.threads} thread{'s' if self.threads > 1 else ''}")

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        try:
            enlarged: np.ndarray = self._session.run(None, {self._input: image})[0]
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise run_failure("the network", image, error) from None
        return enlarged

    def _close(self) -> None:
        self._session = None
