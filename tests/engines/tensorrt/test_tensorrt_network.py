"""What a build is made of: the precision of a weakly typed network's layers, kernels of libraries
that are missing, and progress, by a monitor that TensorRT reports its phases to; and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock, call

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.engines.tensorrt.build import builder as tensorrt_builder
from bidiff_deploy.engines.tensorrt.build import network as tensorrt_network
from bidiff_deploy.engines.tensorrt.build.progress import BuildProgress
from support.seeds import examples
from support.tensorrt_building import OLD, run, versions
from support.waiting import HANG_SECONDS, wait_until


class Layer(SimpleNamespace):
    """One layer, which notes what it is told."""

    def __init__(self, kind: str, name: str, dtype: str, shape: bool):
        output = SimpleNamespace(name=name, dtype=dtype, is_shape_tensor=shape)
        super().__init__(type=kind, told={}, num_outputs=1, get_output=lambda index: output)
        self.set_output_type = self.told.__setitem__

    precision = property(None, lambda self, kind: self.told.update(precision=kind))


def test_a_node_that_becomes_several_layers_keeps_its_precision_in_all():
    """Layers without a name of the graph belong to the node whose output comes next."""
    value = helper.make_tensor_value_info
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
             helper.make_node("Add", ["h", "h"], ["s"]),
             helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Softmax", ["f"], ["m"]),
             helper.make_node("Shape", ["m"], ["n"]),
             helper.make_node("GroupNormSwish", ["h"], ["p"], domain="bidiff"),
             helper.make_node("DequantizeLinear", ["q", "one"], ["d"]),
             helper.make_node("Conv", ["d", "one"], ["c"]),
             helper.make_node("Mul", ["m", "one"], ["y"])]
    model = helper.make_model(helper.make_graph(
        nodes, "g", [value("x", 1, [1]), value("q", TensorProto.INT8, [1])], [value("y", 1, [1])],
        [one]))
    half, full = ({"precision": kind, 0: kind} for kind in ("half", "float"))
    layers = [  # kind, its output, whether that is a shape, what it is to be told
        ("IDENTITY", "h", "half", False, {}), ("SHUFFLE", "(Unnamed) 1", "half", False, half),
        ("ELEMENTWISE", "s", "half", False, half), ("IDENTITY", "f", "float", False, {}),
        ("SHAPE", "(Unnamed) 2", "int32", True, {}),
        ("ELEMENTWISE", "(Unnamed) 3", "float", True, {}),
        ("CAST", "(Unnamed) 5", "half", False, {}), ("SOFTMAX", "m", "float", False, full),
        ("SHAPE", "n", "int32", True, {}), ("PLUGIN_V2", "p", "half", False, {0: "half"}),
        ("CONSTANT", "(Unnamed) 4", "float", False, {}), ("DEQUANTIZE", "d", "float", False, {}),
        ("CONVOLUTION", "c", "float", False, {0: "float"}),  # whose inputs are int8
        ("ELEMENTWISE", "y", "float", False, full)]
    listed = [Layer(*layer[:4]) for layer in layers]
    network = SimpleNamespace(num_layers=len(listed), get_layer=lambda index: listed[index])
    trt = SimpleNamespace(float32="float", float16="half", LayerType=SimpleNamespace(
        CONSTANT="CONSTANT", SHAPE="SHAPE", IDENTITY="IDENTITY", CAST="CAST"))
    tensorrt_network.keep_precision(SimpleNamespace(trt=trt), network, model.SerializeToString())
    assert [layer.told for layer in listed] == [layer[4] for layer in layers]


@pytest.mark.parametrize("version, there, left_out", [
    ((8, 5, 3), ("libcublas.so.11", "libcudnn.so.8"), 0b010),
    ((8, 5, 3), ("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.9"), 0b111),
    ((8, 6, 1), ("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.8"), 0b000)])
def test_kernels_of_libraries_that_are_not_here_are_left_out(version, there, left_out,
                                                             monkeypatch):
    """TensorRT 8.5 is of CUDA 11 alone, whatever else lies about."""
    monkeypatch.setattr(tensorrt_network, "_can_open", lambda file: file in there)
    sources = SimpleNamespace(CUBLAS=0, CUBLAS_LT=1, CUDNN=2)
    told, notes = [], []
    config = SimpleNamespace(get_tactic_sources=lambda: 0b1111, set_tactic_sources=told.append)
    tensorrt_network._leave_out_libraries(
        SimpleNamespace(version=version, trt=SimpleNamespace(TacticSource=sources)), config, notes)
    assert told == ([0b1111 & ~left_out] if left_out else []) and len(notes) == len(told)


# -- progress and Ctrl-C ------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch) -> Mock:
    """In Progress's place; its ``updates`` are calls."""
    made = MagicMock()
    made.updates = made.return_value.__enter__.return_value.update
    monkeypatch.setattr(tensorrt_builder.progress, "Progress", made)
    return made


def test_progress_is_reported_while_tensorrt_builds(trt, tiny, shown, monkeypatch):
    monkeypatch.setattr(tensorrt_builder, "_TICK_SECONDS", 0.001)
    real = trt.Builder.build_serialized_network

    def build(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Whole", None, 4)
        monitor.step_complete("Whole", 0)
        monitor.phase_start("Part", "Whole", 2)
        assert monitor.step_complete("Part", 0)
        wait_until(lambda: call(0.375, "building float32 plugin, Part") in shown.updates.mock_calls)
        monitor.phase_finish("Part")
        monitor.phase_finish("Whole")
        return real(self, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    run(tiny, "--size", "16x16")
    shown.assert_called_once_with("building float32 plugin", 1, quiet=False)
    shares = [one.args[0] for one in shown.updates.call_args_list]
    assert shares == sorted(shares) and max(shares) <= 0.99


@versions(OLD)
def test_before_there_was_a_monitor_the_total_is_unknown(trt, tiny, shown):
    run(tiny, "--size", "16x16", "--no-plugin", "--quiet")
    shown.assert_called_once_with("building float32 dense", None, quiet=True)


@versions(OLD, "10.3.0")
def test_ctrl_c_ends_the_build_or_the_process_and_leaves_nothing(trt, tiny, place, monkeypatch):
    cancels, left, ended = trt._version[0] > 8, threading.Event(), []
    leave = Mock(side_effect=SystemExit(130))

    def build(self, network, config):
        os.kill(os.getpid(), signal.SIGINT)
        if cancels:
            config.progress_monitor.phase_start("Whole", None, 1000)
            wait_until(lambda: not config.progress_monitor.step_complete("Whole", 1))
        else:
            left.wait(HANG_SECONDS)
        ended.append(True)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    monkeypatch.setattr(os, "_exit", leave)
    _, err = run(tiny, "--size", "16x16", code=130)
    assert err.splitlines() == ["interrupted: no plan is written"] and not list(place.glob("*"))
    assert (bool(ended), leave.called) == (cancels, not cancels)
    left.set()


@versions("10.3.0")
def test_ctrl_c_while_the_build_begins_waits_for_it(trt, tiny, place, monkeypatch):
    ended, start = [], threading.Thread.start

    def build(self, network, config):
        wait_until(lambda: not config.progress_monitor.step_complete("Whole", 1))
        ended.append(True)

    def interrupted(thread):
        start(thread)
        if thread.name == "tensorrt-build":
            raise KeyboardInterrupt

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    _, err = run(tiny, "--size", "16x16", code=130)
    assert err.splitlines() == ["interrupted: no plan is written"] and not list(place.glob("*"))
    assert ended


PHASES = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, *"abcd"]),
                            st.sampled_from(["start", "step", "finish"]), st.integers(-1, 9)),
                  max_size=40)


@given(PHASES)
@examples(100)
def test_whatever_is_reported_the_share_never_falls(events):
    progress, last = BuildProgress(), 0.0
    for name, parent, what, number in events:
        if what == "start":
            progress.start(name, parent, number)
        elif what == "step":
            assert progress.step(name, number)
        else:
            progress.finish(name)
        share, label = progress.state()
        assert last <= share <= 1 and label in ("", *"abcd")
        last = share
    progress.cancel()
    assert progress.cancelled and not progress.step("a", 0)
