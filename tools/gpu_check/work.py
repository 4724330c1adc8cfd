"""Least cost of a whole step: bytes, operations, launches, and its weights on the device."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import numpy as np

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.networks.bi_diffsr.costs import count
from bidiff_deploy.operators.sign_bits import WORD_BITS

# Nodes that only change the shape of a map, or compute shapes on the CPU.
_NO_LAUNCH = ("Constant", "Shape", "Reshape", "Squeeze", "Unsqueeze", "Identity")
# Weights must be at least this many times smaller than in float16.
SMALLER = 9


def step_work(bundle: Path, batch: int, size: int, device: int = 0) -> dict[str, Any]:
    """Costs of one step of a diffusion bundle on backend onnxruntime-cuda, including float layers
    and attention; nothing runs.

    Returns:
        bytes            every operator of the bundle's graph reads its maps and weights once and
                         writes its map once; inner maps of fused operators stay on the chip
        floor_ms         these bytes divided by the GPU's memory bandwidth; None if it is unknown
        operations       binary, float, attention: 2 for a multiply-accumulate
        launches         of the lowered graph: ours; others, one for each other node that does
                         more than change shapes (ONNX Runtime may fuse some and split others)
        weights          bytes: binary, the kernels' form of the words, which themselves stay on
                         the host; others, all other constants of the lowered graph;
                         step_constants, of the one step on the device, which replace the time path
                         and are not added; float16, the same layers unpacked; limit, 1/9 of that;
                         ok, whether binary and others together are within the limit
    """
    from bidiff_deploy.bundle.graph_reader import GraphReader
    from bidiff_deploy.bundle.step_graphs import StepGraphs
    from bidiff_deploy.engines.gpu.library import device_info
    from bidiff_deploy.graphs.lowering import first_step, parameterized_graph
    from bidiff_deploy.graphs.passes import CUDA, UPDATE, run_passes
    from bidiff_deploy.graphs.record import Options
    found = open_bundle(bundle)
    graphs = StepGraphs(found)
    parameterized = parameterized_graph(graphs)
    step_constants = sum(value.nbytes for value in graphs.constants(found.timesteps[0]).values())
    is_half = found.precision == "float16"
    # One prediction, without the update of the loop.
    derived = run_passes([one for one in CUDA if one is not UPDATE], first_step(graphs),
                         Options(graphs, float16=is_half))
    shipped = parameterized.model
    shapes = GraphReader(shipped, size, size).shapes
    values = sum(math.prod(shapes[name]) for node in shipped.graph.node
                 for name in (*node.input, *node.output)
                 if len(shapes.get(name, ())) == 4 and shapes[name][0] == 1
                 and name not in parameterized.constants)
    words = _words(derived.constants)
    binary = sum(map(prepared_bytes, words))
    others = (sum(value.nbytes for value in derived.constants.values())
              - sum(value.nbytes for value in words))
    layers = count(found.config, size, size)
    unpacked = 2 * sum(math.prod(layer.shape) for layer in layers.layers if layer.shape)
    launches = _launches(derived.model, device)
    moved = (2 if is_half else 4) * batch * values + binary + others
    bandwidth = device_info(device).memory_bandwidth
    return {
        "bytes": moved, "floor_ms": 1e3 * moved / bandwidth if bandwidth else None,
        "operations": {"binary": 2 * batch * layers.binary_macs,
                       "float": 2 * batch * layers.float_macs,
                       "attention": 2 * batch * layers.attention_macs},
        "launches": dict(zip(("ours", "others"), launches)),
        "weights": {"binary": binary, "others": others, "step_constants": step_constants,
                    "float16": unpacked, "limit": unpacked // SMALLER,
                    "ok": binary + others <= unpacked // SMALLER}}


def prepared_bytes(words: np.ndarray) -> int:
    """Bytes of the kernels' form of words (Cout, k, k, words of 32 channels)."""
    from bidiff_deploy.engines.gpu.library import call
    size = ctypes.c_uint64()
    call("prepared_bytes", words.shape[0], words.shape[3] * WORD_BITS, words.shape[1],
         ctypes.byref(size))
    return size.value


def _words(constants: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [value for value in constants.values() if value.dtype == np.int32 and value.ndim == 4]


def _launches(model: Any, device: int) -> tuple[int, int]:
    """Launches of our operators, from the plans of small ones, and of all other nodes."""
    from tools.checks.cuda_operators import OPERATORS, Gpu

    from .layers import make_call
    from .shapes import Layer
    kinds = [node.op_type for node in model.graph.node]
    ours = 0
    with Gpu(device) as gpu:
        for operator in set(kinds) & set(OPERATORS):
            if operator == "GroupNormSwish":
                x, one = np.zeros((1, 32, 8, 8), np.float16), np.ones(32, np.float32)
                call = gpu.call(operator, x, scale=one, bias=one, groups=32)
            else:
                call = make_call(gpu, Layer(operator, 64, 3, 8), 1, 0)
            ours += kinds.count(operator) * len(call.launches("auto"))
    return ours, sum(kind not in OPERATORS and kind not in _NO_LAUNCH for kind in kinds)
