"""Engines: an opened bundle that upscales images; ``open_engine`` chooses the backend.

    image_engine     the base class of every engine: arrays and Pillow images in and out
    noise_predictor  engines of diffusion models: predict, sample and upscale, whole or in tiles
    one_run          engines of networks that map a low-resolution image to the large one in one run
    latent           engines of latent networks: encoder, loop, decoder
    tiled            an image run tile by tile, with blended or with exact borders
    tile_choice      whether an image is run whole or in tiles, and the tile size
    library          the op library through ctypes: its kernels and single convolutions
    onnxruntime/     the backends of ONNX Runtime, on CPUs and on NVIDIA GPUs
    gpu/             what the backends on NVIDIA GPUs share
    tensorrt/        the TensorRT backends, the builder of their plans, and the plugin.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import EngineError

if TYPE_CHECKING:
    from ..bundle.record import Bundle
    from .image_engine import ImageEngine

CUDA = "onnxruntime-cuda"
TENSORRT = {"tensorrt": "plugin", "tensorrt-dense": "dense", "tensorrt-dense-int8": "dense-int8"}
RTX = {"tensorrt-rtx": "rtx", "tensorrt-rtx-int8": "rtx-int8"}
ON_GPU = (CUDA, *TENSORRT, *RTX)
BACKENDS = ("onnxruntime", "onnxruntime-stock", *ON_GPU)


def open_engine(path: str | os.PathLike[str] | Bundle, *, threads: int | None, backend: str,
                device: int | None = None) -> ImageEngine:
    """Verify the bundle at ``path`` and open it, or a bundle in memory; see
    ``bidiff_deploy.load_bundle``."""
    if backend not in BACKENDS:
        raise EngineError(f"backend {backend!r} is not known; choose one of {', '.join(BACKENDS)}")
    # Here, because ``--help`` of a command reads the names above and must not import numpy.
    from ..bundle.manifest import open_bundle
    from ..bundle.record import Bundle, LatentBundle, NoisePredictorBundle
    from ..checks import whole_number

    if threads is not None:
        threads = whole_number("threads", threads, 1, 1024, error=EngineError)
    if device is not None:
        device = whole_number("device", device, 0, 1024, error=EngineError)
        if backend not in ON_GPU:
            raise EngineError(f"device is {device}, the number of a GPU, but backend {backend} "
                              f"runs on the CPU; choose {CUDA} or tensorrt, or leave device out")

    bundle = path if isinstance(path, Bundle) else open_bundle(os.fspath(path))
    packed = backend == "onnxruntime"
    variant = {**TENSORRT, **RTX}.get(backend)
    if backend in ON_GPU and not bundle.network.on_gpu(bundle.config):
        raise EngineError(f"{bundle.path} is a network {bundle.network.title}, which backend "
                          f"{backend} does not run; choose onnxruntime")
    if not isinstance(bundle, NoisePredictorBundle):
        if isinstance(bundle, LatentBundle):
            from .onnxruntime.latent import OnnxRuntimeLatent

            return OnnxRuntimeLatent(bundle, threads=threads, packed=packed)
        if backend == CUDA:
            raise EngineError(f"{bundle.path} is a feed-forward network, which backend {backend} "
                              "does not run; choose onnxruntime, tensorrt or tensorrt-rtx")
        if variant:
            from .tensorrt.run.one_run import TensorRtOneRun

            return TensorRtOneRun(bundle, variant=variant, device_id=device or 0)
        from .onnxruntime.one_run import OnnxRuntimeOneRun

        return OnnxRuntimeOneRun(bundle, threads=threads, packed=packed)
    if backend == CUDA:
        from .onnxruntime.cuda import CudaNoisePredictor

        return CudaNoisePredictor(bundle, device_id=device or 0, threads=threads)
    if variant:
        from .tensorrt.run.noise_predictor import TensorRtNoisePredictor

        return TensorRtNoisePredictor(bundle, variant=variant, device_id=device or 0)
    from .onnxruntime.noise_predictor import OnnxRuntimeNoisePredictor

    return OnnxRuntimeNoisePredictor(bundle, threads=threads, packed=packed)
