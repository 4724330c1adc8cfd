"""The stand-in for TensorRT that other tests rely on: the plugin's nodes compute what the op library
does, and what TensorRT demands of its callers is demanded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bidiff_deploy.engines.tensorrt.api import open_tensorrt
from bidiff_deploy.graphs.float16 import MAPS
from bidiff_deploy.operators import names as ops
from stand_ins.tensorrt import nodes
from support.cuda_cases import cases, on_the_cpus_kernels
from support.reference_cases import snr

WORDS = {ops.BINARY_CONV: [1], ops.NORM_BINARY_CONV: [3], ops.BINARY_FUSION: [2, 6],
         ops.BINARY_DOWN: [1, 5], ops.BINARY_UP: [1, 5]}


def one_node(op: str, given: list[np.ndarray | None], attributes: dict[str, int],
             library: Any, half: bool) -> onnx.ModelProto:
    """A graph of one node of the plugin, its words prepared where a library is given."""
    types = onnx.TensorProto
    inputs, constants, names, mask, extra = [], [], [], 0, dict(attributes)
    for index, value in enumerate(given):
        if value is None:
            continue
        mask |= 1 << index
        names.append(f"i{index}")
        if library is not None and index in WORDS.get(op, []):
            extra |= {"kernel": value.shape[1], "layout": library.layout}
            value = library.prepare_words(value, given[0].shape[1] // (1 + (op == ops.BINARY_DOWN)))
        if index in MAPS[op]:
            kind = types.FLOAT16 if half else types.FLOAT
            inputs.append(helper.make_tensor_value_info(names[-1], kind, value.shape))
        else:
            constants.append(numpy_helper.from_array(value, names[-1]))
    node = helper.make_node(op, names, ["y"], domain=ops.DOMAIN, plugin_version="1",
                            plugin_namespace="bidiff", **extra)
    node.attribute.append(helper.make_attribute("inputs", mask))
    y = helper.make_tensor_value_info("y", types.FLOAT16 if half else types.FLOAT, None)
    return helper.make_model(
        helper.make_graph([node], "test", inputs, [y], constants), ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ops.DOMAIN, 1)])


class Bound:
    """A context of one node, with memory for every tensor but ``y``."""

    def __init__(self, trt: Any, model: onnx.ModelProto, **inputs: np.ndarray) -> None:
        self.api = open_tensorrt()
        builder, api = self.api.builder(), self.api
        network = builder.create_network(api.network_flags)
        assert trt.OnnxParser(network, api.logger).parse(model.SerializeToString())
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        self.engine = api.runtime().deserialize_cuda_engine(plan)
        self.context = self.engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self.stream, self.kept = nodes.call("cuStreamCreate", 1), []
        for name, value in inputs.items():
            assert self.context.set_tensor_address(name, self.allocate(value.nbytes))
            nodes.view(self.kept[-1].address, value.shape, value.dtype)[...] = value
        size = self.context.update_device_memory_size_for_shapes()
        self.context.set_device_memory(self.allocate(size), size)

    def allocate(self, size: int) -> int:
        self.kept.append(nodes.DeviceMemory(size))
        return self.kept[-1].address

    def run(self) -> bool:
        return self.context.execute_async_v3(int(self.stream))

    def refused(self, words: str) -> None:
        assert not self.run() and words in self.api.log.sentence("")
        self.api.log.clear()


@pytest.mark.parametrize("half, prepared", [(False, False), (True, True), (False, True)],
                         ids=["float32-contract", "float16-prepared", "float32-prepared"])
def test_nodes_are_the_op_librarys(trt: Any, prepared: bool, half: bool) -> None:
    """Equal to the bit but for the norm, whose statistics are summed in another order."""
    for name, (op, given, attributes) in cases().items():
        maps = {f"i{index}": value.astype(np.float16) if half else value
                for index, value in enumerate(given) if value is not None and index in MAPS[op]}
        rounded = [value if (found := maps.get(f"i{index}")) is None else found.astype(np.float32)
                   for index, value in enumerate(given)]
        expected = on_the_cpus_kernels(op, rounded, attributes)
        library = open_tensorrt().plugin()
        bound = Bound(trt, one_node(op, given, attributes, library if prepared else None, half),
                      **maps)
        dtype = np.float16 if half else np.float32
        y = bound.allocate(expected.size * dtype().itemsize)
        assert bound.context.set_tensor_address("y", y) and bound.run()
        found = nodes.view(y, expected.shape, dtype)
        if "norm" in name:
            assert snr(expected, found) > (70 if half else 110), name
        else:
            np.testing.assert_array_equal(found, expected.astype(dtype), name)


def test_what_an_enqueue_demands(trt: Any) -> None:
    op, given, attributes = cases()["conv_bare"]
    open_tensorrt().plugin()
    bound = Bound(trt, one_node(op, given, attributes, None, False), i0=given[0])
    assert not bound.run()  # without an address of y
    for name, address in (("y", bound.allocate(3 << 20) + 4), ("z", bound.kept[-1].address)):
        assert not bound.context.set_tensor_address(name, address)
    assert bound.context.set_tensor_address("y", bound.kept[-1].address)
    for shape in ((1, 24, 6, 10), (2, 24, 6), (2, 25, 6, 10)):
        assert not bound.context.set_input_shape("i0", shape)
    assert bound.context.set_input_shape("i0", given[0].shape)
    bound.api.log.clear()
    nodes.call("cuStreamBeginCapture", bound.stream,
               nodes.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    bound.refused("before it is captured")
    nodes.call("cuStreamEndCapture", bound.stream)
    assert bound.run()
    bound.context.set_device_memory(0, 0)
    if bound.context.update_device_memory_size_for_shapes():
        bound.refused("device memory are needed, 0 were given")
