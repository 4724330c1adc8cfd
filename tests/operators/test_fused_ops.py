"""Each fused operator against its definition: a model of one node, run three ways.

``fused``: our kernel of the operator. ``inlined``: its definition, with our kernels of the
operators inside. ``stock``: ONNX Runtime's own operators alone.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bidiff_deploy.engines import library
from bidiff_deploy.operators import names as ops
from bidiff_deploy.operators.definitions import every_function, inline_fused
from support import forked, run_once
from support.reference_cases import snr
from support.seeds import examples

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

# Decibels of a float operator against stock ONNX Runtime. Winograd's convolution rounds about ten
# times as much as a direct one, which leaves 110 and more; bfloat16 has 8 bits, some 50 dB a
# factor, of which Winograd's transforms cost up to 12.
FLOAT32, BFLOAT16 = 100, 36
NORM = 115  # GroupNorm and Swish alone
# Fewer for each further kernel, which test_every_kernel runs all of this with; more in make soak.
SHARE = 1 if "BIDIFF_KERNEL" not in os.environ else 0.3
QUICK = examples(int(20 * SHARE))
INSIDE = {ops.BINARY_CONV, ops.GROUP_NORM_SWISH}  # what definitions of the others are made of
DEFINITIONS = every_function()


class Case:
    """Inputs of one node by name, in the operator's order; ``maps`` names those that are maps."""

    feeds = ("x", "skip", "second")  # other inputs are constants

    def __init__(self, op: str, inputs: dict[str, np.ndarray], **attributes: object) -> None:
        self.op, self.inputs, self.attributes = op, inputs, attributes

    def model(self):
        helper, types = onnx.helper, onnx.TensorProto
        node = helper.make_node(self.op, list(self.inputs), ["y"], domain=ops.DOMAIN,
                                **self.attributes)
        fed = [helper.make_tensor_value_info(
            name, types.FLOAT, [f"{name}{axis}" for axis in range(value.ndim)])
            for name, value in self.fed().items()]
        constants = [onnx.numpy_helper.from_array(value, name)
                     for name, value in self.inputs.items() if name not in self.fed()]
        graph = helper.make_graph([node], "one", fed,
                                  [helper.make_tensor_value_info("y", types.FLOAT, None)],
                                  initializer=constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", ops.ONNX_OPSET),
                                  helper.make_opsetid(ops.DOMAIN, ops.VERSION)], ir_version=8,
            functions=[function for function in DEFINITIONS
                       if function.name == self.op or function.name in INSIDE])

    def fed(self) -> dict[str, np.ndarray]:
        return {name: value for name, value in self.inputs.items() if value.ndim == 4
                and name in self.feeds}

    def run(self, how: str, threads: int | None = None) -> np.ndarray:
        """By our kernels ("fused"), by BinaryConv alone ("inlined"), or by neither ("stock")."""
        model = inline_fused(self.model()) if how == "inlined" else self.model()
        return run_once.run(model, self.fed(), packed=how != "stock", fuse=False,
                            threads=threads or (2 if how == "fused" else 1))


class Maker:
    """Random inputs of a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
        return (scale * self.generator.standard_normal(shape) + shift).astype(np.float32)

    def norm(self, channels: int) -> dict[str, np.ndarray]:
        return {"scale": self.normal(channels, scale=0.2, shift=1), "bias": self.normal(channels)}

    def branch(self, channels: int, k: int, suffix: str = "") -> dict[str, np.ndarray]:
        words = self.generator.integers(-2**31, 2**31, (channels, k, k, -(-channels // 32)))
        parts = {"words": words.astype(np.int32), "alpha": self.normal(channels, scale=0.1),
                 "threshold": self.normal(channels, scale=0.3),
                 "rprelu": self.normal(3, channels, scale=0.3)}
        return {name + suffix: value for name, value in parts.items()}

    def weight(self, out: int, channels: int, k: int) -> np.ndarray:
        return self.normal(out, channels, k, k, scale=1 / np.sqrt(channels * k * k))


seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)
channel_counts = st.sampled_from([2, 4, 6, 16, 32, 34, 64])
some = st.sampled_from(["absent", "scalar", "map"])


def groups_of(channels: int, pixels: int = 64) -> int:
    """How many groups; few numbers alike in a group would be divided by next to nothing."""
    groups = 2 if channels % 4 else 4
    assume(channels // groups * pixels >= 8)
    return groups


@QUICK
@given(seeds, st.integers(1, 2), channel_counts, sizes, sizes, st.sampled_from([1, 3]),
       st.booleans(), st.booleans())
def test_norm_binary_conv(seed, batch, channels, height, width, k, timed, skipped):
    make, none = Maker(seed), np.zeros(1, np.float32)
    shape = (batch, channels, height, width)
    case = Case(ops.NORM_BINARY_CONV, {
        "x": make.normal(*shape), **make.norm(channels), **make.branch(channels, k),
        "time": make.normal(channels) if timed else none,
        "skip": make.normal(*shape) if skipped else none},
        groups=groups_of(channels, height * width))
    np.testing.assert_array_equal(case.run("fused"), case.run("inlined"))


@QUICK
@given(seeds, st.integers(1, 2), channel_counts, sizes, sizes, st.sampled_from([1, 3]))
def test_binary_fusion(seed, batch, channels, height, width, k):
    make = Maker(seed)
    shape = (batch, channels, height, width)
    case = Case(ops.BINARY_FUSION, {
        "x": make.normal(*shape), "skip": make.normal(*shape),
        **make.branch(channels, k, "1"), **make.branch(channels, k, "2")})
    np.testing.assert_array_equal(case.run("fused"), case.run("inlined"))
    assert snr(case.run("stock"), case.run("fused")) > 120  # no sum is rounded: signs agree


@QUICK
@given(seeds, st.integers(1, 2), channel_counts, st.integers(1, 20), st.integers(1, 20))
def test_binary_down(seed, batch, channels, height, width):
    make = Maker(seed)
    case = Case(ops.BINARY_DOWN, {
        "x": make.normal(batch, channels, 2 * height, 2 * width),
        **make.branch(channels // 2, 3, "1"), **make.branch(channels // 2, 3, "2")})
    np.testing.assert_array_equal(case.run("fused"), case.run("inlined"))
    assert snr(case.run("stock"), case.run("fused")) > 120


@QUICK
@given(seeds, st.integers(1, 2), channel_counts, sizes, sizes)
def test_binary_up(seed, batch, channels, height, width):
    make = Maker(seed)
    case = Case(ops.BINARY_UP, {"x": make.normal(batch, channels, height, width),
                                **make.branch(channels, 3, "1"), **make.branch(channels, 3, "2")})
    np.testing.assert_array_equal(case.run("fused"), case.run("inlined"))
    assert snr(case.run("stock"), case.run("fused")) > 120


@QUICK
@given(seeds, st.integers(1, 2), channel_counts, sizes, sizes, st.floats(-30, 30))
def test_group_norm_swish(seed, batch, channels, height, width, shift):
    make = Maker(seed)
    x = make.normal(batch, channels, height, width, shift=shift)
    groups = groups_of(channels, height * width)
    case = Case(ops.GROUP_NORM_SWISH, {"x": x, **make.norm(channels)}, groups=groups)
    # In float64, because a mean of 30 costs stock ONNX Runtime two digits.
    parts = x.astype(np.float64).reshape(batch, groups, -1)
    normal = (parts - parts.mean(-1, keepdims=True)) / np.sqrt(
        parts.var(-1, keepdims=True) + ops.EPSILON)
    n = (normal.reshape(x.shape) * case.inputs["scale"][:, None, None]
         + case.inputs["bias"][:, None, None])
    # x itself has 24 bits, of which a mean of |shift| standard deviations takes some.
    lost = 20 * np.log10(max(1, abs(shift)))
    found = case.run("fused")
    assert snr(n / (1 + np.exp(-n)), found) > NORM - lost
    np.testing.assert_array_equal(found, case.run("fused", threads=1))


@pytest.mark.parametrize("compute, bound", [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
@examples(int(16 * SHARE))
@given(seeds, st.integers(1, 2), st.sampled_from([4, 6, 16, 34, 64]),
       st.sampled_from([1, 3, 16, 40, 64]), sizes, sizes, some, some)
def test_norm_conv(compute, bound, seed, batch, channels, out, height, width, time, skip):
    make, none = Maker(seed), np.zeros(1, np.float32)
    absent = {"absent": none, "scalar": make.normal(1)}
    case = Case(ops.NORM_CONV, {
        "x": make.normal(batch, channels, height, width), **make.norm(channels),
        "weight": make.weight(out, channels, 3), "conv_bias": make.normal(out),
        "time": absent.get(time, make.normal(out)),
        "skip": absent.get(skip, make.normal(batch, out, height, width))},
        groups=groups_of(channels, height * width), compute=compute)
    assert snr(case.run("stock"), case.run("fused")) > bound


@QUICK
@given(seeds, st.integers(1, 2), st.integers(1, 20), st.integers(1, 20), sizes, sizes)
def test_conv3x3(seed, batch, channels, out, height, width):
    make = Maker(seed)
    case = Case(ops.CONV3X3, {"x": make.normal(batch, channels, height, width),
                              "weight": make.weight(out, channels, 3), "bias": make.normal(out)})
    assert snr(case.run("stock"), case.run("fused")) > 125


@pytest.mark.parametrize("compute, bound", [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
@examples(int(10 * SHARE))
@given(seeds, st.integers(1, 2), channel_counts, st.integers(1, 20), sizes, sizes,
       st.sampled_from([1.0, 0.1, -0.5]), st.booleans())
def test_winograd_conv(compute, bound, seed, batch, channels, out, height, width, slope, skipped):
    make, none = Maker(seed), np.zeros(1, np.float32)
    inputs = {"x": make.normal(batch, channels, height, width),
              "weight": make.weight(out, channels, 3), "bias": make.normal(out), "skip": none}
    plain = {"compute": compute, "slope": 1.0, "input_slope": 1.0}
    case = Case(ops.WINOGRAD_CONV, inputs, **plain)
    convolved = case.run("fused")
    # Rounding is a share of the products' sizes, of which there may be few.
    products = Case(ops.WINOGRAD_CONV, {name: np.abs(value)
                                        for name, value in inputs.items()}, **plain).run("stock")
    assert snr(products, products + convolved - case.run("stock")) > bound

    # What is fused is as it would be apart, to the bit.
    skip = make.normal(batch, out, height, width) if skipped else none
    x, slope = inputs["x"], np.float32(slope)
    fused = Case(ops.WINOGRAD_CONV, {**inputs, "skip": skip}, **{**plain, "slope": float(slope)})
    apart = np.where(convolved < 0, slope * convolved, convolved) + skip
    assert np.array_equal(fused.run("fused"), apart)
    before = Case(ops.WINOGRAD_CONV, inputs, **{**plain, "input_slope": float(slope)})
    after = Case(ops.WINOGRAD_CONV, {**inputs, "x": np.where(x < 0, slope * x, x)}, **plain)
    assert np.array_equal(before.run("fused"), after.run("fused"))


@pytest.mark.parametrize("slopes", [(1.0, 1.0), (0.1, 1.0), (1.0, 0.1), (0.1, 0.1)])
def test_a_leak_of_slope_1_is_not_inlined(slopes):
    make = Maker(0)
    case = Case(ops.WINOGRAD_CONV, {
        "x": make.normal(1, 2, 5, 4), "weight": make.weight(3, 2, 3), "bias": make.normal(3),
        "skip": make.normal(1, 3, 5, 4)}, compute="float32", slope=slopes[0],
        input_slope=slopes[1])
    found = [node.op_type for node in inline_fused(case.model()).graph.node]
    assert found.count("LeakyRelu") == slopes.count(0.1)
    np.testing.assert_array_equal(case.run("inlined"), case.run("stock"))


def test_winograd_conv_refuses_another_skip():
    make = Maker(0)
    inputs = {"x": make.normal(1, 2, 5, 4), "weight": make.weight(3, 2, 3),
              "bias": make.normal(3)}
    for skip, reason in ((np.ones(1, np.float32), "skip must be a map or a single 0"),
                         (make.normal(1, 3, 4, 4), r"must have the output's shape \(1, 3, 5, 4\)")):
        case = Case(ops.WINOGRAD_CONV, {**inputs, "skip": skip}, compute="float32", slope=1.0,
                    input_slope=1.0)
        with pytest.raises(Exception, match=reason):
            case.run("fused")


@pytest.mark.parametrize("compute, bound", [("float32", 110), ("bfloat16", BFLOAT16)])
@examples(int(12 * SHARE))
@given(seeds, st.integers(1, 2), channel_counts, st.sampled_from([1, 8, 40, 64]),
       st.sampled_from([1, 5, 64]), sizes, sizes)
def test_pair_conv(compute, bound, seed, batch, channels, second, out, height, width):
    make = Maker(seed)
    inputs = {"x": make.normal(batch, channels, height, width),
              "second": make.normal(batch, second, height, width),
              "weight": make.weight(out, channels + second, 1), "bias": make.normal(out)}
    case = Case(ops.PAIR_CONV, inputs, compute=compute)
    # Rounding is a share of the products, whose sum may be nearly 0: what it is compared with.
    products = Case(ops.PAIR_CONV, {name: np.abs(value) for name, value in inputs.items()})
    error = case.run("fused") - case.run("stock")
    assert snr(products.run("stock"), products.run("stock") + error) > bound


@pytest.mark.parametrize("compute, bound", [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
@examples(int(10 * SHARE))
@given(seeds, st.integers(1, 2), st.sampled_from([4, 16, 34, 64]), st.integers(1, 30),
       st.integers(1, 30), st.sampled_from([0.3, 1.0, 3.0]))
def test_attention(compute, bound, seed, batch, channels, height, width, sharpness):
    make = Maker(seed)
    qkv = make.weight(3 * channels, channels, 1)
    qkv[:2 * channels] *= np.float32(sharpness)
    case = Case(ops.ATTENTION, {
        "x": make.normal(batch, channels, height, width), **make.norm(channels), "qkv": qkv,
        "out_weight": make.weight(channels, channels, 1), "out_bias": make.normal(channels)},
        groups=groups_of(channels, height * width), compute=compute)
    assert snr(case.run("stock"), case.run("fused")) > bound


def test_attention_with_weights_that_are_no_constants():
    make = Maker(2)
    case = Case(ops.ATTENTION, {
        "x": make.normal(2, 6, 3, 5), **make.norm(6), "qkv": make.weight(18, 6, 1),
        "out_weight": make.weight(6, 6, 1), "out_bias": make.normal(6)}, groups=2,
        compute="float32")
    constant = case.run("fused")
    case.feeds = ("x", "qkv", "out_weight")
    np.testing.assert_array_equal(case.run("fused"), constant)


def test_attention_with_empty_constant_weights_is_refused():
    none, vector = np.zeros((0, 0, 1, 1), np.float32), np.ones(4, np.float32)
    case = Case(ops.ATTENTION, {"x": np.ones((1, 4, 2, 2), np.float32), "scale": vector,
                                "bias": vector, "qkv": none, "out_weight": none,
                                "out_bias": vector}, groups=2, compute="float32")
    case.feeds = ("x",)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library.library_path()))
    # Values of the program's own have an address although they are empty.
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value)
              for name, value in case.inputs.items() if name != "x"}
    for name, value in values.items():
        options.add_initializer(name, value)
    session = onnxruntime.InferenceSession(case.model().SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="weight must have shape"):
        session.run(["y"], {"x": case.inputs["x"]})


def test_attention_with_scores_beyond_exp():
    make = Maker(1)
    qkv = make.weight(48, 16, 1)
    qkv[:32] *= np.float32(30)
    case = Case(ops.ATTENTION, {
        "x": make.normal(1, 16, 12, 12), **make.norm(16), "qkv": qkv,
        "out_weight": make.weight(16, 16, 1), "out_bias": make.normal(16)}, groups=4,
        compute="float32")
    found = case.run("fused")
    assert np.isfinite(found).all()
    # Scores in the thousands: their own rounding decides between near equals.
    assert snr(case.run("stock"), found) > 60


@pytest.mark.parametrize("op, change, says", [
    ("norm", {"scale": np.ones(3, np.float32)}, "scale must have shape"),
    ("norm", {"skip": np.ones((1, 16, 2, 2), np.float32)}, "skip must have"),
    ("norm", {"skip": np.ones(1, np.float32)}, "single 0"),
    ("conv", {"weight": np.ones((8, 5, 3, 3), np.float32)}, "weight must have shape"),
    ("conv", {"conv_bias": np.ones(3, np.float32)}, "bias must have shape"),
    ("down", {"x": np.ones((1, 16, 5, 4), np.float32)}, "must be even"),
])
def test_inputs_that_do_not_fit_are_refused(op, change, says):
    make, none = Maker(0), np.zeros(1, np.float32)
    x = make.normal(1, 16, 8, 8)
    case = {
        "norm": Case(ops.NORM_BINARY_CONV, {"x": x, **make.norm(16), **make.branch(16, 3),
                                            "time": none, "skip": none}, groups=4),
        "conv": Case(ops.NORM_CONV, {"x": x, **make.norm(16), "weight": make.weight(8, 16, 3),
                                     "conv_bias": make.normal(8), "time": none, "skip": none},
                     groups=4, compute="float32"),
        "down": Case(ops.BINARY_DOWN, {"x": x, **make.branch(8, 3, "1"),
                                       **make.branch(8, 3, "2")}),
    }[op]
    case.inputs.update(change)
    with pytest.raises(Exception, match=says):
        case.run("fused")


def test_an_unknown_precision_is_refused():
    make = Maker(0)
    case = Case(ops.PAIR_CONV, {"x": make.normal(1, 6, 8, 8), "second": make.normal(1, 6, 8, 8),
                                "weight": make.weight(4, 12, 1), "bias": make.normal(4)},
                compute="float8")
    with pytest.raises(Exception,
                       match="compute must be float32, bfloat16 or float16, not 'float8'"):
        case.run("fused")


@pytest.mark.skipif("BIDIFF_KERNEL" in os.environ, reason="it is itself run with a kernel forced")
@pytest.mark.parametrize("kernel", [kernel.name for kernel in library.kernels()])
def test_every_kernel(kernel):
    """This file, test_scaled_conv.py and test_selective_scan.py once more in a process of its own
    for every kernel that this CPU runs."""
    if not next(known for known in library.kernels() if known.name == kernel).supported:
        pytest.skip(f"this CPU does not run kernel {kernel}")
    if kernel == library.selected_kernel():
        return  # that is the one above
    done = forked.python("import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))", "-q", "-x",
                         "-p", "no:cacheprovider", "--noconftest", *(
                             __file__.replace("fused_ops", name)
                             for name in ("fused_ops", "scaled_conv", "selective_scan")),
                         environment={"BIDIFF_KERNEL": kernel,
                                      "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert done.returncode == 0, done.stdout[-3000:]
