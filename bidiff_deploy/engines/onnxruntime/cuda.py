"""Backend ``onnxruntime-cuda``: ONNX Runtime on an NVIDIA GPU, with our CUDA kernels.

The graph comes from ``graphs.lowering``. A whole loop runs on the device: latent, condition and
results are stored there, the update is part of the graph, and at a shape that is seen twice a step
is one CUDA graph (``cuda_step``).

All of an engine's work on the device is done by one thread of its own, so any threads may share an
engine. While it runs the first three steps of a shape, which is when graphs are captured, other
CUDA code of the same process (another engine, or torch) must not allocate or copy on a GPU: CUDA
would break the capture off, and the engine raise EngineError; the next call begins anew.
"""

from __future__ import annotations

from ...bundle.manifest import Bundle
from ...bundle.step_graphs import StepGraphs
from ...errors import EngineError
from ...graphs.lowering import lower_for_cuda
from ..gpu import library as cuda_library
from ..gpu.engine import DeviceEngine
from .cpu import import_onnxruntime, sentence, session_options
from .cuda_provider import cuda_target, library_file, require_provider
from .cuda_session import device_memory, load_kernels, open_session, reason
from .cuda_step import DeviceStep


class OnnxRuntimeCudaEngine(DeviceEngine):
    """One session for all steps, one set of buffers on the device for each shape."""

    kernel = "cuda"
    runtime = "onnxruntime"

    def __init__(self, bundle: Bundle, *, device_id: int = 0, cuda_graph: bool = True,
                 threads: int | None = None) -> None:
        """Open a verified bundle on GPU ``device_id``; ``cuda_graph``: capture steps at shapes
        that recur. ``threads`` of the little that runs on the CPU. Raises EngineError, each with
        its remedy: no GPU, driver, op library or CUDA provider, or a GPU too old."""
        ort = import_onnxruntime()
        graphs = StepGraphs(bundle)
        super().__init__(bundle, graphs)
        self._ort = ort
        self._target = cuda_target(device_id, cuda_graph)
        file = library_file()
        self._device = cuda_library.device_info(device_id)
        if self._target.device != "cpu":
            require_provider(ort)
        self._origin = load_kernels(device_id, self._device.name)
        graph = lower_for_cuda(graphs, float16=self.precision == "float16")
        options = session_options(threads or 1)
        try:
            options.register_custom_ops_library(str(file))
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise EngineError(f"{file} could not be registered with onnxruntime: "
                              f"{sentence(error)}") from None
        self._next_graph = 1
        self._session = open_session(ort, bundle, graph, options, self._target)
        self._free, _ = device_memory(device_id)

    @property
    def description(self) -> str:
        """Backend, version, GPU, kernels and precision in a few words."""
        return (f"onnxruntime {self._ort.__version__}, {self._device.name}, kernels: "
                f"{self._origin}, {self.precision}")

    def _new_step(self, shape: tuple[int, ...]) -> DeviceStep:
        graphs = self._next_graph, self._next_graph + 1
        self._next_graph += 2
        return DeviceStep(self._ort, self._session, self._target, shape, self._rows.places,
                          self._rows.size, graphs)

    def _reason(self, error: Exception) -> str:
        return reason(error)

    def _free_device(self) -> None:
        self._session = None
