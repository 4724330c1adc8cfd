"""A network without a loop by ONNX Runtime on CPU: one run of one graph an image or tile."""

from __future__ import annotations

import os

import numpy as np

from ...bundle.record import Bundle
from ...bundle.step_graphs import StepGraphs
from ...errors import EngineError
from ..one_run import OneRun
from .cpu import import_onnxruntime, open_session, sentence

__all__ = ["OnnxRuntimeOneRun"]


class OnnxRuntimeOneRun(OneRun):
    """One session of the bundle's one graph."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None, packed: bool = True) -> None:
        """Open a verified bundle. ``packed=False`` leaves the op library out. Raises EngineError
        without onnxruntime, or where a forced kernel cannot run on this CPU."""
        super().__init__(bundle)
        self._ort = import_onnxruntime()
        self.threads = threads or os.cpu_count() or 1
        self._session, self.kernel = open_session(StepGraphs(bundle), self.threads, packed)
        self._input = self._session.get_inputs()[0].name

    @property
    def description(self) -> str:
        """Backend, version, kernel and threads in a few words."""
        return (f"onnxruntime {self._ort.__version__}, kernel {self.kernel}, feed-forward, "
                f"{self.threads} thread{'s' if self.threads > 1 else ''}")

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        try:
            return self._session.run(None, {self._input: image})[0]
        except Exception as error:  # onnxruntime raises classes of its C extension
            height, width = image.shape[-2:]
            raise EngineError(f"onnxruntime could not run the network at {width}x{height}: "
                              f"{sentence(error)}; a smaller image, or smaller tiles, "
                              "need less memory") from None

    def _close(self) -> None:
        self._session = None
