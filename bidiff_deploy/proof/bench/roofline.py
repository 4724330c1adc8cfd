"""How fast the operators of a step could be: their work divided by measured rates.

A rate is the highest that is measured on this machine, not a figure of a data sheet. For float32
products it is that of ONNX Runtime's matrix product or our 1x1 convolution; for bfloat16 products,
the latter; for binary ones, our fastest layer, because there is nothing else to measure; for
memory, a large copy. For 3x3 convolutions the multiplications of Winograd's algorithm are counted,
not its transforms; for attention two of the four products with weights, since the kernel multiplies
the weights of the others once. Maps that are still in a cache may exceed the memory's rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...bundle.graph_reader import GraphLayer, GraphReader
from ...operators.names import (
    ATTENTION,
    BINARY_CONV,
    BINARY_DOWN,
    BINARY_FUSION,
    BINARY_UP,
    CONV3X3,
    DOMAIN,
    NORM_BINARY_CONV,
    NORM_CONV,
    ONNX_OPSET,
    PAIR_CONV,
    VERSION,
    WINOGRAD_CONV,
)
from ...operators.shapes import Shape
from ..sessions import open_session

# Winograd's F(4x4, 3x3) does 6x6 multiplications instead of 4x4 times 3x3.
_SAVED = dict.fromkeys((NORM_CONV, WINOGRAD_CONV), 4 * 4 * 3 * 3 / (6 * 6))
# Why an operator may take more than twice its bound.
_REASONS = {
    NORM_CONV: "it reads its input once more for GroupNorm's statistics, and the bound leaves out "
               "Swish and Winograd's transforms",
    NORM_BINARY_CONV: "it reads its input once more for GroupNorm's statistics, and the bound "
                      "leaves out Swish and the packing of signs",
    BINARY_FUSION: "its 1x1 convolutions do little work per sign that they pack, and one waits for "
                   "the other",
    BINARY_DOWN: "the second convolution adds to the first one's map, written and read in between",
    BINARY_UP: "its convolutions pack the same input, each with its own thresholds",
    WINOGRAD_CONV: "the bound leaves out Winograd's transforms",
    CONV3X3: "with few input channels a loaded value is used in few products",
    PAIR_CONV: "it copies its input to panels that fit the cache",
    ATTENTION: "the exponentials are not counted",
}
TWICE = 2.0
_COPIED = 64 << 20  # bytes, more than any cache
_FLOAT_BYTES = 4
_IR_VERSION = 8


Rate = float


@dataclass(frozen=True)
class Rates:
    """Multiply-accumulates per second by kind of layer, as in ``GraphLayer.kind``, and bytes per
    second, read and written."""

    float: Rate
    bf16: Rate
    packed: Rate
    memory: Rate

    @property
    def fp16(self) -> Rate:
        """Layers that may be rounded to float16: the CPU's kernels multiply them in float32."""
        return self.float


def measure_rates(threads: int) -> Rates:
    """The rates of ``threads`` threads; takes about a second."""
    rng = np.random.default_rng(0)
    depth, rows, columns = 1024, 1024, 2048
    matrix = _rate(rows * depth * columns, _session(
        helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": _normal(rng, rows, depth)},
        {"w": _normal(rng, depth, columns)}, threads))
    channels, side = 256, 64
    maps = {name: _normal(rng, 1, channels, side, side) for name in ("x", "second")}
    constants = {"w": _normal(rng, channels, 2 * channels, 1, 1), "b": _normal(rng, channels)}
    pair = {compute: _rate(2 * channels ** 2 * side ** 2, _session(
        helper.make_node(PAIR_CONV, ["x", "second", "w", "b"], ["y"], domain=DOMAIN,
                         compute=compute), maps, constants, threads))
        for compute in ("float32", "bfloat16")}
    binary = max(_binary_rate(rng, *shape, threads) for shape in ((256, 64), (512, 32)))
    return Rates(max(matrix, pair["float32"]), pair["bfloat16"], binary, _memory_rate(threads))


def roofline(model: onnx.ModelProto, height: int, width: int, batch: int, rates: Rates,
             profile: Mapping[str, Mapping[str, float]],
             part_of: Callable[[str], str]) -> dict[str, Any]:
    """Measured times with their bounds, in seconds per step.

    ``model``: the graph as shipped; ``profile``: the result of ``profile_step``; ``part_of``: the
    part of a step that an operator belongs to. Returns ``rates``, ``parts`` and ``operators`` (name
    -> ``seconds``, ``arithmetic``, ``memory``, ``bound``), the ``part`` of each operator and the
    ``bound`` of the whole step. A node's bound is the greater of its arithmetic and memory times, a
    row's the sum over its nodes.
    """
    reader = GraphReader(model, height, width)
    arithmetic: dict[str, float] = {}
    kinds = {node.output[0]: node.op_type for node in model.graph.node}
    for layer in reader.layers():
        rate = getattr(rates, layer.kind, None)
        if rate:
            owner = layer.inside or layer.output
            arithmetic[owner] = (arithmetic.get(owner, 0.0)
                                 + batch * layer.macs / rate / _saved(kinds[owner], layer))
    tables: dict[str, dict[str, dict[str, float]]] = {"parts": {}, "operators": {}}
    for table, rows in tables.items():
        for name, seconds in profile[table].items():
            rows[name] = {"seconds": seconds, "arithmetic": 0.0, "memory": 0.0, "bound": 0.0}
    for node in model.graph.node:
        if node.op_type not in tables["operators"]:
            continue  # the runtime replaced it
        touched = [reader.shapes.get(name, ()) for name in (*node.input, *node.output)]
        values = sum(_elements(shape) for shape in touched if len(shape) == 4 and shape[0] == 1)
        memory = batch * _FLOAT_BYTES * values / rates.memory
        own = arithmetic.get(node.output[0], 0.0)
        for row in (tables["operators"][node.op_type], tables["parts"][part_of(node.op_type)]):
            row["arithmetic"] += own
            row["memory"] += memory
            row["bound"] += max(own, memory)
    return {"rates": asdict(rates), **tables,
            "part": {name: part_of(name) for name in tables["operators"]},
            "bound": sum(row["bound"] for row in tables["parts"].values())}


def _saved(operator: str, layer: GraphLayer) -> float:
    """By what factor the kernel of an operator multiplies less than its definition."""
    if operator == ATTENTION:
        return 2.0 if layer.shape else 1.0
    return _SAVED.get(operator, 1.0)


def _elements(shape: Shape) -> int:
    """Number of elements; 0 if a dimension is unknown."""
    return math.prod(dim or 0 for dim in shape)


def reasons(found: Mapping[str, Any]) -> list[str]:
    """A sentence for each operator that takes more than twice its bound, from ``roofline``."""
    return [f"{name} takes {row['seconds'] / row['bound']:.1f} times its bound: "
            + _REASONS.get(name, "it is too small for its threads to help")
            for name, row in found["operators"].items()
            if row["bound"] and row["seconds"] > TWICE * row["bound"]]


def _binary_rate(rng: np.random.Generator, channels: int, side: int, threads: int) -> float:
    words = rng.integers(-2 ** 31, 2 ** 31, (channels, 3, 3, channels // 32)).astype(np.int32)
    vector = np.abs(_normal(rng, channels))
    constants = {"words": words, "alpha": vector, "threshold": np.zeros(channels, np.float32),
                 "rprelu": np.stack([vector] * 3), "none": np.zeros(1, np.float32)}
    node = helper.make_node(BINARY_CONV, ["x", "words", "alpha", "threshold", "rprelu", "none",
                                          "none"], ["y"], domain=DOMAIN)
    return _rate(9 * channels ** 2 * side ** 2,
                 _session(node, {"x": _normal(rng, 1, channels, side, side)}, constants, threads))


def _memory_rate(threads: int) -> float:
    parts = [(np.zeros(_COPIED // 4 // threads, np.float32),
              np.zeros(_COPIED // 4 // threads, np.float32)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        # Read once and written once; numpy releases the interpreter's lock while it copies.
        return _rate(2 * _COPIED, lambda: list(pool.map(lambda pair: np.copyto(*pair), parts)))


def _rate(work: int, run: Callable[[], object]) -> float:
    """Units of work per second in the fastest of several runs."""
    run()
    best = float("inf")
    ends = time.perf_counter() + 0.1
    while time.perf_counter() < ends:
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return work / best


def _session(node: onnx.NodeProto, feeds: Mapping[str, np.ndarray],
             constants: Mapping[str, np.ndarray], threads: int) -> Callable[[], object]:
    free, float32 = None, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "rate",
        [helper.make_tensor_value_info(name, float32, [free] * value.ndim)
         for name, value in feeds.items()],
        [helper.make_tensor_value_info("y", float32, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[
        helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, VERSION)])
    session = open_session(model.SerializeToString(), {}, threads=threads, arena=True)
    return lambda: session.run(["y"], dict(feeds))


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)
