"""Check the bundle of a network that runs once: each binary layer, and whole images.

As in ``noise_predictor``, layers must return the reference's integers, and every part of a run is
judged alone, fed the engine's values. The result lists images as steps. A backend on a GPU returns
no values inside a run: the parts are then judged in onnxruntime-stock, and the GPU's images are
compared with the reference's, as those of whole loops are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...bundle.record import Bundle
from ...checkpoint.record import Checkpoint
from ...engines import open_engine
from ...engines.one_run import OneRun
from ...engines.tiled import to_tensor
from ...operators.names import WINOGRAD_CONV
from ...operators.value_names import short
from ..inputs import image_files, read_rgb
from ..reference import load_network, torch_threads
from .bundle_layers import Array, BinaryLayer, BundleLayers, EngineValues
from .common import OnProgress, in_int8, refuse_other_network, source_notes
from .forced import ForcedLayer, ForcedReference, SegmentCheck
from .layers import LayerCheck, LayerOp, check_layer
from .loops import LoopCheck, loop_psnr
from .result import CheckResult, StepCheck, first_wrong, part_statistics, undecidable_notes
from .runners import CPU_BACKENDS
from .statistics import PREDICTION, compare_step, nudged, snr

NOISE_SIDE = 48  # of the noise image if no images are given
IMAGE_SIZE = (128, 128)  # low-resolution images are cropped to it


def check_one_run(bundle: Bundle, checkpoint: Checkpoint, *,
                  backend: str = "onnxruntime", device: int | None = None,
                  threads: int | None = None,
                  size: tuple[int, int] | None = None, images: Sequence[str] = (),
                  on_progress: OnProgress | None = None) -> CheckResult:
    """Compare the network of ``checkpoint`` in torch with ``bundle`` in ``backend``.

    device  number of the GPU, for backends on a GPU
    size    (height, width) of the network's input: of noise without ``images`` (default 48x48),
            else the size to which images are cropped (default 128x128)
    images  low-resolution files or folders

    Raises UsageError for a checkpoint of another network, EngineError without torch, onnxruntime or
    the op library, ImageError for images that cannot be read.
    """
    refuse_other_network(bundle, checkpoint)
    samples = _samples(size, images)
    layers, packed = BundleLayers(bundle), CPU_BACKENDS.get(backend, False)
    op = LayerOp(layers, packed=packed, threads=threads)
    network = load_network(checkpoint)
    ends = _operator_ends(network)
    values = EngineValues(layers, [short(name) for name, *_ in ends], packed=packed,
                          threads=threads)
    (name,), (output,) = ([value.name for value in part] for part in (
        layers.model.graph.input, layers.model.graph.output))
    checks: list[LayerCheck] = []
    segments: list[SegmentCheck] = []
    steps: list[StepCheck] = []
    compared: list[LoopCheck] = []
    alone = backend in CPU_BACKENDS
    with torch_threads(threads), open_engine(
            bundle.path, threads=threads, backend=backend,
            device=None if alone else device) as engine:
        assert isinstance(engine, OneRun)
        floor = None if alone else load_network(checkpoint, channels_last=True)
        forced = ForcedReference(
            in_int8(bundle, network, layers), packed=packed,
            winograd=any(one.kind == WINOGRAD_CONV for one in layers.operators),
            precision=engine.precision)
        forced_ends = _operator_ends(forced.network)
        for index, (label, image) in enumerate(samples):
            run, inside = values({name: image})
            found = {**inside, **run, PREDICTION: run[output]}
            constants = layers.constants(0)
            layer_checks = [_check(layer, op, constants, checkpoint,
                                   network.get_submodule(layer.name), found, index)
                            for layer in layers.layers]
            parts = forced.check(forced.network, (image,), found, forced_ends,
                                 [_forced_layer(layer, forced.network, constants)
                                  for layer in layers.layers], index)
            checks += layer_checks
            segments += parts
            enlarged, expected = engine.enlarge(image), _run(network, image)
            statistics = compare_step({PREDICTION: expected}, {PREDICTION: enlarged})
            wrong = first_wrong(parts, layer_checks)
            if floor is None:
                steps.append(StepCheck(
                    index, replace(statistics, layers=part_statistics(layer_checks, parts)),
                    None, differing=int(np.count_nonzero(enlarged != run[output])), wrong=wrong))
            else:
                again = min((_run(floor, image), *(_run(network, one) for one in nudged(image))),
                            key=lambda one: snr(expected, one))
                steps.append(StepCheck(
                    index, statistics, compare_step({PREDICTION: expected}, {PREDICTION: again}),
                    engine.precision, wrong=wrong))
                again, enlarged, expected = (one.clip(0, 1) for one in (again, enlarged, expected))
                compared.append(LoopCheck(label, math.inf, loop_psnr(again, expected),
                                          loop_psnr(enlarged, expected),
                                          precision=engine.precision))
            if on_progress is not None:
                on_progress(index + 1, len(samples))
        described = engine.description
    notes = [f"step {index} is image {name}" for index, (name, _) in enumerate(samples)]
    notes += source_notes(bundle, checkpoint) + undecidable_notes(segments)
    if not alone:
        notes.append("values inside a run: only CPU backends return them; the bundle's parts were "
                     f"judged in onnxruntime-stock, of {backend} itself only images were compared")
    return CheckResult(str(bundle.path), checkpoint.name, described, _torch_version(),
                       samples[0][1].shape[2:], layers=tuple(checks), segments=tuple(segments),
                       steps=tuple(steps), loops=tuple(compared), notes=tuple(notes))


def _operator_ends(network: Any) -> tuple[tuple[str, Any, bool, bool], ...]:
    """Of a module that has them; the ends of binary layers are enough for others."""
    return tuple(network.operator_ends()) if hasattr(network, "operator_ends") else ()


def _check(layer: BinaryLayer, op: LayerOp, constants: Mapping[str, Array],
           checkpoint: Checkpoint, module: Any, values: Mapping[str, Array],
           index: int) -> LayerCheck:
    import torch

    x = values[layer.inputs[0]]
    residual = module.residual(torch.from_numpy(x)).numpy()
    given = [x, *(np.asarray(constants[name]) for name in layer.inputs[1:5]), residual,
             np.asarray(constants[layer.inputs[6]])]
    return check_layer(layer.name, op, given, checkpoint, module, values[layer.output],
                       timestep=index, residual=residual, time=np.zeros(1))


def _forced_layer(layer: BinaryLayer, network: Any, constants: Mapping[str, Array]) -> ForcedLayer:
    import torch

    module = network.get_submodule(layer.name)
    r = getattr(module, "r", 1)  # the node's output comes before PixelShuffle

    def finish(output: Any) -> Any:
        return torch.nn.functional.pixel_shuffle(output, r)

    return ForcedLayer(layer.name, module, layer.inputs[0], layer.output,
                       module.threshold[0].numpy(), np.asarray(constants[layer.inputs[3]]),
                       finish=finish if r > 1 else None)


def _run(network: Any, image: Array) -> Array:
    """The torch network's image."""
    import torch

    with torch.inference_mode():
        result: Array = network(torch.from_numpy(image)).numpy()
    return result


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
