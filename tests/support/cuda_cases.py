"""Every binary operator with random inputs, and what the CPU's kernels make of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from bidiff_deploy.engines import library
from bidiff_deploy.engines.onnxruntime.session import session_options
from bidiff_deploy.graphs.float16 import MAPS
from bidiff_deploy.operators import names as ops


class Maker:
    """Random inputs of operators, by name in the operator's order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
        return (scale * self.rng.standard_normal(shape) + shift).astype(np.float32)

    def branch(self, channels: int, k: int, out: int | None = None) -> list[np.ndarray]:
        words = self.rng.integers(-2**31, 2**31, (out or channels, k, k, -(-channels // 32)))
        return [words.astype(np.int32), self.normal(out or channels, scale=0.1),
                self.normal(channels, scale=0.3), self.normal(3, out or channels, scale=0.3)]

    def norm(self, channels: int) -> list[np.ndarray]:
        return [self.normal(channels, scale=0.2, shift=1), self.normal(channels)]


def cases() -> dict[str, tuple[str, list[np.ndarray | None], dict[str, int]]]:
    make, none = Maker(0), np.zeros(1, np.float32)
    x = make.normal(2, 24, 6, 10)
    return {
        "conv": (ops.BINARY_CONV, [x, *make.branch(24, 3, 40), make.normal(2, 40, 6, 10),
                                   make.normal(40)], {}),
        "conv_bare": (ops.BINARY_CONV, [x, *make.branch(24, 1, 7)[:2]], {}),
        "conv_scalars": (ops.BINARY_CONV, [x, *make.branch(24, 1, 5), make.normal(1),
                                           make.normal(1)], {}),
        "norm": (ops.GROUP_NORM_SWISH, [x, *make.norm(24)], {"groups": 4}),
        "norm_conv": (ops.NORM_BINARY_CONV, [x, *make.norm(24), *make.branch(24, 3),
                                             make.normal(24), make.normal(2, 24, 6, 10)],
                      {"groups": 4}),
        "norm_conv_alone": (ops.NORM_BINARY_CONV, [x, *make.norm(24), *make.branch(24, 3), none,
                                                   none], {"groups": 4}),
        "fusion": (ops.BINARY_FUSION, [x, make.normal(2, 24, 6, 10), *make.branch(24, 1),
                                       *make.branch(24, 1)], {}),
        "down": (ops.BINARY_DOWN, [x, *make.branch(12, 3), *make.branch(12, 3)], {}),
        "up": (ops.BINARY_UP, [x, *make.branch(24, 3), *make.branch(24, 3)], {}),
    }


def model(op, inputs, attributes, *, half, fed=()):
    """One node. Maps are inputs of the model, the rest constants but for those ``fed``."""
    helper, types = onnx.helper, onnx.TensorProto
    names = ["" if value is None else f"i{index}" for index, value in enumerate(inputs)]
    graph_inputs, constants = [], []
    for index, (name, value) in enumerate(zip(names, inputs)):
        element = types.FLOAT16 if half and index in MAPS[op] else types.FLOAT
        if value is None:
            continue
        if value.ndim == 4 and index in MAPS[op] or index in fed:
            kind = element if value.dtype == np.float32 else types.INT32
            graph_inputs.append(helper.make_tensor_value_info(name, kind, value.shape))
        else:
            constants.append(onnx.numpy_helper.from_array(
                value.astype(np.float16) if element == types.FLOAT16 else value, name))
    y = helper.make_tensor_value_info("y", types.FLOAT16 if half else types.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, names, ["y"], domain=ops.DOMAIN,
                                                **attributes)], "one", graph_inputs, [y], constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", ops.ONNX_OPSET), helper.make_opsetid(ops.DOMAIN, ops.VERSION)])


def on_the_cpus_kernels(op, inputs, attributes):
    """The same in float32 by this process, whose library runs the CPU's operators."""
    made = model(op, inputs, attributes, half=False)
    options = session_options(1)
    options.register_custom_ops_library(str(library.library_path()))
    session = ort.InferenceSession(made.SerializeToString(), options,
                                   providers=["CPUExecutionProvider"])
    return session.run(["y"], {value.name: inputs[int(value.name[1:])]
                               for value in made.graph.input})[0]
