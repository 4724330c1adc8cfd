"""Latent networks by ONNX Runtime on CPUs: a session each for encoder, step and decoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...bundle.record import LatentBundle
from ...bundle.step_graphs import StepGraphs
from ...networks.base import LATENT, PARTS, STEP
from ..latent import LatentDiffusion
from .session import import_onnxruntime, open_session, run_failure, thread_count

__all__ = ["OnnxRuntimeLatent"]

_WHAT = {"encoder": "the encoder", "step": "a step", "decoder": "the decoder"}


class OnnxRuntimeLatent(LatentDiffusion):
    """One session for all steps, whose constants are inputs of its graph."""

    def __init__(self, bundle: LatentBundle, *, threads: int | None = None,
                 packed: bool = True) -> None:
        """Open a verified bundle. ``packed=False`` does not load the op library. Raises EngineError
        without onnxruntime, or if a forced kernel cannot run on this CPU."""
        self._ort = import_onnxruntime()
        super().__init__(bundle)
        self.threads = thread_count(threads)
        self._graphs = {part: StepGraphs(bundle, part) for part in PARTS[LATENT]}
        self._constants: dict[int, dict[str, Any]] = {}
        self._sessions: dict[str, Any] = {}
        for part, graphs in self._graphs.items():
            # The plan takes half the time of opening and changes neither time nor peak memory of a
            # run (docs/verified.md).
            self._sessions[part], self.kernel = open_session(graphs, self.threads, packed,
                                                             reuse=False)

    @property
    def description(self) -> str:
        """Backend, version, kernel and threads in a few words."""
        return (f"onnxruntime {self._ort.__version__}, kernel {self.kernel}, latent, "
                f"{self.threads} thread{'s' if self.threads > 1 else ''}")

    def _run(self, part: str, inputs: dict[str, np.ndarray], timestep: int = 0) -> np.ndarray:
        value = self._ort.OrtValue.ortvalue_from_numpy
        feeds = {name: value(array) for name, array in inputs.items()}
        if part == STEP:
            if timestep not in self._constants:
                self._constants[timestep] = {
                    name: value(np.asarray(constant))
                    for name, constant in self._graphs[STEP].constants(timestep).items()}
            feeds.update(self._constants[timestep])
        session = self._sessions[part]
        try:
            result: np.ndarray = session.run_with_ort_values(
                [session.get_outputs()[0].name], feeds)[0].numpy()
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise run_failure(_WHAT[part], next(iter(inputs.values())), error) from None
        return result

    def _close(self) -> None:
        self._sessions.clear()
        self._constants.clear()
