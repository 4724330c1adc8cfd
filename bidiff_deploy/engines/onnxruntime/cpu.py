"""Backend ``onnxruntime``: ONNX Runtime on CPU, with the packed kernels of our op library.

Without the library, or as ``onnxruntime-stock``, the same graph runs through the function bodies
of its operators: float32 convolutions of +-1, slow, and the baseline that speed is measured
against.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from ...bundle.record import NoisePredictorBundle
from ...bundle.step_graphs import StepGraphs
from ...errors import EngineError
from ...graphs.lowering import parameterized_graph
from .. import library
from ..noise_predictor import NoisePredictor

_INSTALL = ("onnxruntime is not installed; pip install 'bidiff-deploy[cpu]' for CPUs, or "
            "'bidiff-deploy[gpu]' for NVIDIA GPUs")


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``, or EngineError that says which extra to install."""
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise EngineError(_INSTALL) from None
        raise EngineError(f"onnxruntime is installed but can not be imported ({sentence(error)}); "
                          "install it again: pip install --force-reinstall onnxruntime") from None
    return onnxruntime


def session_options(threads: int) -> Any:
    """SessionOptions of an engine with so many threads, and of what is compared with one."""
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # With it, a second block as large as all activations is taken from the second step on.
    options.enable_mem_pattern = False
    return options


def open_session(graphs: StepGraphs, threads: int, packed: bool) -> tuple[Any, str]:
    """A session of a bundle's first graph, and the kernel of its binary convolutions.

    ``packed=False`` leaves the op library out: kernel "stock". Raises EngineError where ONNX
    Runtime refuses the graph or a forced kernel can not run on this CPU.
    """
    ort = import_onnxruntime()
    graph = parameterized_graph(graphs)
    options = session_options(threads)
    kernel = _register(options) if packed else "stock"
    # ONNX Runtime copies these once, at creation; the views may not move until then.
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.asarray(view))
              for name, view in graph.constants.items()}
    options.add_external_initializers(list(values), list(values.values()))
    try:
        return ort.InferenceSession(graph.serialized(), options,
                                    providers=["CPUExecutionProvider"]), kernel
    except Exception as error:  # onnxruntime raises classes of its C extension
        raise EngineError(f"{graphs.path} can not be opened by onnxruntime "
                          f"{ort.__version__}: {sentence(error)}") from None


class OnnxRuntimeEngine(NoisePredictor):
    """One session for all steps: the step's constants are inputs of one graph."""

    def __init__(self, bundle: NoisePredictorBundle, *, threads: int | None = None, packed: bool = True) -> None:
        """Open a verified bundle. ``packed=False`` leaves the op library out. Raises EngineError
        without onnxruntime, or where a forced kernel can not run on this CPU."""
        ort = import_onnxruntime()
        super().__init__(bundle)
        self.threads = threads or os.cpu_count() or 1
        self._ort = ort
        self._graphs = StepGraphs(bundle)
        self._constants: dict[int, dict[str, Any]] = {}
        self._session, self.kernel = open_session(self._graphs, self.threads, packed)

    @property
    def precision(self) -> str:
        """As the protocol has it; float16 is left unused."""
        return "float32" if self.bundle.precision == "float16" else super().precision

    @property
    def description(self) -> str:
        """Backend, version, kernel, precision and threads in a few words."""
        return (f"onnxruntime {self._ort.__version__}, kernel {self.kernel}, {self._precision()}, "
                f"{self.threads} thread{'s' if self.threads > 1 else ''}")

    def _precision(self) -> str:
        allowed = self.bundle.precision
        if allowed == "float32":
            return "float32"
        if allowed == "bfloat16" and self.kernel != "stock" and library.has_bfloat16():
            return "bfloat16"
        return f"float32 ({allowed} is allowed, but these kernels do not multiply it)"

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        ort = self._ort
        if timestep not in self._constants:
            self._constants[timestep] = {
                name: ort.OrtValue.ortvalue_from_numpy(np.asarray(value))
                for name, value in self._graphs.constants(timestep).items()}
        feeds = dict(self._constants[timestep])
        feeds["noisy"] = ort.OrtValue.ortvalue_from_numpy(noisy)
        feeds["condition"] = ort.OrtValue.ortvalue_from_numpy(condition)
        try:
            return self._session.run_with_ort_values(["prediction"], feeds)[0].numpy()
        except Exception as error:
            height, width = noisy.shape[-2:]
            raise EngineError(f"onnxruntime could not run a step at {width}x{height}: "
                              f"{sentence(error)}; a smaller image, or smaller tiles, "
                              "need less memory") from None

    def _close(self) -> None:
        self._session = None
        self._constants.clear()


def _register(options: Any) -> str:
    """Register the op library; returns the kernel's name, or ``"stock"`` with a warning."""
    path = library.library_path()
    if path is None:
        warnings.warn(f"{library.missing_reason()}; running slowly, through the graphs' standard "
                      "operators", RuntimeWarning, stacklevel=5)
        return "stock"
    kernel = library.selected_kernel()
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:
        raise EngineError(f"{path} could not be registered with onnxruntime: "
                          f"{sentence(error)}") from None
    return kernel


def sentence(error: Exception) -> str:
    """What an error of the runtime says, as part of a sentence."""
    return " ".join(str(error).split())[:300]
