"""Bindings of the CUDA driver that are missing, old or broken. What works by each of them is in
test_tensorrt_failures.py."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bidiff_deploy import EngineError
from bidiff_deploy.engines.gpu.failures import CudaError
from bidiff_deploy.engines.tensorrt.run import cuda_python_driver
from bidiff_deploy.engines.tensorrt.run import device as tensorrt_device
from support.driver_notes import GRAPHS, Codes


@pytest.mark.parametrize("driver, reason", [
    (None, "not installed"),
    ("raise ImportError('libcuda.so.1:\\n absent')", "libcuda.so.1: absent"),
    ("class Device: pass", "too old")])  # without primary contexts
def test_neither_binding(monkeypatch, tmp_path, driver, reason):
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("cuda", "cuda.bindings", *["pycuda"] * (driver is None)):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("VERSION_TEXT = '1'")
    (tmp_path / "pycuda" / "driver.py").write_text(driver or "")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineError, match=rf"neither pycuda \({reason}\) nor cuda-python \(not "
                                          "installed.*pip install cuda-python pycuda"):
        tensorrt_device.open_device(0)


@pytest.mark.parametrize("instantiate", ["cuGraphInstantiate", "cuGraphInstantiateWithFlags"])
def test_graphs_by_cuda_python_of_cuda_11_and_12(instantiate):
    # Before CUDA 12 both names are there, and the plain one takes other arguments.
    binding = Codes(*GRAPHS, instantiate, "cuGraphInstantiate")
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
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert cuda_python_driver.find() == (old.cuda, "")


@pytest.mark.parametrize("raised, text", [
    (RuntimeError('Function "cuGraphLaunch" not found'), 'Function "cuGraphLaunch" not found'),
    (ValueError("911 is not a valid CUresult"), "911 is not a valid CUresult"),  # a newer error
    (None, "")])  # a name that the binding lacks
def test_what_the_driver_or_the_binding_lacks(raised, text):
    binding = Codes()

    def lacking(*arguments):
        raise raised

    if raised is not None:
        binding.cuGraphLaunch = lacking
    with pytest.raises(CudaError, match=f"cuGraphLaunch: {text}"):
        cuda_python_driver.CudaPythonGraphs(binding).launch(1, 1)
