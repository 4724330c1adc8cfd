"""Bundle -> something that runs: one module a backend, all with the protocol of ``base.Engine``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import EngineError

if TYPE_CHECKING:
    from .noise_predictor import Engine
    from .one_run import FeedForwardEngine

CUDA = "onnxruntime-cuda"
TENSORRT = {"tensorrt": "plugin", "tensorrt-dense": "dense", "tensorrt-dense-int8": "dense-int8"}
ON_GPU = (CUDA, *TENSORRT)
BACKENDS = ("onnxruntime", "onnxruntime-stock", *ON_GPU)


def open_engine(path: str | os.PathLike[str], *, threads: int | None, backend: str,
                device: int | None = None) -> Engine | FeedForwardEngine:
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
    from ..bundle.feedforward import FeedForwardBundle, open_any
    from .one_run import FeedForwardEngine
    from .onnxruntime.cpu import OnnxRuntimeEngine

    bundle, packed = open_any(os.fspath(path)), backend == "onnxruntime"
    if backend in ON_GPU and isinstance(bundle, FeedForwardBundle):
        raise EngineError(f"{path} is a feed-forward bundle, which backend {backend} does not "
                          "run; choose onnxruntime")
    if backend == CUDA:
        from .onnxruntime.cuda import OnnxRuntimeCudaEngine

        return OnnxRuntimeCudaEngine(bundle, device_id=device or 0, threads=threads)
    if backend in TENSORRT:
        from .tensorrt.run.engine import TensorRtEngine

        return TensorRtEngine(bundle, variant=TENSORRT[backend], device_id=device or 0)
    if isinstance(bundle, FeedForwardBundle):
        return FeedForwardEngine(bundle, threads=threads, packed=packed)
    return OnnxRuntimeEngine(bundle, threads=threads, packed=packed)
