"""A checkpoint and a folder of images -> the bounds of its int8 layers.

The float32 engine runs its own loop on crops of the images, so that every layer sees the latents
that it will see, and a network without a loop runs on the crops themselves. What the int8 layers
read and return is sampled, equally much of each group of timesteps, and ``search.symmetric_bounds``
finds the bounds. As published, later layers are calibrated on maps that are not quantised. One
bound serves all timesteps, because engines compile it as a constant; those of single groups are
reported.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..bundle.record import Bundle, NoisePredictorBundle
from ..bundle.step_graphs import StepGraphs
from ..checkpoint.record import Checkpoint
from ..engines.noise_predictor import NoisePredictor
from ..engines.onnxruntime.session import open_graph, run_failure, thread_count
from ..engines.tiled import to_tensor
from ..errors import UsageError
from ..export.write import bundle_in_memory
from ..graphs.lowering import parameterized_graph
from ..images.datasets import list_images, read_rgb8
from ..images.resample import to_condition
from ..networks.quantised import MAP_LEVELS, WEIGHT_LEVELS, LayerBounds
from ..operators.definitions import inline_fused
from ..operators.names import FUSED, NORM_CONV, WINOGRAD_CONV
from ..operators.value_names import short
from ..sampling import sampler
from .search import symmetric_bounds

__all__ = ["CROPS", "Calibration", "calibrate", "conv_maps", "crops_of"]

Array = npt.NDArray[Any]
CROPS, SIDE = 32, 64  # crops of low-resolution images, as published, and their largest side
_SAMPLES = 1 << 17  # values of a map that are kept of each group of timesteps


@dataclass(frozen=True)
class Calibration:
    """Bounds, and what they come from.

    bounds     of every int8 layer, by name
    by_group   {layer: {group: (input, output)}}, the bounds that each group alone would have
    images, crops  how many
    """

    bounds: dict[str, LayerBounds]
    by_group: dict[str, dict[int, tuple[float, float]]]
    images: int
    crops: int

    @property
    def spread(self) -> float:
        """The largest ratio of two groups' bounds of one map."""
        ratios: list[float] = [max(of_map) / min(of_map) for groups in self.by_group.values()
                               for of_map in zip(*groups.values())]
        return max(ratios)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the bounds."""
        return {"images": self.images, "crops": self.crops, "spread": round(self.spread, 3)}


def calibrate(checkpoint: Checkpoint, timesteps: Sequence[int], folder: Path, *,
              threads: int | None = None, weight_levels: int = WEIGHT_LEVELS,
              map_levels: int = MAP_LEVELS,
              on_crop: Callable[[int, int], None] | None = None) -> Calibration:
    """Calibrate on the low-resolution images in ``folder``. ``on_crop(done, total)`` is called
    after each crop. Levels other than an engine's are for simulations. Raises UsageError for a
    network without such layers, a folder without images, or a checkpoint without a scale;
    ImageError for an unreadable image."""
    network, config = checkpoint.network, checkpoint.config
    layers = network.int8_layers(config)
    if not layers:
        raise UsageError(f"{checkpoint.name} has no full-precision layer that int8 concerns; leave "
                         "--precision and --calibration out")
    images, crops = crops_of(folder)
    bundle = bundle_in_memory(checkpoint, timesteps=timesteps)
    visited = (sampler.pick_timesteps(bundle.timesteps, start=bundle.default_start)
               if isinstance(bundle, NoisePredictorBundle) else (0,))
    groups = Counter(network.group(config, timestep) for timestep in visited)
    observer = _Observer(bundle, layers, {group: _SAMPLES // (count * len(crops)) + 1
                                          for group, count in groups.items()}, threads)
    loop = (_ObservedLoop(bundle, observer) if isinstance(bundle, NoisePredictorBundle) else None)
    for done, crop in enumerate(crops, 1):
        if loop is not None:
            loop.sample(to_condition(crop, loop.scale), seed=done)
        else:
            observer.run({observer.maps[0]: to_tensor(crop)})
        if on_crop:
            on_crop(done, len(crops))
    by_group: dict[str, dict[int, tuple[float, float]]] = {}
    bounds = {}
    for name, weight in observer.weights.items():
        maps = [[np.concatenate(observer.samples[name, role, group]) for group in groups]
                for role in (0, 1)]
        by_group[name] = {group: (_bound(inputs, map_levels), _bound(outputs, map_levels))
                          for group, inputs, outputs in zip(groups, *maps)}
        bounds[name] = LayerBounds(
            symmetric_bounds(weight.reshape(len(weight), -1), weight_levels),
            *(_bound(np.concatenate(of_role), map_levels) for of_role in maps))
    return Calibration(bounds, by_group, len(images), len(crops))


def crops_of(folder: Path, count: int = CROPS) -> tuple[list[Path], list[npt.NDArray[np.uint8]]]:
    """The images of a folder, at most ``count`` of them, evenly spaced; and about ``count`` crops
    of at most SIDE x SIDE pixels, equally many of each, uint8 (H, W, 3)."""
    files = list_images(folder)
    chosen = [files[index * len(files) // min(count, len(files))]
              for index in range(min(count, len(files)))]
    rng, crops = np.random.default_rng(0), []
    for path in chosen:
        pixels = read_rgb8(path)
        height, width = pixels.shape[:2]
        for _ in range(-(-count // len(chosen))):
            top, left = (int(rng.integers(max(1, side - SIDE + 1))) for side in (height, width))
            crops.append(np.ascontiguousarray(pixels[top:top + SIDE, left:left + SIDE]))
    return chosen, crops


def conv_maps(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """``{layer: (input, output)}``, the maps of convolutions in a graph whose full-precision
    operators are inlined."""
    wanted = {f"{short(name)}.weight": name for name in names}
    return {wanted[node.input[1]]: (node.input[0], node.output[0]) for node in model.graph.node
            if node.op_type == "Conv" and node.input[1] in wanted}


class _Observer:
    """A session of the float32 graph, which keeps samples of what its int8 layers would read and
    return.

    maps     names of the graph's inputs that are images
    weights  float32 weights of these layers, by name
    samples  {(layer, 0 for the input or 1 for the output, group): arrays of values}
    """

    def __init__(self, bundle: Bundle, names: Iterable[str], kept: dict[int, int],
                 threads: int | None) -> None:
        """``kept``: how many values of a map are kept in one run, by group."""
        self._bundle, self._graphs, self._kept = bundle, StepGraphs(bundle), kept
        graph = parameterized_graph(self._graphs)
        self.maps = [value.name for value in graph.model.graph.input
                     if value.name not in graph.inputs]
        model = inline_fused(graph.model, keep=set(FUSED) - {NORM_CONV, WINOGRAD_CONV})
        self._layers = conv_maps(model, list(names))
        self.weights = {name: np.asarray(graph.constants[f"{short(name)}.weight"])
                        for name in self._layers}
        extra = dict.fromkeys(name for pair in self._layers.values() for name in pair)
        have = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, None) for name in extra if name not in have)
        self._session, self.kernel = open_graph(dataclasses.replace(graph, model=model),
                                                bundle.path, thread_count(threads), packed=True)
        self.samples: dict[tuple[str, int, int], list[Array]] = {}
        self._rng = np.random.default_rng(0)

    def run(self, feeds: Mapping[str, Array], timestep: int = 0) -> Array:
        """The graph's output for images at one time step."""
        names = [value.name for value in self._session.get_outputs()]
        try:
            found = dict(zip(names, self._session.run(
                names, {**self._graphs.constants(timestep), **feeds})))
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise run_failure("the network", next(iter(feeds.values())), error) from None
        group = self._bundle.network.group(self._bundle.config, timestep)
        for name, pair in self._layers.items():
            for role, value in enumerate(pair):
                flat = found[value].reshape(-1)
                picked = self._rng.integers(flat.size, size=self._kept[group])
                self.samples.setdefault((name, role, group), []).append(flat[picked])
        output: Array = found[names[0]]
        return output


class _ObservedLoop(NoisePredictor):
    """The engine whose steps are an observer's runs."""

    def __init__(self, bundle: NoisePredictorBundle, observer: _Observer) -> None:
        super().__init__(bundle)
        self._observer, self.kernel = observer, observer.kernel

    @property
    def description(self) -> str:
        return "onnxruntime, calibrating"

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        return self._observer.run({"noisy": noisy, "condition": condition}, timestep)

    def _close(self) -> None:
        """Nothing of its own."""


def _bound(values: Array, levels: int) -> float:
    return float(symmetric_bounds(values[None], levels)[0])
