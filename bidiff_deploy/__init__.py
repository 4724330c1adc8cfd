"""bidiff_deploy: packed 1-bit engines for binarised super-resolution networks.

    from bidiff_deploy import load
    image = load("photo-x2").upscale(image)

Importing the package imports neither torch nor onnxruntime. It consists of these packages, each of
which imports only those above it:

    files        outputs that are whole or absent, files that only this user writes
    images       reading, writing, resizing, tiling and scoring images
    sampling     noise schedule, DDIM sampler, seeded noise, colour matching
    operators    the ONNX operators of binary networks: names, sign bits, definitions
    networks     the known networks: options, parameters, recognition by keys, graphs, costs
    checkpoint   a checkpoint file -> Checkpoint, the record of a trained network
    bundle       the bundle format: manifest, weights file, step graphs
    graphs       passes that adapt a bundle's graphs to a backend
    engines      bundle -> an engine that runs: ONNX Runtime, TensorRT
    export       Checkpoint -> bundle
    training     recipe -> photos -> trained network, in torch
    quantisation  bounds of int8 layers, searched in what a model's loop computes
    models       the models that are installed with the package
    upscale      an engine over many image files: jobs, pipeline, journal
    pages        HTML pages that need no other file: what they share, and before and after
    serving      a model repository for NVIDIA Triton Inference Server
    proof        compares a bundle with its checkpoint, measures and inspects it
    doctor       what this machine can run, and what is missing
    evaluation   scores a model on data sets: PSNR, SSIM, LPIPS
    report       one HTML page of evidence about a bundle
    app          a local page that upscales photos
    cli          the command ``bidiff-deploy``
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
           "OutputError", "UsageError", "__version__", "load", "load_bundle"]


def load(model: str | os.PathLike[str] | None = None, *, scale: int | None = None,
         threads: int | None = None, backend: str = "onnxruntime",
         device: int | None = None) -> ImageEngine:
    """Open a model as an engine, such as ``load("photo-x2")`` or ``load("mine.safetensors")``.

    ``model``: the name of a model that is installed with the package (``bidiff-deploy models``
    lists them), or the path of a bundle or checkpoint; None: the default of ``scale``, 2 without
    one. A checkpoint is exported in memory. The rest, and the engine, as ``load_bundle`` has them.
    Raises UsageError for a model that is not there or has another scale, CheckpointError for a
    checkpoint that cannot be read, and as ``load_bundle``.
    """
    from .models.open import open_model

    return open_model(model, scale=scale, threads=threads, backend=backend, device=device)


def load_bundle(path: str | os.PathLike[str], *, threads: int | None = None,
                backend: str = "onnxruntime",
                device: int | None = None) -> ImageEngine:
    """Open a bundle as an engine.

    ``path``: the bundle's directory. ``threads``: how many threads one operator may use (default:
    all usable cores). ``backend``: ``"onnxruntime"`` (CPU, packed kernels), ``"onnxruntime-stock"``
    (the same graphs through their function bodies in float32: the baseline); on NVIDIA GPU number
    ``device``, by default 0: ``"onnxruntime-cuda"``, ``"tensorrt"`` (our plugin), and the baselines
    ``"tensorrt-dense"`` and ``"tensorrt-dense-int8"`` (binary layers as TensorRT's convolutions),
    ``"tensorrt-rtx"`` and ``"tensorrt-rtx-int8"`` (the same by TensorRT-RTX, without a plugin).
    TensorRT backends ignore ``threads`` and run the plans that ``bidiff-deploy build`` made, at the
    shapes that these were built for. Returns a context manager with ``upscale``: a
    ``NoisePredictor``, which also has ``predict`` and ``sample``, for a network without a diffusion
    loop a ``OneRun`` with ``enlarge``, or for a latent network a ``LatentDiffusion`` with
    ``encode``, ``predict``, ``decode`` and ``sample``. Raises BundleError for a bundle that is
    damaged or has another format, EngineError for a backend that cannot run on this machine.
    """
    from .engines import open_engine

    return open_engine(path, threads=threads, backend=backend, device=device)
