"""The CUDA kernels on this CPU: the very device source, emulated (engines/tests/emulated_cuda),
against plain loops in C++ and against the op library's own kernels."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from bidiff_deploy.engines import library
from support import emulated_cuda
from support.native import HOST, built
from support.seeds import SEED, SOAK, examples
from support.waiting import HANG_SECONDS
from tools.checks.cuda_operators import Branch, Gpu

# Every path, in both forms where sm_75 has its own.
TARGETS = [(75, "xor"), (75, "int8"), (80, "xor"), (90, "and"), (120, "int8"), (87, "popc")]
QUICK = examples(12, suppress_health_check=list(HealthCheck))


def native(name: str, *arguments: str, **variables: str) -> str:
    """Output of a native test, which must pass."""
    done = subprocess.run([built(HOST, name) / name, *arguments], capture_output=True, text=True,
                          timeout=HANG_SECONDS, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_emulation_multiplies_as_the_manual_says_and_notices_mistakes():
    assert "the CUDA stand-in: 0 failed" in native("cuda_emulation_test")


def test_plans_cover_every_output_and_refuse_with_a_sentence():
    assert "plans: 0 failed" in native("cuda_plan_test")


@pytest.mark.soak
@pytest.mark.parametrize("order, copies, seed",
                         [("forward", "late", 3), ("reverse", "early", 6), ("7", "early", 5)])
def test_every_operator_path_and_element_against_plain_loops(order, copies, seed):
    """In several orders of a block's threads and of copies: a missing barrier shows in one. Seeds
    whose shapes are small; three of each have a sum of several stages."""
    cases = 10 if SOAK else 1
    output = native("cuda_kernels_test", str(cases), str(seed + SEED),
                    BIDIFF_EMULATED_ORDER=order, BIDIFF_EMULATED_COPIES=copies)
    assert f"{12 * cases} problems, 0 failed" in output


@pytest.fixture(scope="module")
def gpus(tmp_path_factory):
    with emulated_cuda.emulated(tmp_path_factory.mktemp("cache")):
        opened = {architecture: Gpu(emulated_cuda.ordinal(architecture))
                  for architecture, _ in TARGETS}
        yield opened
        for gpu in opened.values():
            gpu.close()


@st.composite
def problems(draw):
    """x, branch and the rest of a BinaryConv; x has ties, zeros of both signs and NaN."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cin = draw(st.sampled_from([1, 31, 32, 33, 48, 64, 96, 150]))
    cout = draw(st.sampled_from([1, 16, 33, 64]))
    k, height, width = (draw(st.sampled_from(values)) for values in (
        [1, 3], [1, 2, 5, 9, 16], [1, 3, 8, 17, 33, 64]))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    threshold = np.round(generator.standard_normal(cin) * 2).astype(np.float32) / 2
    x = np.round(generator.standard_normal((1, cin, height, width)) * 2).astype(dtype) / dtype(2)
    x[generator.random(x.shape) < 0.05] = -0.0
    x[generator.random(x.shape) < 0.01] = np.nan
    words = generator.integers(-2**31, 2**31, (cout, k, k, -(-cin // 32))).astype(np.int32)
    alpha, time = generator.standard_normal((2, cout)).astype(np.float32)
    rprelu = generator.standard_normal((3, cout)).astype(np.float32)
    residual = generator.standard_normal((1, cout, height, width)).astype(dtype)
    given = {name: value for name, value in (("residual", residual), ("time", time))
             if draw(st.booleans())}
    if draw(st.booleans()):
        given["residual"] = residual.ravel()[:1]
    options = {name: value for name, value in (("threshold", threshold), ("rprelu", rprelu))
               if draw(st.booleans())}
    return x, Branch(words, alpha, **options), given


@QUICK
@given(problems())
def test_binary_conv_has_the_bits_of_the_cpu(gpus, problem):
    x, branch, inputs = problem
    wide = {name: value.astype(np.float32) for name, value in inputs.items()}
    with np.errstate(over="ignore"):
        wanted = library.binary_conv(x.astype(np.float32), branch.words, branch.alpha,
                                     branch.threshold, branch.rprelu, **wide).astype(x.dtype)
    for architecture, path in TARGETS:
        y = gpus[architecture].call("BinaryConv", x, [branch], **inputs).run(path)
        np.testing.assert_array_equal(y.view(f"i{y.itemsize}"), wanted.view(f"i{y.itemsize}"),
                                      err_msg=f"{path} on sm_{architecture}, {x.shape}")


@pytest.mark.parametrize("shape", [(1, 512, 8, 32), (1, 96, 40, 24), (2, 64, 4, 64)])
def test_sums_of_whole_channels_of_the_network(gpus, shape):
    """Deep sums in several stages, where every bit differs from every weight or none does."""
    cin = shape[1]
    words = np.full((64, 3, 3, cin // 32), -1, np.int32)
    words[1::2] = 0
    branch = Branch(words, np.ones(64, np.float32))
    for sign in (1, -1):
        x = np.full(shape, sign, np.float32)
        wanted = library.binary_conv_sums(x, words).astype(np.float32)
        assert abs(wanted).max() == 9 * cin
        for architecture, path in TARGETS:
            y = gpus[architecture].call("BinaryConv", x, [branch]).run(path)
            np.testing.assert_array_equal(y, wanted, err_msg=f"{path} on sm_{architecture}")
