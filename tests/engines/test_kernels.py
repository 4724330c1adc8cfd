"""Every kernel of the op library against the portable one, and that against numpy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from bidiff_deploy.engines import library
from bidiff_deploy.errors import EngineError
from support import forked
from support.native import HOST, built
from support.seeds import examples
from support.waiting import HANG_SECONDS

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

SUPPORTED = [kernel.name for kernel in library.kernels() if kernel.supported]
QUICK = examples(120, suppress_health_check=[HealthCheck.too_slow])

# Widths around the vectors' 8 and 16 pixels, their 256 and 512 pixels a unit, and tiles of those.
WIDTHS = st.one_of(st.integers(1, 40),
                   st.sampled_from([63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 513, 530, 1030]))
CHANNELS = st.one_of(st.integers(1, 70), st.sampled_from([96, 128]))


@st.composite
def shapes(draw) -> tuple[int, int, int, int, int, int]:
    """(N, Cin, Cout, k, H, W), small enough for the portable kernel."""
    width = draw(WIDTHS)
    height = draw(st.integers(1, 36 if width <= 40 else 5))
    return (draw(st.integers(1, 2)), draw(CHANNELS), draw(st.integers(1, 19)),
            draw(st.sampled_from([1, 3])), height, width)


def make_inputs(shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """x with ties, -0.0, NaN and infinities; words whose padding bits are garbage."""
    batch, cin, cout, k, height, width = shape
    generator = np.random.default_rng(seed)
    threshold = np.round(generator.standard_normal(cin), 1).astype(np.float32)
    x = generator.standard_normal((batch, cin, height, width)).astype(np.float32)
    odd = generator.random(x.shape)
    tie = np.broadcast_to(-threshold[:, None, None], x.shape)
    x = np.where(odd < 0.1, tie, x)
    for low, value in ((0.10, -0.0), (0.15, 0.0), (0.18, np.nan), (0.20, np.inf), (0.22, -np.inf)):
        x[(odd >= low) & (odd < low + 0.02)] = value
    words = generator.integers(-2**31, 2**31, (cout, k, k, -(-cin // 32)))
    return {"x": x, "words": words.astype(np.int32), "threshold": threshold,
            "alpha": generator.standard_normal(cout).astype(np.float32),
            "rprelu": generator.standard_normal((3, cout)).astype(np.float32),
            "residual": generator.standard_normal((batch, cout, height, width)).astype(np.float32),
            "time": generator.standard_normal(cout).astype(np.float32)}


def numpy_sums(x: np.ndarray, words: np.ndarray, threshold: np.ndarray | None) -> np.ndarray:
    """The contract's sums by +-1 matrices and a zero-padded map: no bits, no popcounts."""
    batch, cin, height, width = x.shape
    cout, k = words.shape[:2]
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :cin]
    weights = np.where(bits == 1, 1, -1)
    with np.errstate(invalid="ignore"):
        shifted = x if threshold is None else x + threshold[:, None, None]
        signs = np.where(shifted >= np.float32(0), 1, -1)
    half = k // 2
    padded = np.pad(signs, ((0, 0), (0, 0), (half, half), (half, half)))
    sums = np.zeros((batch, cout, height, width), np.int64)
    for dy in range(k):
        for dx in range(k):
            tap = padded[:, :, dy:dy + height, dx:dx + width].reshape(batch, cin, -1)
            sums += (weights[:, dy, dx] @ tap).reshape(sums.shape)
    return sums


@QUICK
@given(shapes(), st.integers(0, 2**32 - 1), st.booleans())
def test_sums_equal_numpy_and_each_other(shape, seed, with_threshold):
    inputs = make_inputs(shape, seed)
    threshold = inputs["threshold"] if with_threshold else None
    wanted = numpy_sums(inputs["x"], inputs["words"], threshold)
    for kernel in SUPPORTED:
        sums = library.binary_conv_sums(inputs["x"], inputs["words"], threshold, kernel=kernel)
        np.testing.assert_array_equal(sums, wanted, err_msg=f"{kernel} {shape}")


@QUICK
@given(shapes(), st.integers(0, 2**32 - 1), st.sets(st.sampled_from(
    ["threshold", "rprelu", "residual", "time"])), st.booleans(), st.booleans())
def test_whole_op_has_the_same_bits_from_every_kernel(shape, seed, names, one_residual, one_time):
    inputs = make_inputs(shape, seed)
    if one_residual:
        inputs["residual"] = inputs["residual"].ravel()[:1]
    if one_time:
        inputs["time"] = inputs["time"][:1]
    optional = {name: inputs[name] for name in names}
    wanted = library.binary_conv(inputs["x"], inputs["words"], inputs["alpha"], **optional,
                                 kernel="portable")
    for kernel in SUPPORTED:
        y = library.binary_conv(inputs["x"], inputs["words"], inputs["alpha"], **optional,
                                kernel=kernel)
        np.testing.assert_array_equal(y.view(np.int32), wanted.view(np.int32),
                                      err_msg=f"{kernel} {shape} {sorted(names)}")
    exact, magnitude = float64_op(inputs, optional)
    # Six roundings, each of at most half a unit in the last place of an intermediate.
    assert np.all(np.abs(wanted - exact) <= 6 * 2.0**-24 * magnitude)


def float64_op(inputs, optional) -> tuple[np.ndarray, np.ndarray]:
    """The op in float64, and a bound on the magnitude of every intermediate value."""
    def column(values):
        return values.astype(np.float64).reshape(-1, 1, 1)

    sums = numpy_sums(inputs["x"], inputs["words"], optional.get("threshold"))
    y = column(inputs["alpha"]) * sums
    magnitude = np.abs(y)
    if "rprelu" in optional:
        shift_in, slope, shift_out = (column(row) for row in optional["rprelu"])
        y = y + shift_in
        magnitude = (magnitude + np.abs(shift_in)) * np.maximum(1, np.abs(slope))
        magnitude += np.abs(shift_out)
        y = np.where(y < 0, slope * y, y) + shift_out
    if "residual" in optional:
        y, magnitude = y + optional["residual"], magnitude + np.abs(optional["residual"])
    if "time" in optional:
        y, magnitude = y + column(optional["time"]), magnitude + np.abs(column(optional["time"]))
    return y, magnitude


@pytest.mark.parametrize("kernel", SUPPORTED)
@pytest.mark.parametrize("shape", [
    (1, 512, 3, 3, 3, 5), (1, 512, 2, 1, 2, 33), (1, 3700, 2, 3, 2, 3), (1, 40, 300, 3, 5, 4),
    (3, 9, 1, 1, 1, 1), (1, 64, 8, 3, 96, 16), (2, 33, 5, 3, 70, 256)])
def test_large_channel_counts_and_many_units(kernel, shape):
    inputs = make_inputs(shape, 5)
    wanted = numpy_sums(inputs["x"], inputs["words"], inputs["threshold"])
    sums = library.binary_conv_sums(inputs["x"], inputs["words"], inputs["threshold"],
                                    kernel=kernel)
    np.testing.assert_array_equal(sums, wanted)


@pytest.mark.parametrize("kernel", SUPPORTED)
def test_sign_conventions(kernel):
    x = np.float32([0.0, -0.0, np.nan, 1e-45, -1e-45, np.inf, -np.inf]).reshape(1, 1, 1, 7)
    words = np.ones((1, 1, 1, 1), np.int32)
    signs = library.binary_conv_sums(x, words, kernel=kernel).ravel()
    assert signs.tolist() == [1, 1, -1, 1, -1, 1, -1]


@pytest.mark.parametrize("kernel", SUPPORTED)
def test_padding_bits_are_ignored(kernel):
    inputs = make_inputs((1, 37, 6, 3, 4, 9), 1)
    clean = inputs["words"] & np.int32([-1, (1 << 5) - 1])
    assert (clean != inputs["words"]).any()
    np.testing.assert_array_equal(
        library.binary_conv_sums(inputs["x"], inputs["words"], kernel=kernel),
        library.binary_conv_sums(inputs["x"], clean, kernel=kernel))


def test_kernels_are_listed_best_first_and_portable_is_always_there():
    listed = library.kernels()
    assert [kernel.name for kernel in listed] == [
        "avx512vpopcntdq", "avx512bw", "avx2", "neondotprod", "neon", "portable"]
    assert listed[-1].supported and listed[-1].reason == ""
    assert all(kernel.supported == (kernel.reason == "") for kernel in listed)


@pytest.mark.parametrize("kernel", SUPPORTED)
def test_environment_forces_a_kernel(kernel):
    done = forked.python("from bidiff_deploy.engines import library\n"
                         "print(library.selected_kernel())", environment={"BIDIFF_KERNEL": kernel})
    assert done.stdout.strip() == kernel, done.stderr


def test_unknown_kernel_is_refused():
    x, words = np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.int32)
    with pytest.raises(EngineError, match="no kernel 'abacus'; choose one of .*portable"):
        library.binary_conv_sums(x, words, kernel="abacus")


def test_unsupported_kernels_are_refused_not_run():
    x, words = np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.int32)
    for kernel in library.kernels():
        if not kernel.supported:
            with pytest.raises(EngineError, match=f"'{kernel.name}' cannot be used because"):
                library.binary_conv_sums(x, words, kernel=kernel.name)


def test_wrong_shapes_are_refused():
    x = np.zeros((1, 40, 4, 4), np.float32)
    with pytest.raises(EngineError, match=r"words must be int32 \(Cout, k, k, 2\)"):
        library.binary_conv_sums(x, np.zeros((8, 3, 3, 1), np.int32))
    with pytest.raises(EngineError, match="threshold must be float32"):
        library.binary_conv_sums(x, np.zeros((8, 3, 3, 2), np.int32), np.zeros(39, np.float32))
    with pytest.raises(EngineError, match="at least 1"):
        library.binary_conv_sums(np.zeros((1, 40, 0, 4), np.float32),
                                 np.zeros((8, 3, 3, 2), np.int32))


@pytest.fixture(scope="module")
def native_build() -> Path:
    """The op library and its native tests, built from source."""
    return built(HOST)


def test_vpopcntdq_machine_code_under_emulation(native_build):
    """The kernel's own instructions, emulated where the CPU lacks them (engines/tests)."""
    program = native_build / "popcount_kernel_test"
    if not program.exists():
        pytest.skip("this architecture has no such kernel")
    done = subprocess.run([program], capture_output=True, text=True, timeout=HANG_SECONDS)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
    assert " 0 failures" in done.stdout


@pytest.mark.parametrize("name", ["binary_kernels_test", "scaled_kernels_test",
                                  "float_kernels_test"])
def test_every_kernel_with_everything_fused_in(native_build, name):
    """Without ONNX Runtime: test_arm.py runs the same programs for another processor."""
    done = subprocess.run([native_build / name], capture_output=True, text=True,
                          timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stdout
    assert "0 failures" in done.stdout


def test_no_instruction_set_leaks_through_shared_symbols(native_build):
    """Weak symbols of a kernel file could replace those of files that every CPU runs."""
    if not shutil.which("nm") or not shutil.which("objdump"):
        pytest.skip("needs nm and objdump on PATH")
    objects = list(native_build.rglob("bidiff_ops.dir/**/*.o"))
    kernels = [path for path in objects if path.name.startswith("avx")]
    assert objects and len(kernels) in (0, 3)
    for path in kernels:
        listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        kinds = {line.split()[-2] for line in listed.splitlines()}
        assert not kinds & set("WVu"), f"{path.name} has weak symbols"
    for path in set(objects) - set(kernels):
        code = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True)
        assert "%ymm" not in code.stdout and "%zmm" not in code.stdout, path.name
