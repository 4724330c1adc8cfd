"""How far a build of TensorRT is, and Ctrl-C: a monitor in TensorRT's place reports phases, and
what is shown of them never falls back."""

from __future__ import annotations

import os
import signal
import threading
from unittest.mock import MagicMock, Mock, call

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.engines.tensorrt.build import builder as tensorrt_builder
from bidiff_deploy.engines.tensorrt.build.progress import BuildProgress
from support.seeds import examples
from support.tensorrt_building import OLD, run, versions
from support.waiting import HANG_SECONDS, wait_until


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
