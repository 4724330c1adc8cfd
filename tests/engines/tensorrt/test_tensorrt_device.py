"""Captured graphs, rows, activations and opened plans, on drivers that do nothing but note; and
bindings of the driver that are missing, old or broken."""

from __future__ import annotations

import itertools
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock, call

import numpy as np
import pytest

from bidiff_deploy import EngineError
from bidiff_deploy.engines.gpu.failures import CudaError
from bidiff_deploy.engines.tensorrt.log import Log
from bidiff_deploy.engines.tensorrt.run import cuda_python_driver
from bidiff_deploy.engines.tensorrt.run.context import (
    Activations,
    DeviceRows,
    OpenPlan,
    TensorRtFailure,
)
from bidiff_deploy.engines.tensorrt.run.device import Device, open_device
from support.driver_notes import GRAPHS, Codes


def noting() -> Mock:
    """A driver whose addresses count up."""
    return Mock(stream=1, allocate=Mock(
        side_effect=((at, at) for at in itertools.count(256, 4096))))


def captured(*failing: str) -> tuple[Device, Codes]:
    binding = Codes(*GRAPHS, "cuGraphInstantiate", failing=failing)
    return Device(noting(), cuda_python_driver.CudaPythonGraphs(binding)), binding


@pytest.mark.parametrize("failing", ["cuStreamBeginCapture", "cuStreamEndCapture",
                                     "cuGraphInstantiate", "work"])
def test_a_capture_that_fails_is_reported_once_and_not_tried_again(failing):
    device, binding = captured(failing)

    def work():
        if failing == "work":
            raise CudaError("cuLaunchKernel: no")

    with pytest.warns(RuntimeWarning, match="cannot be captured as a CUDA graph .*slower"):
        assert device.capture(work) is None
    names = [name for name, *_ in binding.calls]
    # The stream has left the capture, and no graph is left behind.
    assert ("cuStreamEndCapture" in names) == (failing != "cuStreamBeginCapture")
    made = failing in ("cuGraphInstantiate", "work")
    assert names.count("cuGraphDestroy") == made
    assert names.count("cuGraphExecDestroy") == (failing == "work")
    del binding.calls[:]
    assert device.capture(work) is None and binding.calls == [] and not device.captures


def test_a_mistake_in_what_is_captured_is_no_failed_capture():
    device, binding = captured()
    with pytest.raises(ZeroDivisionError):
        device.capture(lambda: divmod(1, 0))
    assert [name for name, *_ in binding.calls][-1] == "cuGraphExecDestroy" and device.captures


def test_rows_are_copied_to_the_device_once():
    rows = DeviceRows(Device(driver := noting(), None), 64, 3)
    table, made = np.zeros((2, 64), np.float32), []
    for key in ("a", "a", "b"):
        rows.load(key, lambda: made.append(1) or table)
    rows.take(1)
    assert driver.mock_calls == [call.allocate(256 * 4), *[call.upload(512, table)] * 2,
                                 call.copy(256, 768, 256)]
    rows.forget()
    rows.load("b", lambda: made.append(1) or table)
    assert len(made) == 3


def test_activations_move_where_they_grow():
    activations = Activations(Device(driver := noting(), None))
    for size in (1000, 500):
        activations.ensure(size)
        assert (activations.address, activations.generation) == (256, 0)
    activations.ensure(2000)
    # Freed first: both might not find room.
    assert driver.mock_calls == [call.allocate(1000), call.free(256), call.allocate(2000)]
    assert activations.generation > 0 and activations.size == 2000


def opened(context: object = None, **changed: tuple | None) -> OpenPlan:
    """A plan whose engine has these tensors: name -> (input, type, shape)."""
    image = (-1, 3, -1, -1)
    found = {"noisy": (1, "FLOAT", image), "condition": (1, "FLOAT", image),
             "bias": (1, "FLOAT", (5,)), "prediction": (0, "FLOAT", image),
             "latent": (0, "FLOAT", image), **changed}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    engine = SimpleNamespace(
        num_io_tensors=len(tensors), get_tensor_name=list(tensors).__getitem__,
        create_execution_context_without_device_memory=lambda: context,
        **{f"get_tensor_{what}": lambda name, at=index: tensors[name][at]
           for index, what in enumerate(("mode", "dtype", "shape"))})
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda content: engine)
    api = SimpleNamespace(trt=SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT=1),
                                              DataType=SimpleNamespace(FLOAT="FLOAT")),
                          runtime=lambda: runtime, log=Log(), rtx=False)
    return OpenPlan(api, SimpleNamespace(path="p.plan"), b"", {"bias": (0, (5,))})


def test_a_plan_that_does_not_take_what_the_bundle_gives():
    """What it reads beyond its row of constants would be a stranger's memory."""
    assert opened().engine is not None
    for name, tensor in (("bias", (1, "FLOAT", (6,))), ("bias", (1, "HALF", (5,))),
                         ("bias", (0, "FLOAT", (5,))), ("bias", None), ("latent", None),
                         ("noisy", (1, "HALF", (-1, 3, -1, -1))), ("more", (1, "FLOAT", (1,)))):
        with pytest.raises(EngineError, match=f"tensor {name} differs; build it again"):
            opened(**{name: tensor})


def test_what_tensorrt_said_is_no_reason_of_the_next_failure():
    api = SimpleNamespace(log=Log())
    api.log.add(True, "Requested amount of GPU memory could not be allocated")
    first = TensorRtFailure(api, "no execution context")
    assert first.out_of_memory and "Requested amount" in str(first)
    second = TensorRtFailure(api, "execute_async_v3")
    assert not second.out_of_memory and str(second) == "execute_async_v3: no reason given"


@pytest.mark.parametrize("taken", [True, False])
def test_a_context_without_an_optimization_profile_gets_the_first(taken):
    """As TensorRT 8.5 makes them, but for an engine's first, and those of one shape."""
    made, calls = SimpleNamespace(active_optimization_profile=-1), []
    made.set_optimization_profile_async = lambda *given: calls.append(given) or taken
    with nullcontext() if taken else pytest.raises(
            EngineError, match="the optimization profile: no reason given"):
        assert opened(made).context(7) is made
    assert calls == [(0, 7)]


# -- bindings of the driver ---------------------------------------------------------------------


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
        open_device(0)


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
    if raised is not None:
        binding.cuGraphLaunch = Mock(side_effect=raised)
    with pytest.raises(CudaError, match=f"cuGraphLaunch: {text}"):
        cuda_python_driver.CudaPythonGraphs(binding).launch(1, 1)
