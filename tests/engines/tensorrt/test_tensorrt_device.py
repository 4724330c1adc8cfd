"""Memory, copies, streams and captured graphs by cuda-python and by pycuda, on the emulated
driver; and what is said where a binding is missing, old or broken."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from bidiff_deploy import EngineError
from bidiff_deploy.engines import library
from bidiff_deploy.engines.gpu.failures import CudaError
from bidiff_deploy.engines.tensorrt.run import cuda_python_driver, pycuda_driver
from bidiff_deploy.engines.tensorrt.run import device as tensorrt_device
from stand_ins import tensorrt as tensorrt_stand_in
from support.driver_notes import GRAPHS, Codes

STAND_IN = Path(__file__).parents[2] / "stand_ins" / "pycuda"
# In a process that begins with the emulated driver as its libcuda.so.1.
PROGRAM = """
import os, sys, threading, warnings
import numpy as np
binding = sys.argv[1]
if "pycuda" in binding:
    sys.path.insert(0, sys.argv[2])
else:
    sys.modules["pycuda"] = None
if "cuda-python" not in binding:
    sys.modules["cuda"] = sys.modules["cuda.bindings"] = None
from bidiff_deploy import EngineError
from bidiff_deploy.engines.gpu.failures import CudaError
from bidiff_deploy.engines.tensorrt.run.device import open_device

def refused(call):
    try:
        call()
    except EngineError as error:
        return type(error).__name__ + " " + str(error)

def work():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        device = open_device(1)
    print("opened", device.name, device.captures, [str(one.message) for one in caught])
    values = np.arange(1024, dtype=np.float32)
    with device.current():
        before = device.memory()[0]
        first, second = device.allocate(4096), device.allocate(4096)
        assert device.stream and first.address % 256 == 0 == second.address % 256
        device.upload(first.address, values)
        device.copy(second.address, first.address, 4096)
        assert np.array_equal(device.download(second.address, (4, 256)), values.reshape(4, 256))
        graph = device.capture(lambda: device.copy(first.address, second.address + 2048, 2048))
        assert np.array_equal(device.download(first.address, (1024,)), values)  # recorded alone
        if graph is not None:
            for _ in range(2):
                graph.launch()
                found = device.download(first.address, (1024,))
                assert np.array_equal(found, np.concatenate([values[512:], values[512:]]))
                device.upload(first.address, values)
                device.synchronise()
            graph.release()
            graph.release()
        print("memory", refused(lambda: device.allocate(1 << 50)))
        os.environ["BIDIFF_EMULATED_FAIL"] = "cuStreamSynchronize=700"
        print("failed", refused(device.synchronise))
        del os.environ["BIDIFF_EMULATED_FAIL"]
        assert device.memory()[0] < before
        first.free()
        first.free()
        second.free()
        assert device.memory()[0] == before and first.address == 0
    device.close()
    print("ordinal", refused(lambda: open_device(9)))

thread = threading.Thread(target=work)  # which ends with no context of its own
thread.start()
thread.join()
"""


@pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())
@pytest.mark.parametrize("binding", ["cuda-python", "pycuda", "pycuda and cuda-python"])
def test_a_device(tmp_path, binding):
    pytest.importorskip("cuda.bindings")
    done = tensorrt_stand_in.run(PROGRAM, tmp_path, binding, str(STAND_IN),
                                 BIDIFF_EMULATED_GPUS="80,87")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert told.keys() == {"opened", "memory", "failed", "ordinal"}, done.stdout
    name, captures = told["opened"].split(" [")[0].rsplit(" ", 1)
    assert [word for word in name.split() if not word[0].isdigit()] == binding.split()
    assert captures == str("cuda-python" in binding)
    assert ("pycuda captures no CUDA graphs; running without, which is slower; pip install "
            "cuda-python" in told["opened"]) == (binding == "pycuda")
    assert told["memory"].startswith("CudaError cuMemAlloc: ")
    assert "memory" in told["memory"].lower()
    assert told["failed"].startswith("CudaError cuStreamSynchronize: ")
    assert told["ordinal"].startswith("EngineError GPU 9 cannot be used: cuDeviceGet: ")


def without(monkeypatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_neither_binding(monkeypatch):
    without(monkeypatch, "pycuda", "cuda", "cuda.bindings")
    with pytest.raises(EngineError, match=r"neither pycuda \(not installed\) nor cuda-python \(not "
                                          "installed.*pip install cuda-python pycuda"):
        tensorrt_device.open_device(0)


def test_a_pycuda_that_is_broken(monkeypatch, tmp_path):
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("VERSION_TEXT = '1'")
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcuda.so.1:\\n absent')")
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert pycuda_driver.find() == (None, "libcuda.so.1: absent")
    without(monkeypatch, "cuda", "cuda.bindings")
    with pytest.raises(EngineError, match="neither pycuda .libcuda.so.1: absent. nor"):
        tensorrt_device.open_device(0)


@pytest.mark.parametrize("instantiate", ["cuGraphInstantiate", "cuGraphInstantiateWithFlags"])
def test_graphs_by_cuda_python_of_cuda_11_and_12(instantiate):
    # Before CUDA 12 both names are there, and the plain one takes other arguments.
    names = {instantiate, "cuGraphInstantiate"}
    binding = Codes(*GRAPHS, *names)
    graphs = cuda_python_driver.CudaPythonGraphs(binding)
    graphs.begin(5)
    made = graphs.end(5)
    graphs.launch(made, 5)
    graphs.destroy(made)
    assert binding.calls == [
        ("cuStreamBeginCapture", 5, 1), ("cuStreamEndCapture", 5),
        (instantiate, "cuStreamEndCapture()", 0), ("cuGraphDestroy", "cuStreamEndCapture()"),
        ("cuGraphLaunch", f"{instantiate}()", 5), ("cuGraphExecDestroy", f"{instantiate}()")]


def test_cuda_python_before_12_6(monkeypatch):
    old = ModuleType("cuda")
    old.__path__ = []  # a package without the folder bindings
    old.cuda = ModuleType("cuda.cuda")
    monkeypatch.setitem(sys.modules, "cuda", old)
    monkeypatch.setitem(sys.modules, "cuda.cuda", old.cuda)
    without(monkeypatch, "cuda.bindings")
    assert cuda_python_driver.find() == (old.cuda, "")


def test_a_function_that_the_driver_lacks():
    binding = Codes("cuGraphDestroy")

    def lacking(*arguments):
        raise RuntimeError('Function "cuStreamEndCapture" not found')

    binding.cuStreamEndCapture = lacking
    graphs = cuda_python_driver.CudaPythonGraphs(binding)
    with pytest.raises(CudaError, match='cuStreamEndCapture: Function "cuStreamEndCapture" not f'):
        graphs.end(1)
    with pytest.raises(CudaError, match="cuStreamBeginCapture: "):
        graphs.begin(1)


def test_an_error_that_the_binding_does_not_know():
    binding = Codes()

    def newer(*arguments):
        raise ValueError("911 is not a valid CUresult")

    binding.cuGraphLaunch = newer
    with pytest.raises(CudaError, match="cuGraphLaunch: 911 is not a valid CUresult"):
        cuda_python_driver.CudaPythonGraphs(binding).launch(1, 1)


def test_a_pycuda_without_primary_contexts(monkeypatch):
    old = ModuleType("pycuda.driver")
    old.Device = type("Device", (), {})
    package = ModuleType("pycuda")
    package.driver = old
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", old)
    assert pycuda_driver.find() == (None, "too old")


def test_the_stand_ins_driver_is_one_file_of_the_process(tmp_path):
    """Loaded from two, or built anew in between, it would be two machines."""
    made = tensorrt_stand_in.environment(tmp_path)
    driver = Path(made["LD_LIBRARY_PATH"].split(":")[0]) / "libcuda.so.1"
    assert made["BIDIFF_LIBCUDA"] == made["BIDIFF_NVRTC"] == str(driver)
    assert not driver.samefile(tensorrt_stand_in.emulated_cuda.stand_in())
