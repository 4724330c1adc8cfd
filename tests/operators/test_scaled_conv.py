"""ScaledBinaryConv: the kernel against its definition, integers alone, and every kernel against
the portable one."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.engines import library
from bidiff_deploy.operators import names as ops
from bidiff_deploy.operators.definitions import scaled_functions
from bidiff_deploy.operators.sign_bits import pack_signs
from support import run_once
from support.reference_cases import snr
from support.seeds import examples

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

DEFINITIONS = scaled_functions()
# Fewer for each further kernel, with which test_fused_ops.py runs this file.
QUICK = examples(20 if "BIDIFF_KERNEL" not in os.environ else 6)


def run(inputs: dict[str, np.ndarray], how: str = "kernel", threads: int = 2) -> np.ndarray:
    """One node, by the kernel or ("stock") by its definition."""
    helper = onnx.helper
    node = helper.make_node(ops.SCALED_BINARY_CONV, list(inputs), ["y"], domain=ops.DOMAIN)
    axes = ["N", "C", "H", "W"]
    graph = helper.make_graph(
        [node], "one", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        initializer=[onnx.numpy_helper.from_array(value, name)
                     for name, value in inputs.items() if name != "x"])
    model = helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", ops.ONNX_OPSET), helper.make_opsetid(ops.DOMAIN, ops.VERSION)],
        ir_version=8, functions=DEFINITIONS)
    return run_once.run(model, {"x": inputs["x"]}, packed=how == "kernel", threads=threads,
                        fuse=False)


def make(seed: int, shape: tuple[int, int, int, int], out: int, k: int, rank: int = 3,
         zeros: bool = False) -> dict[str, np.ndarray]:
    """Random inputs in the operator's order; ``zeros``: some of x are 0 or -0."""
    generator = np.random.default_rng(seed)

    def normal(*size: int, scale: float = 1.0) -> np.ndarray:
        return (scale * generator.standard_normal(size)).astype(np.float32)

    x = normal(*shape)
    if zeros:
        x *= generator.integers(-1, 2, shape)
    channels = shape[1]
    words = generator.integers(-2**31, 2**31, (out, k, k, -(-channels // 32))).astype(np.int32)
    entries = 2 * max(channels, out)
    indices = np.stack([generator.integers(0, out, entries),
                        generator.integers(0, channels, entries)]).astype(np.int32)
    return {"x": x, "words": words, "alpha": normal(out, scale=0.1),
            "rprelu": normal(3, out, scale=0.3), "down": normal(rank, channels, scale=0.2),
            "up": normal(out, rank, scale=0.2), "values": normal(entries, scale=0.2),
            "indices": indices}


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.sampled_from([1, 7, 24, 32, 34, 64, 100]),
       st.sampled_from([1, 3, 8, 18]), st.sampled_from([1, 3]), st.integers(1, 20),
       st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_the_kernel_computes_the_definition(seed, batch, channels, out, k, height, width, rank,
                                            zeros):
    inputs = make(seed, (batch, channels, height, width), out, k, rank, zeros)
    found = run(inputs)
    np.testing.assert_array_equal(found, run(inputs, threads=1))
    # Both round sums of the magnitudes; what is left of these may be small.
    stock = run(inputs, "stock")
    magnitude = 2 * np.abs(inputs["alpha"]).max() * k * np.sqrt(channels) + 1
    assert np.abs(found - stock).max() < magnitude * 1e-5
    if found.size > 64:
        assert snr(stock, found) > 110


def integers_of(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Sums of signs, in integers: no bits, no popcounts."""
    x, words = inputs["x"], inputs["words"]
    k, channels = words.shape[1], x.shape[1]
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :channels]
    weight = 2 * bits.astype(np.int64) - 1
    half = k // 2
    signs = np.pad(np.sign(x).astype(np.int64), ((0, 0), (0, 0), (half, half), (half, half)))
    height, width = x.shape[2:]
    return sum(np.einsum("oc,nchw->nohw", weight[:, dy, dx],
                         signs[:, :, dy:dy + height, dx:dx + width])
               for dy in range(k) for dx in range(k))


@QUICK
@given(st.integers(0, 2**32 - 1), st.sampled_from([(32, 8), (33, 4), (64, 5), (96, 3), (1100, 2)]),
       st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 35), st.booleans())
def test_integers_are_exact(seed, channels, k, height, width, zeros):
    """All magnitudes are 1 (or, with zeros, those that make each mean 1), and no branch adds."""
    inputs = make(seed, (1, channels[0], height, width), channels[1], k)
    x = np.sign(inputs["x"])
    if zeros:  # a quarter of the channels keep their sign, so that the mean of 4 * |sign| is 1
        order = np.random.default_rng(seed).permuted(
            np.broadcast_to(np.arange(channels[0])[:, None, None], x.shape[1:]), axis=0)
        x = np.where(order < channels[0] // 4, 4 * x, 0)
    inputs["x"] = x.astype(np.float32)
    if not (np.abs(x).mean(axis=1) == 1).all():
        return
    inputs["alpha"][:] = 1
    for name in ("rprelu", "down", "up", "values"):
        inputs[name][:] = 0
    inputs["rprelu"][1] = 1
    np.testing.assert_array_equal(run(inputs), integers_of(inputs))


def test_a_pixel_has_its_own_scale():
    """One channel, one output, weights +1: y is the sum of m * sign = x over the 3x3 window."""
    x = np.arange(-4, 5, dtype=np.float32).reshape(1, 1, 3, 3)
    inputs = make(0, x.shape, 1, 3, 1)
    inputs.update(x=x, words=pack_signs(np.ones((1, 1, 3, 3), np.float32)),
                  alpha=np.float32([2]), rprelu=np.float32([[0.5], [0.25], [1]]),
                  down=np.float32([[3]]), up=np.float32([[10]]), values=np.float32([100, 200]),
                  indices=np.zeros((2, 2), np.int32))
    sums = np.float32([[-8, -9, -4], [-3, 0, 3], [4, 9, 8]])
    y = 2 * sums + 0.5
    wanted = np.where(y < 0, 0.25 * y, y) + 1 + 330 * x[0, 0]
    np.testing.assert_array_equal(run(inputs)[0, 0], wanted)
    np.testing.assert_array_equal(run(inputs, "stock")[0, 0], wanted)


@pytest.mark.parametrize("change, says", [
    ({"down": np.ones((3, 5), np.float32)}, "down must have shape"),
    ({"up": np.ones((3, 8), np.float32)}, "up must have shape"),
    ({"indices": np.full((2, 48), 24, np.int32)}, "below Cout and Cin"),
    ({"indices": np.zeros((2, 3), np.int32)}, "values must have shape"),
    ({"rprelu": np.zeros((2, 8), np.float32)}, "rprelu must have shape")])
def test_inputs_that_do_not_fit_are_refused(change, says):
    with pytest.raises(Exception, match=says):
        run({**make(0, (1, 24, 4, 4), 8, 3), **change})

