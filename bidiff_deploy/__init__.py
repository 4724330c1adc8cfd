"""bidiff_deploy: packed 1-bit engines for the super-resolution diffusion model BI-DiffSR.

    from bidiff_deploy import load_bundle
    with load_bundle("model.bundle", threads=2) as engine:
        image = engine.upscale(image)

Importing the package imports neither torch nor onnxruntime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    BidiffError,
    BundleError,
    CheckpointError,
    EngineError,
    ImageError,
    OutputError,
    UsageError,
)
from .version import __version__

if TYPE_CHECKING:
    import os

    from .engines.image_engine import ImageEngine

__all__ = ["BidiffError", "BundleError", "CheckpointError", "EngineError", "ImageError",
           "OutputError", "UsageError", "__version__", "load_bundle"]


def load_bundle(path: str | os.PathLike[str], *, threads: int | None = None,
                backend: str = "onnxruntime",
                device: int | None = None) -> ImageEngine:
    """Open a bundle as an engine.

    ``path``: the bundle's directory. ``threads``: how many threads one operator may use (default:
    all cores). ``backend``: ``"onnxruntime"`` (CPU, packed kernels), ``"onnxruntime-stock"``
    (the same graphs through their function bodies in float32: the baseline); on NVIDIA GPU number
    ``device``, by default 0: ``"onnxruntime-cuda"``, ``"tensorrt"`` (our plugin), and the baselines
    ``"tensorrt-dense"`` and ``"tensorrt-dense-int8"`` (binary layers as TensorRT's convolutions).
    Those of TensorRT run the plans that ``bidiff-deploy build`` made, at the shapes that these are
    for; ``threads`` means nothing to them. Returns a context manager with ``upscale``: a
    ``NoisePredictor``, which has ``predict`` and ``sample`` too, or, of a network without a loop, a
    ``OneRun`` with ``enlarge``. Raises BundleError for a bundle that is
    damaged or foreign, EngineError for a backend that can not run here.
    """
    from .engines import open_engine

    return open_engine(path, threads=threads, backend=backend, device=device)
