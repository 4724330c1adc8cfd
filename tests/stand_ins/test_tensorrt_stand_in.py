"""The stand-in for TensorRT that other tests rely on: its nodes compute what the op library does,
captured graphs compute it again, and it has the names that TensorRT has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bidiff_deploy.graphs.float16 import MAPS
from stand_ins import tensorrt as tensorrt_stand_in
from stand_ins.tensorrt import module, nodes
from support import tensorrt_names
from support.cuda_cases import cases, on_the_cpus_kernels
from support.reference_cases import snr
from support.tensorrt_networks import SHAPES, Bound, Stream, Trt, image, node, small

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("prepared", [False, True], ids=["contract", "prepared"])
@pytest.mark.parametrize("name", cases())
def test_a_node_is_the_op_librarys(trt: Trt, name: str, prepared: bool, half: bool) -> None:
    """Equal to the bit but for the norm, whose statistics are summed in another order."""
    op, given, attributes = cases()[name]
    maps = {f"i{index}": value.astype(np.float16) if half else value
            for index, value in enumerate(given) if value is not None and index in MAPS[op]}
    rounded = [value if (found := maps.get(f"i{index}")) is None else found.astype(np.float32)
               for index, value in enumerate(given)]
    expected = on_the_cpus_kernels(op, rounded, attributes)
    made = node(op, given, attributes, trt.library if prepared else None, half)
    engine = trt.engine(trt.plan(made))
    found = Bound(engine.create_execution_context(), **maps).run()
    assert found.dtype == (np.float16 if half else np.float32)
    if "norm" in name:
        assert snr(expected, found) > (70 if half else 110)
    else:
        np.testing.assert_array_equal(found, expected.astype(found.dtype))


def expected_of_small(x: np.ndarray) -> np.ndarray:
    """The same by the op library, which has the operators in one session."""
    import onnxruntime

    from bidiff_deploy.engines import library
    from bidiff_deploy.engines.onnxruntime.session import session_options

    made = small()
    for one in made.graph.node:
        if one.domain:
            del one.attribute[:]
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.register_custom_ops_library(str(library.library_path()))
    session = onnxruntime.InferenceSession(made.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("version", tensorrt_names.DISTINCT)
def test_a_network_and_its_graph(open_trt: Any, version: str) -> None:
    trt = open_trt(version)
    engine = trt.engine(trt.plan(small(), SHAPES))
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["x", "y"]
    assert tuple(engine.get_tensor_shape("y")) == (-1, 8, -1, -1)
    context = engine.create_execution_context()
    for shape in ((1, 3, 4, 6), (2, 3, 12, 16)):
        first, second = image(*shape), image(*shape, seed=1)
        bound = Bound(context, x=first)
        np.testing.assert_array_equal(bound.run(), expected_of_small(first))
        launch = bound.stream.capture(bound.enqueue)
        bound.put(x=second)
        before = bound.result()
        np.testing.assert_array_equal(before, expected_of_small(first))  # captured, not run
        launch()
        np.testing.assert_array_equal(bound.result(), expected_of_small(second))


def test_contexts_share_memory_that_the_user_gives(trt: Trt) -> None:
    engine = trt.engine(trt.plan(small(), SHAPES))
    strategy = trt.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    contexts = [engine.create_execution_context(strategy) for _ in range(2)]
    bounds = [Bound(context, x=image(*shape)) for context, shape in
              zip(contexts, ((1, 3, 4, 4), (1, 3, 8, 10)))]
    sizes = [context.update_device_memory_size_for_shapes() for context in contexts]
    assert 0 < sizes[0] < sizes[1] <= engine.device_memory_size_v2
    assert not bounds[0].enqueue() and "device memory" in trt.told[-1]
    memory = nodes.DeviceMemory(max(sizes))
    for context in contexts:
        context.set_device_memory(memory.address, memory.size)
    for bound, shape in zip(bounds, ((1, 3, 4, 4), (1, 3, 8, 10))):
        np.testing.assert_array_equal(bound.run(), expected_of_small(image(*shape)))
    contexts[1].set_device_memory(memory.address, sizes[1] - 1)
    assert not bounds[1].enqueue() and str(sizes[1]) in trt.told[-1]


def test_what_an_enqueue_demands(trt: Trt, capfd: pytest.CaptureFixture[str]) -> None:
    engine = trt.engine(trt.plan(small(), SHAPES))
    context = engine.create_execution_context()
    x, stream = nodes.DeviceMemory(3 * 64 * 4), Stream()

    def refused(words: str) -> None:
        assert not context.execute_async_v3(stream.handle.value)
        assert words in trt.told[-1]

    refused("shape of x is not set")
    for shape in ((1, 3, 2, 4), (3, 3, 4, 4), (1, 4, 4, 4), (1, 3, 4)):
        assert not context.set_input_shape("x", shape) and "input shape" in trt.told[-1]
    assert not context.set_input_shape("z", (1,))
    assert context.set_input_shape("x", (1, 3, 8, 8))
    refused("No address for x")
    assert not context.set_tensor_address("x", x.address + 4) and "aligned" in trt.told[-1]
    assert not context.set_tensor_address("z", x.address)
    assert context.set_tensor_address("x", x.address)
    refused("No address for y")
    assert context.set_tensor_address("y", x.address)  # 3 channels, not 8
    refused("illegal memory access")
    y = nodes.DeviceMemory(8 * 64 * 4)
    assert context.set_tensor_address("y", y.address)
    stream.capture(lambda: refused("before it is captured"))
    assert context.execute_async_v3(stream.handle.value)
    stream.capture(lambda: context.execute_async_v3(stream.handle.value))
    assert "2048 bytes are not allocated" in capfd.readouterr().err


@pytest.mark.parametrize("version", tensorrt_stand_in.VERSIONS)
def test_it_has_no_name_that_the_version_has_not(version: str) -> None:
    table, trt = tensorrt_names.table(version), module.make(version)
    for name in vars(trt):
        assert name.startswith("_") or name in table["module"]
    for name, names in table["classes"].items():
        made = getattr(trt, name, None) if name in module.TEMPLATES else None
        for entry in () if made is None else dir(made):
            assert entry.startswith("_") or entry in names or name == "IHostMemory", (name, entry)
    assert hasattr(trt, "IProgressMonitor") == (version != "8.5.3")
    with pytest.raises(AttributeError):
        _ = trt.IProgressMonitors
    with pytest.raises(NotImplementedError):
        _ = trt.Refitter
    with pytest.raises(NotImplementedError, match="max_threads"):
        _ = trt.Runtime.__new__(trt.Runtime).max_threads


def test_each_of_its_names_is_some_versions() -> None:
    """A name that is misspelt here would be left out of every version, unnoticed."""
    for name, template in module.TEMPLATES.items():
        known = {entry for version in (*tensorrt_stand_in.VERSIONS, tensorrt_names.RTX)
                 for entry in tensorrt_names.table(version)["classes"].get(name, [])}
        assert {entry for entry in vars(template) if not entry.startswith("_")} <= known, name
