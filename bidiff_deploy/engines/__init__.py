"""Bundle -> something that runs: one module a backend, all with the protocol of ``base.Engine``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import EngineError

if TYPE_CHECKING:
    from .image_engine import ImageEngine

CUDA = "onnxruntime-cuda"
TENSORRT = {"tensorrt": "plugin", "tensorrt-dense": "dense", "tensorrt-dense-int8": "dense-int8"}
ON_GPU = (CUDA, *TENSORRT)
BACKENDS = ("onnxruntime", "onnxruntime-stock", *ON_GPU)


def open_engine(path: str | os.PathLike[str], *, threads: int | None, backend: str,
                device: int | None = None) -> ImageEngine:
    """Verify the bundle at ``path`` and open it; see ``bidiff_deploy.load_bundle``."""
    if backend not in BACKENDS:
        raise EngineError(f"backend {backend!r} is not known; known are {', '.join(BACKENDS)}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int)
                                or not 1 <= threads <= 1024):
        raise EngineError(f"threads={threads!r} must be a whole number from 1 to 1024")
    if device is not None and (isinstance(device, bool) or not isinstance(device, int)
                               or not 0 <= device <= 1024):
        raise EngineError(f"device={device!r} must be the number of a GPU, from 0")
    if device is not None and backend not in ON_GPU:
        raise EngineError(f"device={device} is a GPU, which backend {backend} does not use; choose "
                          f"{CUDA} or tensorrt, or leave device out")
    from ..bundle.manifest import open_bundle
    from ..bundle.record import NoisePredictorBundle
    from .onnxruntime.cpu import OnnxRuntimeEngine
    from .onnxruntime.one_run import OnnxRuntimeOneRun

    bundle, packed = open_bundle(os.fspath(path)), backend == "onnxruntime"
    if not isinstance(bundle, NoisePredictorBundle):
        if backend in ON_GPU:
            raise EngineError(f"{path} is a feed-forward bundle, which backend {backend} does not "
                              "run; choose onnxruntime")
        return OnnxRuntimeOneRun(bundle, threads=threads, packed=packed)
    if backend == CUDA:
        from .onnxruntime.cuda import OnnxRuntimeCudaEngine

        return OnnxRuntimeCudaEngine(bundle, device_id=device or 0, threads=threads)
    if backend in TENSORRT:
        from .tensorrt.run.engine import TensorRtEngine

        return TensorRtEngine(bundle, variant=TENSORRT[backend], device_id=device or 0)
    return OnnxRuntimeEngine(bundle, threads=threads, packed=packed)
