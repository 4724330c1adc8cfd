"""Backend ``onnxruntime-cuda``: diffusion models on an NVIDIA GPU, with our CUDA kernels.

The bundle's graph is lowered for CUDA (``graphs.lowering``). A whole loop runs on the device:
latent, condition and results stay there, the update is part of the graph, and from the second run
of a shape on a step is one CUDA graph (``cuda_step``).

Graphs are captured in the first three steps of a shape. Meanwhile other CUDA code of the same
process (another engine, or torch) must not allocate or copy on a GPU: CUDA would end the capture
and the engine raise EngineError; the next call captures again.
"""

from __future__ import annotations

from ...bundle.record import NoisePredictorBundle
from ...bundle.step_graphs import StepGraphs
from ...graphs.lowering import lower_for_cuda
from ..gpu import library as cuda_library
from ..gpu.noise_predictor import GpuNoisePredictor
from .cuda_provider import cuda_target, library_file, require_provider
from .cuda_session import device_memory, load_kernels, open_session, reason
from .cuda_step import DeviceStep
from .session import import_onnxruntime, register, session_options

__all__ = ["CudaNoisePredictor"]


class CudaNoisePredictor(GpuNoisePredictor[DeviceStep]):
    """One session for all steps, and one set of buffers on the device for each shape."""

    kernel = "cuda"
    runtime = "onnxruntime"

    def __init__(self, bundle: NoisePredictorBundle, *, device_id: int = 0, cuda_graph: bool = True,
                 threads: int | None = None) -> None:
        """Open a verified bundle on GPU ``device_id``.

        ``cuda_graph``: whether to capture the steps of shapes that recur. ``threads``: for the few
        operators that run on the CPU. Raises EngineError without a GPU, driver, op library or CUDA
        provider, and for a GPU that is too old.
        """
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
        register(options, file)
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
