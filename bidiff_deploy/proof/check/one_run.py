"""Check the bundle of a network that runs once: each binary layer, and whole images.

As in ``noise_predictor``, layers are fed the reference's inputs and must return its integers. Whole
images are compared with a noise floor, because a sign that rounds to the other side of zero moves
outputs; the result lists them as steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...bundle.record import Bundle
from ...checkpoint.record import Checkpoint
from ...engines import open_engine
from ...engines.one_run import OneRun
from ...engines.tiled import to_tensor
from ...errors import EngineError
from ..inputs import image_files, read_rgb
from ..reference import load_network, torch_threads
from .bundle_layers import BundleLayers, Taps, layer_outputs
from .common import OnProgress, refuse_other_network, source_notes
from .layers import LayerCheck, LayerOp, check_layer
from .result import CheckResult, StepCheck
from .runners import CPU_BACKENDS
from .statistics import PREDICTION, compare_step, nudged

NOISE_SIDE = 48  # of the noise image if no images are given
IMAGE_SIZE = (128, 128)  # low-resolution images are cropped to it


def check_one_run(bundle: Bundle, checkpoint: Checkpoint, *,
                  backend: str = "onnxruntime", threads: int | None = None,
                  size: tuple[int, int] | None = None, images: Sequence[str] = (),
                  on_progress: OnProgress | None = None) -> CheckResult:
    """Compare the network of ``checkpoint`` in torch with ``bundle`` in ``backend``.

    size    (height, width) of the network's input: of noise without ``images`` (default 48x48),
            else the size to which images are cropped (default 128x128)
    images  low-resolution files or folders

    Raises UsageError for a checkpoint of another network, EngineError without torch, onnxruntime or
    the op library, ImageError for images that cannot be read.
    """
    refuse_other_network(bundle, checkpoint)
    if backend not in CPU_BACKENDS:
        raise EngineError(f"backend {backend!r} cannot be checked by layer; use one of "
                          f"{', '.join(CPU_BACKENDS)}")
    samples = _samples(size, images)
    layers, packed = BundleLayers(bundle), CPU_BACKENDS[backend]
    op = LayerOp(layers, packed=packed, threads=threads)
    taps = Taps(layers, packed=packed, threads=threads)
    name = layers.model.graph.input[0].name
    checks: list[LayerCheck] = []
    steps: list[StepCheck] = []
    with torch_threads(threads), open_engine(bundle.path, threads=threads,
                                             backend=backend) as engine:
        assert isinstance(engine, OneRun)
        reference, floor = load_network(checkpoint), load_network(checkpoint, channels_last=True)
        for index, (_, image) in enumerate(samples):
            expected = _run(reference, layers, image)
            constants = layers.constants(0)
            checks += [_check(layer, op, constants, checkpoint,
                              reference.get_submodule(layer.name), expected[f"{layer.key}.x"],
                              index) for layer in layers.layers]
            floors = [compare_step(expected, _run(network, layers, moved))
                      for network, moved in ((floor, image),
                                             *((reference, moved) for moved in nudged(image)))]
            _, found = taps({name: image})
            found[PREDICTION] = engine.enlarge(image)
            steps.append(StepCheck(index, compare_step(expected, found),
                                   min(floors, key=lambda one: one.snr)))
            if on_progress is not None:
                on_progress(index + 1, len(samples))
        described = engine.description
    notes = [f"step {index} is image {name}" for index, (name, _) in enumerate(samples)]
    notes += source_notes(bundle, checkpoint)
    return CheckResult(str(bundle.path), checkpoint.name, described, _torch_version(),
                       samples[0][1].shape[2:], layers=tuple(checks), steps=tuple(steps),
                       notes=tuple(notes))


def _check(layer: Any, op: LayerOp, constants: dict[str, np.ndarray], checkpoint: Checkpoint,
           module: Any, x: np.ndarray, index: int) -> LayerCheck:
    import torch

    residual = module.residual(torch.from_numpy(x)).numpy()
    given = [x, *(np.asarray(constants[name]) for name in layer.inputs[1:5]), residual,
             np.asarray(constants[layer.inputs[6]])]
    return check_layer(layer.name, op, given, checkpoint, module, timestep=index,
                       residual=residual, time=np.zeros(1))


def _run(network: Any, layers: BundleLayers, image: np.ndarray) -> dict[str, np.ndarray]:
    """The layers of the torch network as ``layer_outputs``, and its image as PREDICTION."""
    import torch

    seen: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @contextmanager
    def hooked() -> Iterator[None]:
        hooks = []
        for layer in layers.layers:
            def keep(module: Any, inputs: tuple[Any, ...], output: Any,
                     key: str = layer.key) -> None:
                if getattr(module, "r", 1) > 1:  # the node's output comes before PixelShuffle
                    output = torch.nn.functional.pixel_unshuffle(output, module.r)
                x, threshold, y = (value.contiguous().numpy()
                                   for value in (inputs[0], module.threshold[0], output))
                seen[key] = x, threshold, y
            hooks.append(network.get_submodule(layer.name).register_forward_hook(keep))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    with torch.inference_mode(), hooked():
        given = torch.from_numpy(image)
        if not network.stem.weight.is_contiguous():
            given = given.contiguous(memory_format=torch.channels_last)
        result = network(given).contiguous().numpy()
    return {**layer_outputs(seen), PREDICTION: result}


def _torch_version() -> str:
    import torch

    return f"torch {torch.__version__}, contiguous"


def _samples(size: tuple[int, int] | None,
             images: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Names and images, float32 (1, 3, H, W) in [0, 1]."""
    if not images:
        height, width = size or (NOISE_SIDE, NOISE_SIDE)
        noise = np.random.default_rng(0).random((1, 3, height, width), np.float32)
        return [("noise", noise)]
    found = []
    for path in image_files(images):
        pixels = read_rgb(path)
        height, width = (min(have, limit) for have, limit in zip(pixels.shape, size or IMAGE_SIZE))
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        found.append((path.name, to_tensor(pixels[top:top + height, left:left + width])))
    return found
