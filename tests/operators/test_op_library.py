"""bidiff::BinaryConv in ONNX Runtime: one-node models with the op library registered."""

from __future__ import annotations

import os
import subprocess
import threading
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest

from bidiff_deploy.engines import library
from support import forked

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

KERNELS = list(library.kernels())
INPUTS = ("x", "words", "alpha", "threshold", "rprelu", "residual", "time")
SHAPE = (2, 40, 24, 3, 13, 21)  # N, Cin, Cout, k, H, W


def values(shape=SHAPE, seed: int = 0) -> dict[str, np.ndarray]:
    batch, cin, cout, k, height, width = shape
    generator = np.random.default_rng(seed)

    def normal(*size):
        return generator.standard_normal(size).astype(np.float32)

    words = generator.integers(-2**31, 2**31, (cout, k, k, -(-cin // 32))).astype(np.int32)
    return {"x": normal(batch, cin, height, width), "words": words, "alpha": normal(cout),
            "threshold": normal(cin), "rprelu": normal(3, cout),
            "residual": normal(batch, cout, height, width), "time": normal(cout)}


def model(given: dict[str, np.ndarray], fed: tuple[str, ...] = ("x", "residual"),
          dynamic: bool = True) -> bytes:
    """One BinaryConv and an Identity after it, so that shape inference has something to do.

    Inputs named in ``fed`` are graph inputs, the others constants; optional inputs that are not
    ``given`` are left out, in the middle by an empty name.
    """
    helper, types = onnx.helper, onnx.TensorProto
    names = [name if name in given else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    nodes = [helper.make_node("BinaryConv", names, ["hidden"], domain="bidiff",
                              plugin_namespace="bidiff", plugin_version="1"),
             helper.make_node("Identity", ["hidden"], ["y"])]
    inputs, constants = [], []
    for name in names:
        if name in fed:
            size = list(given[name].shape)
            if dynamic and name != "words":
                size = [f"{name}_{axis}" for axis in range(len(size))]
            kind = types.INT32 if name == "words" else types.FLOAT
            inputs.append(helper.make_tensor_value_info(name, kind, size))
        elif name:
            constants.append(onnx.numpy_helper.from_array(given[name], name))
    output = helper.make_tensor_value_info("y", types.FLOAT, None)
    graph = helper.make_graph(nodes, "one", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bidiff", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def session(serialized: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # refusals are expected here
    options.register_custom_ops_library(str(library.library_path()))
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def feeds(opened: onnxruntime.InferenceSession, given: dict[str, np.ndarray]):
    return {entry.name: given[entry.name] for entry in opened.get_inputs()}


def direct(given: dict[str, np.ndarray]) -> np.ndarray:
    return library.binary_conv(**given, kernel="portable")


def assert_same_bits(y: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_array_equal(y.view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("present", list(product([False, True], repeat=4)),
                         ids=lambda flags: "".join("trRi"[i] if f else "-"
                                                   for i, f in enumerate(flags)))
def test_every_combination_of_optional_inputs(present):
    given = values()
    for name, there in zip(INPUTS[3:], present):
        if not there:
            del given[name]
    opened = session(model(given))
    (y,) = opened.run(None, feeds(opened, given))
    assert_same_bits(y, direct(given))


def test_single_elements_broadcast():
    given = values()
    given["residual"], given["time"] = np.float32([[[[0.5]]]]), np.float32([-2.0])
    opened = session(model(given, fed=("x",)))
    (y,) = opened.run(None, feeds(opened, given))
    assert_same_bits(y, direct(given))


def test_every_input_can_be_fed():
    given = values()
    opened = session(model(given, fed=INPUTS))
    for seed in (0, 1):  # other words in the second run
        given = values(seed=seed)
        (y,) = opened.run(None, feeds(opened, given))
        assert_same_bits(y, direct(given))


def test_one_session_takes_any_size_and_any_channels_the_words_allow():
    given = values()
    del given["threshold"]
    opened = session(model(given, fed=("x", "residual")))
    for batch, cin, height, width in [(1, 40, 1, 1), (3, 64, 5, 40), (1, 33, 70, 2), (1, 40, 9, 9)]:
        other = values((batch, cin, 24, 3, height, width))
        given |= {"x": other["x"], "residual": other["residual"]}
        (y,) = opened.run(None, feeds(opened, given))
        assert_same_bits(y, direct(given))


def test_output_shape_is_inferred_where_onnxruntime_survives_it():
    given = values()
    opened = session(model(given, dynamic=False))
    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    shape = opened.get_outputs()[0].shape
    if (major, minor) >= (1, 24):
        assert shape == [2, 24, 13, 21]
    named = session(model(given)).get_outputs()[0].shape
    if (major, minor) >= (1, 24):
        assert named == ["x_0", 24, "x_2", "x_3"]


@pytest.mark.parametrize("shape", [(1, 64, 64, 3, 96, 80), (1, 256, 300, 3, 20, 33),
                                   (2, 96, 128, 1, 90, 70)])
def test_threads_do_not_change_a_bit(shape):
    given = values(shape)
    runs = []
    for threads in (1, 2, 3):
        opened = session(model(given), threads)
        runs.append(opened.run(None, feeds(opened, given))[0])
    assert_same_bits(runs[1], runs[0])
    assert_same_bits(runs[2], runs[0])
    np.testing.assert_array_equal(
        library.binary_conv_sums(given["x"], given["words"], given["threshold"]),
        library.binary_conv_sums(given["x"], given["words"], given["threshold"], kernel="portable"))


def test_one_session_runs_in_many_threads_at_once():
    given = values((1, 64, 64, 3, 64, 64))
    opened = session(model(given), threads=2)
    inputs = [dict(feeds(opened, given), x=np.roll(given["x"], i, axis=3)) for i in range(6)]
    wanted = [opened.run(None, one)[0] for one in inputs]
    failures: list[object] = []

    def work(index: int) -> None:
        try:
            for _ in range(8):
                assert_same_bits(opened.run(None, inputs[index])[0], wanted[index])
        except BaseException as error:  # an assertion in a thread would be lost
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not np.array_equal(wanted[0], wanted[1])


@pytest.mark.parametrize("name, array, sentence", [
    ("x", np.zeros((40, 13, 21), np.float32), r"x must have shape \(N, Cin, H, W\)"),
    ("x", np.zeros((2, 70, 13, 21), np.float32), r"ceil\(Cin/32\) = 3 words"),
    ("x", np.zeros((2, 40, 0, 21), np.float32), "at least 1"),
    ("words", np.zeros((24, 2, 2, 2), np.int32), "with k 1 or 3"),
    ("alpha", np.zeros(23, np.float32), r"alpha must have shape \(24\)"),
    ("threshold", np.zeros(41, np.float32), r"threshold must have shape \(40\)"),
    ("rprelu", np.zeros((3, 25), np.float32), r"rprelu must have shape \(3, 24\)"),
    ("residual", np.zeros((2, 24, 13, 20), np.float32), "residual must have the output's shape"),
    ("time", np.zeros(2, np.float32), r"time must have shape \(24\) or one element"),
], ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "")
def test_wrong_shapes_are_refused_in_one_sentence(name, array, sentence):
    given = values()
    given[name] = array
    if name == "x" and array.ndim == 3:
        del given["residual"]
    with pytest.raises(Exception, match=f"bidiff::BinaryConv: .*{sentence}") as caught:
        opened = session(model(given))
        opened.run(None, feeds(opened, given))
    assert "\n" not in str(caught.value).strip()


RUN_FORCED = """
import sys
sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
import test_op_library as t
given = t.values()
opened = t.session(t.model(given))
y = opened.run(None, t.feeds(opened, given))[0]
t.assert_same_bits(y, t.direct(given))
print("equal by", t.library.selected_kernel())
"""


def run_forced(kernel: str) -> subprocess.CompletedProcess[str]:
    code = RUN_FORCED.format(tests=os.path.dirname(os.path.abspath(__file__)))
    return forked.python(code, environment={"BIDIFF_KERNEL": kernel})


@pytest.mark.parametrize("kernel", [k.name for k in KERNELS if k.supported])
def test_forced_kernel_runs_in_onnxruntime(kernel):
    done = run_forced(kernel)
    assert done.returncode == 0 and f"equal by {kernel}" in done.stdout, done.stderr


@pytest.mark.parametrize("kernel", ["abacus", *(k.name for k in KERNELS if not k.supported)])
def test_registration_refuses_an_unusable_kernel(kernel):
    done = run_forced(kernel)
    assert done.returncode == 1, "refused, not crashed"
    assert "BIDIFF_KERNEL: " in done.stderr and f"'{kernel}'" in done.stderr
    assert "choose one of" in done.stderr
