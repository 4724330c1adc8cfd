"""Check the bundle of a latent network: encoder, decoder, and steps along the engine's own loop.

Each part is judged by its signal-to-noise ratio alone, fed what the engine computed before it. A
wrong mask of windows still has 28 dB, and another order of sums 110 or more.

One sign that rounding decides changes all of a binary network's result. So the reference takes the
signs of the maps that the engine's binary layers read, and a sign of its own may be another only
where the value is next to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...bundle.record import LatentBundle
from ...checkpoint.record import Checkpoint
from ...engines import open_engine
from ...engines.latent import LatentDiffusion
from ...engines.tiled import to_tensor
from ...errors import EngineError, UsageError
from ...images.resample import enlarge, pad_reflect
from ...networks.base import DECODER, ENCODER, STEP
from ...sampling import resshift
from ..inputs import image_files, read_rgb
from ..reference import load_network, torch_threads
from .binary_inputs import binary_inputs
from .common import OnProgress, refuse_other_network, source_notes
from .result import CheckResult, StepCheck
from .runners import CPU_BACKENDS
from .statistics import CLEAN_SNR, PREDICTION, compare_step

__all__ = ["check_latent"]

_IMAGE_SIDE = 64  # images are cropped to this, and noise is made of it, of the LR image
_STEPS = 3  # that are compared if none are named: first, middle and last
# Latents are moved towards their nearest codes before they are decoded, so that no code is decided
# by rounding: the part of the distance that is left.
_LEFT = np.float32(0.25)
# A value against the root mean square of its map, below which rounding may decide its sign: float32
# has 1e-7, of which a few dozen layers in between make a hundred times as much at most.
_NEAR_0 = 1e-5


def check_latent(bundle: LatentBundle, checkpoint: Checkpoint, *, backend: str = "onnxruntime",
                 threads: int | None = None, timesteps: Sequence[int] | None = None,
                 size: tuple[int, int] | None = None, images: Sequence[str] = (),
                 on_progress: OnProgress | None = None) -> CheckResult:
    """Compare the network of ``checkpoint`` in torch with ``bundle`` in ``backend``.

    timesteps  of the bundle, that are compared; None: the first, one in the middle, the last
    size       (height, width) of the low-resolution image; default 64x64, or the network's
               multiple if that is larger
    images     low-resolution files or folders; without any, noise

    Raises UsageError for a checkpoint of another network and for timesteps that the bundle does not
    have, EngineError without torch or onnxruntime, ImageError for images that cannot be read.
    """
    refuse_other_network(bundle, checkpoint)
    if backend not in CPU_BACKENDS:
        raise EngineError(f"backend {backend!r} cannot be checked; use one of "
                          f"{', '.join(CPU_BACKENDS)}")
    chosen = _choose(bundle, timesteps)
    multiple = bundle.network.size_multiple(bundle.config)
    samples = _samples(size or (max(_IMAGE_SIDE, multiple),) * 2, images)
    found: list[StepCheck] = []
    with torch_threads(threads), open_engine(bundle.path, threads=threads,
                                             backend=backend) as engine:
        assert isinstance(engine, LatentDiffusion)
        network = load_network(checkpoint)
        for index, (_, image) in enumerate(samples):
            found += _check_image(engine, network, pad_reflect(image, multiple)[0], chosen,
                                  threads)
            if on_progress is not None:
                on_progress(index + 1, len(samples))
        described = engine.description
    height, width = samples[0][1].shape[2:]
    notes = [f"image {index + 1} is {name}" for index, (name, _) in enumerate(samples)]
    notes.append("steps are compared along the engine's own loop, each fed the same latent; the "
                 "decoder with latents near their codes")
    return CheckResult(str(bundle.path), checkpoint.name, described, _torch_version(),
                       (height, width), steps=tuple(found),
                       notes=tuple(notes + source_notes(bundle, checkpoint)))


def _check_image(engine: LatentDiffusion, network: Any, image: np.ndarray,
                 chosen: Sequence[int], threads: int | None) -> list[StepCheck]:
    import torch

    condition = np.ascontiguousarray(image) * np.float32(2) - np.float32(1)
    large = enlarge(condition, engine.scale)
    y = engine.encode(large)
    found = [_compared(ENCODER, 0, _run(network.encode, large), y)]
    binary = engine.bundle.network.binary_layers(engine.bundle.config)

    def predict(noisy: np.ndarray, timestep: int) -> np.ndarray:
        ours = engine.predict(noisy, condition, timestep)
        if timestep in chosen:
            if binary:
                network.signs = {name: torch.from_numpy(np.sign(value)) for name, value in
                                 binary_inputs(engine, noisy, condition, timestep,
                                               threads).items()}
            theirs = _run(network, noisy, condition, timestep)
            found.append(_compared(STEP, timestep, theirs, ours, _wrong_sign(network, binary)))
        return ours

    shape = (1, y.shape[1] * resshift.draws(engine.sampler, len(engine.timesteps)), *y.shape[2:])
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    latent = resshift.sample(predict, y, engine.timesteps, engine.schedule, engine.sampler, noise)
    codes = _run(network.quantise, latent)
    near = codes + _LEFT * (latent - codes)
    return [*found, _compared(DECODER, 0, _run(network.decode, near), engine.decode(near))]


def _compared(part: str, timestep: int, reference: np.ndarray, found: np.ndarray,
              wrong: str | None = None) -> StepCheck:
    statistics = compare_step({PREDICTION: reference}, {PREDICTION: found})
    return StepCheck(timestep, statistics, None, wrong=wrong, part=part, lowest=CLEAN_SNR)


def _wrong_sign(network: Any, binary: Sequence[str]) -> str | None:
    """The first binary layer that reads a sign that rounding does not decide."""
    flips = network.flips if binary else {}
    return next((name for name in binary if flips.get(name, (0, 0.0))[1] > _NEAR_0), None)


def _choose(bundle: LatentBundle, timesteps: Sequence[int] | None) -> list[int]:
    have = bundle.timesteps
    if timesteps is None:
        return [have[index * (len(have) - 1) // (_STEPS - 1)] for index in range(_STEPS)]
    missing = [t for t in timesteps if t not in have]
    if missing:
        raise UsageError(f"{bundle.path} has no timestep {missing[0]}; it has "
                         f"{', '.join(map(str, have))}")
    return list(timesteps)


def _run(function: Any, *inputs: Any) -> np.ndarray:
    import torch

    with torch.inference_mode():
        result: np.ndarray = function(*(torch.from_numpy(value) if isinstance(value, np.ndarray)
                                        else value for value in inputs)).numpy()
    return result


def _torch_version() -> str:
    import torch

    return f"torch {torch.__version__}, contiguous"


def _samples(size: tuple[int, int], images: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Names and low-resolution images, float32 (1, 3, H, W) in [0, 1]."""
    if not images:
        noise = np.random.default_rng(0).random((1, 3, *size), np.float32)
        return [("noise", noise)]
    found = []
    for path in image_files(images):
        pixels = read_rgb(path)
        height, width = (min(have, limit) for have, limit in zip(pixels.shape, size))
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        found.append((path.name, to_tensor(pixels[top:top + height, left:left + width])))
    return found
