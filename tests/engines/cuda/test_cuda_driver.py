"""The driver by dlopen, devices, memory and launches, on the emulated driver; and every failure of
them as one sentence with a remedy."""

from __future__ import annotations

import ctypes
import re
import threading

import numpy as np
import pytest

from bidiff_deploy.engines import library
from bidiff_deploy.engines.gpu import library as cuda_library
from bidiff_deploy.errors import EngineError
from support import emulated_cuda
from tools.checks.cuda_operators import Branch, Gpu

SUMS = """
import numpy as np
from bidiff_deploy.errors import EngineError
from bidiff_deploy.engines.gpu import library as cuda_library
from tools.checks.cuda_operators import Gpu
def main():
    {body}
try:
    main()
except EngineError as error:
    print("error:", error)
"""
X = np.ones((1, 3, 4, 5), np.float32)

pytestmark = pytest.mark.usefixtures("on_stand_in")


@pytest.fixture
def gpu():
    with Gpu(emulated_cuda.ordinal(80)) as opened:
        yield opened


def calls(function: str) -> int:
    """How often the emulated driver's function was called in this process."""
    counter = ctypes.CDLL(str(emulated_cuda.stand_in())).bidiff_emulated_calls
    counter.restype = ctypes.c_long
    return counter(function.encode())


def inputs(channels: int = 40, out_channels: int = 24, seed: int = 0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((2, channels, 5, 7)).astype(np.float32)
    words = random.integers(-2**31, 2**31, (out_channels, 3, 3, -(-channels // 32)))
    return x, words.astype(np.int32), np.ones(out_channels, np.float32)


def failure(tmp_path, body: str = "Gpu(0)", **variables: str) -> str:
    """The sentence of what a process of its own fails with."""
    done = emulated_cuda.python(SUMS.format(body=body), tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stdout + done.stderr
    return lines[0][7:]


def test_what_the_driver_says_of_its_gpus():
    assert cuda_library.device_count() == len(emulated_cuda.GPUS)
    for number, architecture in enumerate(emulated_cuda.GPUS):
        info = cuda_library.device_info(number)
        assert (info.ordinal, info.architecture) == (number, architecture)
        assert info.name == f"emulated sm_{architecture}" and info.driver == "12.9"
        assert info.memory == 1 << 30 and info.shared_per_block >= 64 << 10


@pytest.mark.parametrize("architecture", emulated_cuda.GPUS)
def test_sums_of_every_path_equal_the_cpu(architecture):
    x, words, one = inputs()
    expected = library.binary_conv_sums(x, words)
    with Gpu(emulated_cuda.ordinal(architecture)) as opened:
        call = opened.call("BinaryConv", x, [Branch(words, one)])
        assert opened.paths[-1] == "popc"
        for path in ("auto", *opened.paths):
            np.testing.assert_array_equal(call.run(path), expected)


def test_a_run_only_launches(gpu):
    x, words, one = inputs()
    call = gpu.call("BinaryConv", x, [Branch(words, one)])
    call.run()
    names = ("cuLaunchKernel", "cuStreamSynchronize", "cuCtxSynchronize", "cuMemAlloc",
             "cuModuleLoadData", "cuModuleGetFunction", "cuMemcpyDtoH", "cuMemcpyHtoD")
    before = {name: calls(name) for name in names}
    call.run()  # launches, one synchronisation by the C function, one download by Python
    assert {name: calls(name) - before[name] for name in names} == {
        "cuLaunchKernel": len(call.launches()), "cuStreamSynchronize": 1, "cuCtxSynchronize": 0,
        "cuMemAlloc": 0, "cuModuleLoadData": 0, "cuModuleGetFunction": 0, "cuMemcpyDtoH": 1,
        "cuMemcpyHtoD": 0}


def test_a_plan_is_captured_into_a_graph(gpu):
    # The emulated driver refuses allocation, copies and synchronisation while a stream is captured.
    x, words, one = inputs()
    first, second = (gpu.call("BinaryConv", x + shift, [Branch(words, one)]) for shift in (0, 1))
    expected = first.run(), second.run()
    for call, value in ((first, np.nan), (second, np.nan)):
        gpu.upload(np.full(call.shape, value, np.float32), call.problem.y)
    launched = calls("cuLaunchKernel")
    assert first.time(rounds=3, as_graph=True, others=[second]) > 0
    assert calls("cuLaunchKernel") - launched == 2 * len(first.launches())  # captured once
    for call, value in zip((first, second), expected):
        np.testing.assert_array_equal(gpu.download(call.problem.y, call.shape, np.float32), value)
    launched = calls("cuLaunchKernel")
    assert first.time(rounds=3, as_graph=False) > 0
    assert calls("cuLaunchKernel") - launched == 4 * len(first.launches())


def test_several_gpus_and_threads_at_once():
    x, words, one = inputs()
    expected = library.binary_conv_sums(x, words)
    found = {}

    def work(architecture):
        with Gpu(emulated_cuda.ordinal(architecture)) as opened:
            call = opened.call("BinaryConv", x, [Branch(words, one)])
            found[architecture] = [np.array_equal(call.run(), expected) for _ in range(3)]
    threads = [threading.Thread(target=work, args=(number,)) for number in (75, 90, 120)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {75: [True] * 3, 90: [True] * 3, 120: [True] * 3}


def test_memory_is_given_back_and_copied_whole(gpu):
    free = gpu.free_memory
    array = np.arange(1000, dtype=np.float16).reshape(10, 100)
    pointer = gpu.upload(array)
    np.testing.assert_array_equal(gpu.download(pointer, array.shape, array.dtype), array)
    assert free - gpu.free_memory == 2048 and pointer % 256 == 2048 - 2000
    with pytest.raises(EngineError, match="copying from the GPU failed"):
        gpu.download(pointer, (10, 101), np.float16)
    gpu.close()
    assert gpu.free_memory == free


def test_out_of_memory_says_what_would_fit(gpu):
    with pytest.raises(EngineError) as caught:
        gpu.allocate(4 << 30, "8 latents", units=8)
    assert re.fullmatch(
        r"GPU 1 \(emulated sm_80\) has no room for 4096 MiB for 8 latents: 102\d MiB of 1024 "
        r"MiB are free; close other programs that use it, or make batch or tiles smaller: of 8 "
        r"images 2 would fit",
        str(caught.value))
    with pytest.raises(EngineError, match="or make batch or tiles smaller$"):
        gpu.allocate(1 << 40)


def test_a_forced_path(gpu, monkeypatch):
    assert cuda_library.forced_path(gpu.info.ordinal) == "auto"
    monkeypatch.setenv("BIDIFF_CUDA_PATH", "popc")
    assert cuda_library.forced_path(gpu.info.ordinal) == "popc"
    for name, ordinal, has in (("wmma", emulated_cuda.ordinal(80), "auto, "),
                               ("xor", emulated_cuda.ordinal(120), "auto, int8, popc")):
        monkeypatch.setenv("BIDIFF_CUDA_PATH", name)
        with pytest.raises(EngineError, match=rf"PATH={name} is not a path .* are {has}"):
            cuda_library.forced_path(ordinal)


def test_arguments_that_do_not_fit(gpu):
    x, words, one = inputs()
    for change, match in (
            ({"branches": []}, "BinaryConv has 1 branches, but 0 were given"),
            ({"x": x[0]}, r"x must be float32 or float16 \(N, C, H, W\)"),
            ({"x": x.astype(np.float64)}, "not float64"),
            ({"branches": [Branch(words[..., :1], one)]},
             r"words must be int32 \(Cout, k, k, 2\)"),
            ({"branches": [Branch(words, one.astype(np.float16))]}, "alpha must be float32"),
            ({"residual": x.astype(np.float16)}, "residual must be float32 as x is")):
        given = {"x": x, "branches": [Branch(words, one)], **change}
        with pytest.raises(EngineError, match=match):
            gpu.call("BinaryConv", **given)
    with pytest.raises(EngineError, match="unknown path wmma; known paths are auto, xor, and"):
        gpu.call("BinaryConv", x, [Branch(words, one)]).run("wmma")
    with pytest.raises(EngineError, match="no GPU 99: the driver reports 8; check nvidia-smi"):
        cuda_library.device_info(99)


def test_no_driver(tmp_path):
    assert re.fullmatch(
        r"the NVIDIA driver cannot be opened \(/no/libcuda.so: .*\); install it, or choose "
        r"backend onnxruntime, which needs no GPU",
        failure(tmp_path, BIDIFF_LIBCUDA="/no/libcuda.so"))
    # A library that is something else.
    assert "has no cuInit, so it is not an NVIDIA driver" in failure(
        tmp_path, BIDIFF_LIBCUDA=str(library.library_path()))


@pytest.mark.parametrize("variables, match", [
    ({"BIDIFF_EMULATED_GPUS": ""}, "the NVIDIA driver reports no GPU; check nvidia-smi"),
    ({"BIDIFF_EMULATED_FAIL": "cuInit=34"}, "is the stub library of a CUDA toolkit, not a driver"),
    ({"BIDIFF_EMULATED_FAIL": "cuInit=3"}, "forked after CUDA was started; start processes"),
    ({"BIDIFF_EMULATED_FAIL": "cuInit=803"}, "updated while its old kernel module .* restart"),
    ({"BIDIFF_EMULATED_FAIL": "cuInit=804"}, "compatibility library in LD_LIBRARY_PATH"),
    ({"BIDIFF_EMULATED_FAIL": "cuInit=999"}, r"does not start \(cuInit returned 999\); check that"),
    ({"BIDIFF_EMULATED_GPUS": "61"}, r"GPU 0 \(emulated sm_61\) has compute capability 6.1, the "
                                     "kernels need 7.5"),
    ({"BIDIFF_EMULATED_FAIL": "cuDevicePrimaryCtxRetain=2"},
     r"opening a CUDA context failed: CUDA_ERROR_OUT_OF_MEMORY \(2\); the GPU's memory is full"),
    ({"BIDIFF_EMULATED_FAIL": "cuDevicePrimaryCtxRetain=46"}, "an unknown error .46.")])
def test_a_driver_that_cannot_be_used(tmp_path, variables, match):
    assert re.search(match, failure(tmp_path, **variables))


def test_a_failed_launch_names_the_kernel(tmp_path):
    body = "Gpu(0).call('GroupNormSwish', np.ones((1, 2, 3, 4), np.float32)).run()"
    told = failure(tmp_path, body, BIDIFF_EMULATED_FAIL="cuLaunchKernel=719")
    assert re.match(r"launching bidiff_\w+ failed: CUDA_ERROR_LAUNCH_FAILED \(719\); a kernel read "
                    "or wrote out of bounds", told)


def test_the_stand_in_reports_what_a_kernel_touches_beyond_its_memory(tmp_path):
    # The tests rest on it: a plan for a map twice as high as its memory.
    body = """
    opened = Gpu(0)
    call = opened.call("GroupNormSwish", np.ones((1, 2, 64, 16), np.float32),
                       scale=np.ones(2, np.float32), bias=np.ones(2, np.float32))
    call.run()
    call.problem.height *= 2
    call.run()
    """
    done = emulated_cuda.python(SUMS.format(body=body), tmp_path)
    assert done.returncode < 0
    assert re.search(r"emulated GPU: bidiff_\w+ touched byte 8192 of a block of 8192 bytes",
                     done.stderr)
