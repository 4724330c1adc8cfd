"""SelectiveScan, by our kernel and by its definition, against float64 step by step."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bidiff_deploy.engines import library
from bidiff_deploy.operators.names import DOMAIN, ONNX_OPSET, SELECTIVE_SCAN, VERSION
from bidiff_deploy.operators.scan_function import selective_scan
from support import run_once
from support.seeds import examples

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

CLOSE = 1e-5  # of the largest value; 3e-7 is seen
RANKS = {"x": 4, "delta": 4, "b": 4, "c": 4, "a": 2, "skip": 1}


def session(packed, columns=0, reverse=0, threads=1):
    node = helper.make_node(SELECTIVE_SCAN, list(RANKS), ["y"], domain=DOMAIN, columns=columns,
                            reverse=reverse)
    graph = helper.make_graph([node], "one", [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        for name, rank in RANKS.items()], [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, ir_version=8, functions=[selective_scan()], opset_imports=[
        helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, VERSION)])
    return run_once.session(model, packed=packed, threads=threads, fuse=False)


def inputs(seed, batch, channels, states, height, width):
    draw = np.random.default_rng(seed)
    shapes = {"x": (channels, height, width), "delta": (channels, height, width),
              "b": (states, height, width), "c": (states, height, width)}
    found = {name: draw.normal(size=(batch, *shape)) for name, shape in shapes.items()}
    # Steps from next to nothing to several, decays likewise.
    found |= {"delta": 4 * found["delta"] - 3,
              "a": -np.exp(2 * draw.normal(size=(channels, states))),
              "skip": draw.normal(size=channels)}
    return {name: value.astype(np.float32) for name, value in found.items()}


def expected(feed, columns, reverse):
    """By the definition, one pixel after the other, float64."""
    x, delta, b, c, a, skip = (value.astype(np.float64) for value in feed.values())
    step, y, h = np.logaddexp(0, delta), np.empty_like(x), np.zeros((len(x), *a.shape))
    pixels = list(np.ndindex(x.shape[2:]))
    if columns:
        pixels.sort(key=lambda pixel: pixel[::-1])
    for pixel in pixels[::-1] if reverse else pixels:
        at = (slice(None), slice(None), *pixel)
        h = np.exp(step[at][..., None] * a) * h + (step[at] * x[at])[..., None] * b[at][:, None]
        y[at] = (h * c[at][:, None]).sum(-1) + skip * x[at]
    return y


@examples(10 if "BIDIFF_KERNEL" not in os.environ else 4)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.integers(1, 35), st.integers(1, 9),
       st.integers(1, 12), st.integers(1, 12), st.integers(0, 1), st.integers(0, 1))
def test_kernel_and_definition(seed, batch, channels, states, height, width, columns, reverse):
    feed = inputs(seed, batch, channels, states, height, width)
    exact = expected(feed, columns, reverse)
    for packed in (True, False):
        found = session(packed, columns, reverse).run(None, feed)[0]
        assert np.abs(found - exact).max() <= CLOSE * max(np.abs(exact).max(), 1)


def test_threads_do_not_change_a_bit():
    feed = inputs(0, 1, 70, 4, 40, 41)
    one, two = (session(True, 1, 0, threads).run(None, feed)[0] for threads in (1, 2))
    assert np.array_equal(one, two)


def test_extreme_steps():
    """A step of almost zero keeps the state, a huge one forgets it."""
    feed = inputs(1, 1, 1, 1, 1, 3)
    feed |= {"delta": np.array([[[[0, -100, 1e4]]]], np.float32), "a": np.float32([[-1]])}
    found = session(True).run(None, feed)[0]
    np.testing.assert_allclose(found, expected(feed, 0, 0), rtol=1e-5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name, shape, sentence", [
    ("delta", (1, 3, 5, 4), "delta must have the shape of x"),
    ("c", (1, 3, 4, 5), "b and c must have the same shape, and the batch, height and width of x"),
    ("b", (2, 2, 4, 5), "b and c must have the same shape"),
    ("a", (2, 3), r"a must have shape \(channels of x, channels of b\), not \(2, 3\)"),
    ("skip", (4,), "skip"),
])
def test_inputs_that_do_not_fit(name, shape, sentence):
    feed = inputs(0, 1, 3, 2, 4, 5)
    feed[name] = np.zeros(shape, np.float32)
    with pytest.raises(Exception, match=sentence):
        session(True).run(None, feed)


def test_too_many_states():
    with pytest.raises(Exception, match="b has 65 channels, and at most 64 are possible"):
        session(True).run(None, inputs(0, 1, 1, 65, 1, 2))
