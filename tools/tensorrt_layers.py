"""What NVIDIA's compiler makes of a bundle's graphs without plugin: the layers of the engine.

    python tools/tensorrt_layers.py BUNDLE [--size 256x256] [--int8]

TensorRT-RTX builds an engine without a GPU, and its log ends with the engine's layers: kind, inputs
and outputs. A row of the table is a kind of layer; convolutions have one for each type. ``MB`` is
what a layer reads and writes, weights left out: for a layer that is bound by memory, its time. The
graph for every TensorRT (opset 17) is compared with that for TensorRT from 10 on (opset 19), and
the multiplications of both, counted from the graphs, must be equal.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines.gpu.engine import precision_of
from bidiff_deploy.engines.tensorrt.api import Api, open_tensorrt
from bidiff_deploy.engines.tensorrt.build.network import Settings, configure, parse
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.errors import BidiffError, EngineError
from bidiff_deploy.graphs.lowering import TensorRtGraph, lower_for_tensorrt
from bidiff_deploy.graphs.opset import OPSET, OPSET_OF_10

_BYTES = {"Half": 2, "BFloat16": 2, "Float": 4, "Int32": 4, "Int64": 8, "Int8": 1, "UInt8": 1,
          "Bool": 1}
_LAYER = re.compile(r"Name: (\S+), LayerType: (\w+), Inputs: \[(.*?)\](?:, Constants: \[(.*?)\])?, "
                    r"Outputs: \[(.*?)\], TacticName")
_TENSOR = re.compile(r"Dimensions: \[([\d,]*)\][^{}]*?Datatype: (\w+)")


@dataclass(frozen=True)
class Layer:
    """A layer of an engine: its kind, and the bytes it reads and writes, weights left out."""

    name: str
    kind: str
    moved: int


@dataclass(frozen=True)
class Built:
    """An engine's layers and the size of its plan in bytes."""

    layers: tuple[Layer, ...]
    plan: int

    @property
    def moved(self) -> int:
        """Bytes that all layers read and write."""
        return sum(layer.moved for layer in self.layers)


def read_layers(log: str) -> list[Layer]:
    """The layers that a log of TensorRT-RTX at level VERBOSE lists."""
    found = []
    for name, kind, inputs, _, outputs in _LAYER.findall(log):
        read, written = _tensors(inputs), _tensors(outputs)
        fused = re.match(r"__myl_(Corr|Fc)", name)
        if kind == "correlation" or fused:
            largest = max(read, key=lambda tensor: tensor[1])[0]
            kind = f"convolution, {largest.lower()}{', with what follows' * bool(fused)}"
        found.append(Layer(name, kind, sum(size for _, size in read + written)))
    return found


def _tensors(text: str) -> list[tuple[str, int]]:
    return [(kind, _BYTES[kind] * math.prod(int(size) for size in dims.split(",") if size))
            for dims, kind in _TENSOR.findall(text)]


def build(api: Api, graph: TensorRtGraph, settings: Settings) -> Built:
    """Build an engine of a graph. Raises EngineError if TensorRT-RTX refuses it."""
    trt, lines = api.trt, []

    class Recorder(trt.ILogger):  # type: ignore[name-defined]  # known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            lines.append(message)

    builder = trt.Builder(Recorder())
    parsed = parse(api, builder, graph, None)
    config = configure(api, builder, parsed.network, graph, settings, [])
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise EngineError(f"{api.product} could not build an engine: {lines[-1]}")
    layers = read_layers("\n".join(lines))
    if not layers:
        raise EngineError(f"the log of {api.product} lists no layers")
    return Built(tuple(layers), plan.nbytes)


def multiplications(model: bytes) -> int:
    """Multiplications of the convolutions and matrix products of a graph with static shapes."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*proto.value_info, *proto.input, *proto.output)}
    shapes.update((tensor.name, list(tensor.dims)) for tensor in proto.initializer)
    total = 0
    for node in proto.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


def table(before: Built, after: Built) -> str:
    """Both engines side by side, as Markdown."""
    kinds: dict[str, list[list[int]]] = defaultdict(lambda: [[0, 0], [0, 0]])
    for index, built in enumerate((before, after)):
        for layer in built.layers:
            kinds[layer.kind][index][0] += 1
            kinds[layer.kind][index][1] += layer.moved
    rows = [(kind, *one, *two) for kind, (one, two) in sorted(
        kinds.items(), key=lambda item: -item[1][0][1])]
    rows.append(("**all**", len(before.layers), before.moved, len(after.layers), after.moved))
    lines = ["| layer | opset 17 | MB | opset 19 | MB |", "|---|---|---|---|---|"]
    lines += [f"| {kind} | {a} | {b / 1e6:.0f} | {c} | {d / 1e6:.0f} |"
              for kind, a, b, c, d in rows]
    lines.append(f"| plan | | {before.plan / 1e6:.1f} | | {after.plan / 1e6:.1f} |")
    return "\n".join(lines)


def compare(path: str, size: tuple[int, int], int8: bool) -> tuple[Built, Built, tuple[int, int]]:
    """The engines of both graphs, and their multiplications."""
    bundle = open_bundle(path)
    half = precision_of(bundle) == "float16"
    shape = (1, *size)
    settings = Settings("rtx-int8" if int8 else "rtx", half, Profile(shape, shape, shape),
                        capabilities=(89,))
    api, built, counted = open_tensorrt(rtx=True), [], []
    for opset in (OPSET, OPSET_OF_10):
        graph = lower_for_tensorrt(StepGraphs(bundle), variant="dense-int8" if int8 else "dense",
                                   float16=half, shape=shape, opset=opset)
        counted.append(multiplications(graph.model))
        built.append(build(api, graph, settings))
    return built[0], built[1], (counted[0], counted[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--int8", action="store_true")
    given = parser.parse_args()
    height, width = (int(side) for side in given.size.split("x"))
    try:
        before, after, (one, two) = compare(given.bundle, (height, width), given.int8)
    except BidiffError as error:
        sys.exit(f"error: {error}")
    print(table(before, after))
    print(f"\nMultiplications: {one / 1e9:.3f} and {two / 1e9:.3f} G.")


if __name__ == "__main__":
    main()
