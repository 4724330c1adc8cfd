"""Captured graphs, rows, activations and opened plans, on drivers that do nothing but note."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bidiff_deploy import EngineError
from bidiff_deploy.engines.gpu.failures import CudaError
from bidiff_deploy.engines.tensorrt.api import Log
from bidiff_deploy.engines.tensorrt.run import cuda_python_driver
from bidiff_deploy.engines.tensorrt.run.context import (
    Activations,
    DeviceRows,
    OpenPlan,
    TensorRtFailure,
)
from bidiff_deploy.engines.tensorrt.run.device import Device
from support.driver_notes import GRAPHS, Codes


class Notes:
    """A driver whose addresses count up."""

    name, stream = "notes", 1

    def __init__(self) -> None:
        self.calls, self._next = [], 256

    def allocate(self, count):
        address, self._next = self._next, self._next + -(-count // 256) * 256
        self.calls.append(("allocate", count))
        return address, address

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


def captured(*failing: str) -> tuple[Device, Codes]:
    binding = Codes(*GRAPHS, "cuGraphInstantiate", failing=failing)
    return Device(Notes(), cuda_python_driver.CudaPythonGraphs(binding)), binding


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
    # A mistake in what is captured is no failed capture.
    device, binding = captured()
    with pytest.raises(ZeroDivisionError):
        device.capture(lambda: divmod(1, 0))
    assert [name for name, *_ in binding.calls][-1] == "cuGraphExecDestroy" and device.captures


def test_rows_are_copied_to_the_device_once():
    device = Device(driver := Notes(), None)
    rows = DeviceRows(device, 64, 3)
    assert driver.calls == [("allocate", 256 * 4)]
    table = np.zeros((2, 64), np.float32)
    made = []
    for key in ("a", "a", "b"):
        rows.load(key, lambda: made.append(1) or table)
    rows.take(1)
    assert len(made) == 2
    assert driver.calls[1:] == [("upload", 512, table)] * 2 + [("copy", 256, 768, 256)]
    rows.forget()
    rows.load("b", lambda: made.append(1) or table)
    assert len(made) == 3


def test_activations_move_where_they_grow():
    device = Device(driver := Notes(), None)
    activations = Activations(device)
    activations.ensure(1000)
    first, generation = activations.address, activations.generation
    activations.ensure(500)
    assert (activations.address, activations.generation) == (first, generation)
    activations.ensure(2000)
    # Freed first: both might not find room.
    assert driver.calls == [("allocate", 1000), ("free", first), ("allocate", 2000)]
    assert activations.generation > generation and activations.size == 2000


class Plan:
    """An engine's tensors as TensorRT tells of them: name -> (input, type, shape)."""

    num_io_tensors = property(lambda self: len(self.tensors))

    def __init__(self, **changed: tuple | None) -> None:
        image = (-1, 3, -1, -1)
        found = {"noisy": (1, "FLOAT", image), "condition": (1, "FLOAT", image),
                 "bias": (1, "FLOAT", (5,)), "prediction": (0, "FLOAT", image),
                 "latent": (0, "FLOAT", image), **changed}
        self.tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        self.get_tensor_name = list(self.tensors).__getitem__
        for index, what in enumerate(("mode", "dtype", "shape")):
            setattr(self, f"get_tensor_{what}", lambda name, at=index: self.tensors[name][at])


def opened(engine: object, log: Log | None = None) -> OpenPlan:
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda content: engine)
    api = SimpleNamespace(trt=SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT=1),
                                              DataType=SimpleNamespace(FLOAT="FLOAT")),
                          runtime=lambda: runtime, log=log or Log(), rtx=False)
    return OpenPlan(api, SimpleNamespace(path="p.plan"), b"", {"bias": (0, (5,))})


def test_a_plan_that_does_not_take_what_the_bundle_gives():
    """What it reads beyond its row of constants would be a stranger's memory."""
    assert opened(Plan()).engine is not None
    for name, tensor in (("bias", (1, "FLOAT", (6,))), ("bias", (1, "HALF", (5,))),
                         ("bias", (0, "FLOAT", (5,))), ("bias", None), ("latent", None),
                         ("noisy", (1, "HALF", (-1, 3, -1, -1))), ("more", (1, "FLOAT", (1,)))):
        with pytest.raises(EngineError, match=f"tensor {name} differs; build it again"):
            opened(Plan(**{name: tensor}))


def test_what_tensorrt_said_is_no_reason_of_the_next_failure():
    log = Log()
    api = SimpleNamespace(log=log)
    log.add(True, "Requested amount of GPU memory could not be allocated")
    first = TensorRtFailure(api, "no execution context")
    assert first.out_of_memory and "Requested amount" in str(first)
    second = TensorRtFailure(api, "execute_async_v3")
    assert not second.out_of_memory and str(second) == "execute_async_v3: no reason given"


@pytest.mark.parametrize("profile, settable", [(0, True), (-1, True), (-1, False)])
def test_a_context_has_an_optimization_profile(profile, settable):
    plan, calls = opened(engine := Plan()), []
    made = SimpleNamespace(
        active_optimization_profile=profile,
        set_optimization_profile_async=lambda *given: calls.append(given) or settable)
    engine.create_execution_context_without_device_memory = lambda: made
    if settable:
        assert plan.context(7) is made and calls == [(0, 7)] * (profile < 0)
        return
    with pytest.raises(EngineError, match="the optimization profile: no reason given"):
        plan.context(7)
