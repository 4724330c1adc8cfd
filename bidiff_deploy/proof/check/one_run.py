"""Check a feed-forward bundle against its checkpoint: each binary layer, and whole pictures.

As ``check`` does it for diffusion bundles: layers are fed the reference's own inputs, and must give
its integers; whole pictures are held to a noise floor, because a sign that rounds to the other side
of zero moves outputs. A picture stands where a step stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...bundle.record import Bundle
from ...checkpoint.record import Checkpoint
from ...engines import open_engine
from ...engines.one_run import OneRun
from ...engines.tiled import to_tensor
from ...errors import EngineError, UsageError
from ..inputs import image_files, read_rgb
from ..reference import load_network, torch_threads
from ..sessions import open_session
from .bundle_layers import BundleLayers
from .layers import LayerCheck, LayerOp, check_layer
from .result import CheckResult, StepCheck
from .runners import CPU_BACKENDS
from .statistics import PREDICTION, compare_step, nudged

NOISE_SIDE = 48  # of the picture without images
IMAGE_SIZE = (128, 128)  # images are cropped to it, before they are enlarged
OnProgress = Callable[[int, int], None]


def check_one_run(bundle: Bundle, checkpoint: Checkpoint, *,
                      backend: str = "onnxruntime", threads: int | None = None,
                      size: tuple[int, int] | None = None, images: Sequence[str] = (),
                      on_progress: OnProgress | None = None) -> CheckResult:
    """Compare the network of ``checkpoint`` in torch with ``bundle`` in ``backend``.

    size    (height, width) of the network's input: of noise without ``images``, else what they are
            cropped to; 48x48 and 128x128
    images  low-resolution files or folders

    Raises UsageError for a checkpoint of another network, EngineError without torch, onnxruntime or
    the op library, ImageError for images that cannot be read.
    """
    if checkpoint.config != bundle.config:
        raise UsageError(f"{bundle.path} and {checkpoint.name} are of different networks "
                         f"({bundle.config} and {checkpoint.config}); give the checkpoint that the "
                         "bundle was exported from")
    if backend not in CPU_BACKENDS:
        raise EngineError(f"backend {backend!r} cannot be checked by layer; it is one of "
                          f"{', '.join(CPU_BACKENDS)}")
    pictures = _pictures(size, images)
    layers, packed = BundleLayers(bundle), CPU_BACKENDS[backend]
    op = LayerOp(layers, packed=packed, threads=threads)
    taps = open_session(layers.tapped(_taps(layers)), layers.graph.constants, threads=threads,
                        packed=packed)
    checks: list[LayerCheck] = []
    steps: list[StepCheck] = []
    with torch_threads(threads), open_engine(bundle.path, threads=threads,
                                             backend=backend) as engine:
        reference, floor = load_network(checkpoint), load_network(checkpoint, channels_last=True)
        for index, (_, picture) in enumerate(pictures):
            expected = _run(reference, layers, picture)
            for layer in layers.layers:
                checks.append(_check(layer, op, layers.constants(0), checkpoint,
                                     reference.get_submodule(layer.name),
                                     expected[f"{layer.key}.x"], index))
            floors = [compare_step(expected, _run(network, layers, moved))
                      for network, moved in ((floor, picture),
                                             *((reference, moved) for moved in nudged(picture)))]
            found = _tapped(taps, layers, picture)
            assert isinstance(engine, OneRun)
            found[PREDICTION] = engine.enlarge(picture)
            steps.append(StepCheck(index, compare_step(expected, found),
                                   min(floors, key=lambda one: one.snr)))
            if on_progress is not None:
                on_progress(index + 1, len(pictures))
        described = engine.description
    notes = [f"step {index} is picture {name}" for index, (name, _) in enumerate(pictures)]
    if bundle.manifest["source"]["sha256"] != checkpoint.sha256:
        notes.append(f"the bundle was made of another file ({bundle.manifest['source']['name']})")
    return CheckResult(str(bundle.path), checkpoint.name, described, _torch_version(),
                       pictures[0][1].shape[2:], layers=tuple(checks), steps=tuple(steps),
                       notes=tuple(notes))


def _check(layer: Any, op: LayerOp, constants: dict[str, np.ndarray], checkpoint: Checkpoint,
           module: Any, x: np.ndarray, index: int) -> LayerCheck:
    import torch

    residual = module.residual(torch.from_numpy(x)).numpy()
    given = [x, *(np.asarray(constants[name]) for name in layer.inputs[1:5]), residual,
             np.asarray(constants[layer.inputs[6]])]
    return check_layer(layer.name, op, given, checkpoint, module, timestep=index,
                       residual=residual, time=np.zeros(1))


def _taps(layers: BundleLayers) -> Iterator[str]:
    for layer in layers.layers:
        yield from (layer.inputs[0], layer.output)


def _tapped(session: Any, layers: BundleLayers, picture: np.ndarray) -> dict[str, np.ndarray]:
    """The bundle's layers by the names of ``compare_step``: inputs, their signs, outputs."""
    names = list(dict.fromkeys(_taps(layers)))
    values = dict(zip(names, session.run(names, {session.get_inputs()[0].name: picture})))
    constants = layers.constants(0)
    return _layers(layers, {layer.key: (values[layer.inputs[0]], constants[layer.inputs[3]],
                                        values[layer.output]) for layer in layers.layers})


def _run(network: Any, layers: BundleLayers, picture: np.ndarray) -> dict[str, np.ndarray]:
    """The same of the torch network, and its picture as PREDICTION."""
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
                seen[key] = tuple(value.contiguous().numpy() for value in (
                    inputs[0], module.threshold[0], output))
            hooks.append(network.get_submodule(layer.name).register_forward_hook(keep))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    with torch.inference_mode(), hooked():
        given = torch.from_numpy(picture)
        if not network.stem.weight.is_contiguous():
            given = given.contiguous(memory_format=torch.channels_last)
        result = network(given).contiguous().numpy()
    return {**_layers(layers, seen), PREDICTION: result}


def _layers(layers: BundleLayers, seen: dict[str, Any]) -> dict[str, np.ndarray]:
    found = {}
    for layer in layers.layers:
        x, threshold, output = seen[layer.key]
        found[f"{layer.key}.x"] = x
        found[f"{layer.key}.sign"] = x + np.asarray(threshold)[:, None, None] >= 0
        found[layer.key] = output
    return found


def _torch_version() -> str:
    import torch

    return f"torch {torch.__version__}, contiguous"


def _pictures(size: tuple[int, int] | None,
              images: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Names and pictures, float32 (1, 3, H, W) in [0, 1]."""
    if not images:
        height, width = size or (NOISE_SIDE, NOISE_SIDE)
        noise = np.random.default_rng(0).random((1, 3, height, width), np.float32)
        return [("noise", noise)]
    found = []
    for path in image_files(images):
        pixels = read_rgb(path)
        height, width = (min(have, most) for have, most in zip(pixels.shape, size or IMAGE_SIZE))
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        found.append((path.name, to_tensor(pixels[top:top + height, left:left + width])))
    return found
