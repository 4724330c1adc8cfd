"""Backends ``onnxruntime`` and ``onnxruntime-stock``: diffusion models on CPUs.

The first uses the op library's packed kernels. Without the library, and with the second, the same
graph runs through the function bodies of its operators: float32 convolutions of +-1, which are slow
and the baseline that speed is measured against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...bundle.record import NoisePredictorBundle
from ...bundle.step_graphs import StepGraphs
from ..noise_predictor import NoisePredictor
from .session import (
    import_onnxruntime,
    open_session,
    precision_in_use,
    run_failure,
    thread_count,
)

__all__ = ["OnnxRuntimeNoisePredictor"]


class OnnxRuntimeNoisePredictor(NoisePredictor):
    """One session for all steps: the steps' constants are inputs of one graph."""

    def __init__(self, bundle: NoisePredictorBundle, *, threads: int | None = None,
                 packed: bool = True) -> None:
        """Open a verified bundle. ``packed=False`` does not load the op library. Raises EngineError
        without onnxruntime, or if a forced kernel cannot run on this CPU."""
        self._ort = import_onnxruntime()
        super().__init__(bundle)
        self.threads = thread_count(threads)
        self._graphs = StepGraphs(bundle)
        self._constants: dict[int, dict[str, Any]] = {}
        self._session, self.kernel = open_session(self._graphs, self.threads, packed)

    @property
    def precision(self) -> str:
        """As the base class has it; float16 is not used."""
        return "float32" if self.bundle.precision == "float16" else super().precision

    @property
    def description(self) -> str:
        """Backend, version, kernel, precision and threads in a few words."""
        return (f"onnxruntime {self._ort.__version__}, kernel {self.kernel}, "
                f"{precision_in_use(self.bundle.precision, self.kernel)}, "
                f"{self.threads} thread{'s' if self.threads > 1 else ''}")

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        value = self._ort.OrtValue.ortvalue_from_numpy
        if timestep not in self._constants:
            self._constants[timestep] = {
                name: value(np.asarray(constant))
                for name, constant in self._graphs.constants(timestep).items()}
        feeds = {**self._constants[timestep], "noisy": value(noisy), "condition": value(condition)}
        try:
            prediction: np.ndarray = self._session.run_with_ort_values(["prediction"],
                                                                       feeds)[0].numpy()
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise run_failure("a step", noisy, error) from None
        return prediction

    def _close(self) -> None:
        self._session = None
        self._constants.clear()
