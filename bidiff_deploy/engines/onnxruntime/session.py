"""ONNX Runtime: its import, session options, and CPU sessions of a bundle."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.step_graphs import StepGraphs
from ...errors import EngineError, one_line
from ...graphs.lowering import parameterized_graph
from ...graphs.record import ParameterizedGraph
from ...machine import default_threads
from ...operators.names import INT8
from .. import library

__all__ = ["import_onnxruntime", "open_graph", "open_session", "precision_in_use", "register",
           "run_failure", "session_options", "thread_count"]

# For how long a thread without work tries again before it sleeps. ONNX Runtime's default is tens of
# milliseconds, which it wastes after every image; with none, small images take longer, since a
# thread wakes up more slowly than their operators run. Older versions ignore the option.
_SPIN_MICROSECONDS = 1000


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``. Raises EngineError, which names the extra to install."""
    # From 1.29 on it reports to Microsoft which models it runs; whoever sets the variable decides.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise EngineError("onnxruntime is not installed; pip install 'bidiff-deploy[cpu]' for "
                              "CPUs, or 'bidiff-deploy[gpu]' for NVIDIA GPUs") from None
        raise EngineError(f"onnxruntime is installed but cannot be imported ({one_line(error)}); "
                          "install it again: pip install --force-reinstall onnxruntime") from None
    return onnxruntime


def thread_count(threads: int | None) -> int:
    """``threads``, or for None the number of cores that this process may use."""
    return threads or default_threads()


def session_options(threads: int, *, memory_pattern: bool = False) -> Any:
    """Session options shared by the engines and the sessions they are compared with.

    ``memory_pattern``: ONNX Runtime's default. With it, a second block as large as all activations
    is allocated from the second step on, so the engines turn it off.
    """
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, so its log would only repeat them
    options.enable_mem_pattern = memory_pattern
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
    return options


def open_session(graphs: StepGraphs, threads: int, packed: bool, *, reuse: bool = True
                 ) -> tuple[Any, str]:
    """A CPU session of a bundle's first graph, and the kernel of its binary convolutions.

    ``packed=False`` does not load the op library: the kernel is "stock". ``reuse``: ONNX Runtime
    plans which values share memory, which for a graph of a thousand nodes takes as long as the rest
    of opening it. Raises EngineError if ONNX Runtime refuses the graph or a forced kernel cannot
    run on this CPU.
    """
    if not packed:
        graphs.require_equal()  # what is measured as a baseline is what other runtimes would run
    return open_graph(parameterized_graph(graphs), graphs.path, threads, packed, reuse=reuse)


def open_graph(graph: ParameterizedGraph, path: Path, threads: int, packed: bool, *,
               reuse: bool = True) -> tuple[Any, str]:
    """``open_session`` of a graph made from the bundle at ``path``."""
    ort = import_onnxruntime()
    options = session_options(threads)
    options.enable_mem_reuse = reuse
    kernel = _packed_kernel(options) if packed else "stock"
    # ONNX Runtime copies these once, at creation; the views must stay valid until then.
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.asarray(view))
              for name, view in graph.constants.items()}
    options.add_external_initializers(list(values), list(values.values()))
    try:
        return ort.InferenceSession(graph.serialized(), options,
                                    providers=["CPUExecutionProvider"]), kernel
    except Exception as error:  # onnxruntime raises classes of its C extension
        raise EngineError(f"{path} cannot be opened by onnxruntime {ort.__version__}: "
                          f"{one_line(error)}") from None


def register(options: Any, file: Path) -> None:
    """Add the op library in ``file`` to session options. Raises EngineError if ONNX Runtime cannot
    load it."""
    try:
        options.register_custom_ops_library(str(file))
    except Exception as error:  # onnxruntime raises classes of its C extension
        raise EngineError(f"{file} could not be registered with onnxruntime: {one_line(error)}"
                          ) from None


def precision_in_use(allowed: str, kernel: str) -> str:
    """The least precise type that a session of a bundle of precision ``allowed`` uses, in a few
    words; ``kernel`` as ``open_session`` returns it."""
    if allowed in ("float32", INT8):
        return allowed
    rounded = library.rounded_factors() if allowed == "bfloat16" and kernel != "stock" else None
    return rounded or f"float32 (the bundle allows {allowed}; this kernel does not support it)"


def run_failure(what: str, image: np.ndarray, error: Exception) -> EngineError:
    """The error for a run of ``what`` on an image on the CPU that failed with ``error``."""
    height, width = image.shape[-2:]
    return EngineError(f"onnxruntime could not run {what} at {width}x{height}: {one_line(error)}; "
                       "a smaller image, or smaller tiles, need less memory")


def _packed_kernel(options: Any) -> str:
    """Register the op library and return the kernel's name; without the library warn and return
    "stock"."""
    path = library.library_path()
    if path is None:
        warnings.warn(f"{library.missing_reason()}; running slowly, through the graphs' standard "
                      "operators", RuntimeWarning, stacklevel=5)
        return "stock"
    kernel = library.selected_kernel()
    register(options, path)
    return kernel
