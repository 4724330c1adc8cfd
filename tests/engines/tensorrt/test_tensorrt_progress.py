"""How far a build of TensorRT is, and Ctrl-C: a monitor in TensorRT's place reports phases, and
what is shown of them never falls back."""

from __future__ import annotations

import io
import os
import signal

from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.engines.tensorrt.build import builder as tensorrt_builder
from bidiff_deploy.engines.tensorrt.build.progress import BuildProgress
from bidiff_deploy.progress import Progress
from stand_ins import tensorrt as tensorrt_stand_in
from support.seeds import examples
from support.tensorrt_building import OLD, run, versions
from support.waiting import wait_until


class Recorder:
    """In Progress's place."""

    def __init__(self, label, total, *, quiet):
        Recorder.made = self
        self.total, self.quiet, self.seen = total, quiet, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, done, label=None):
        self.seen.append((done, label))


def test_progress_is_reported_while_tensorrt_builds(trt, tiny, monkeypatch):
    monkeypatch.setattr(tensorrt_builder.progress, "Progress", Recorder)
    monkeypatch.setattr(tensorrt_builder, "_TICK_SECONDS", 0.001)
    real = trt.Builder.build_serialized_network

    def build(self, network, config):
        monitor, seen = config.progress_monitor, Recorder.made.seen
        monitor.phase_start("Whole", None, 4)
        monitor.step_complete("Whole", 0)
        monitor.phase_start("Part", "Whole", 2)
        assert monitor.step_complete("Part", 0)
        wait_until(lambda: (0.375, "building float32 plugin, Part") in seen)
        monitor.phase_finish("Part")
        monitor.phase_finish("Whole")
        return real(self, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    run(tiny, "--size", "16x16")
    assert Recorder.made.total == 1
    shares = [done for done, _ in Recorder.made.seen]
    assert shares == sorted(shares) and max(shares) <= 0.99


@versions(OLD)
def test_before_there_was_a_monitor_the_time_alone_is_reported(trt, tiny, monkeypatch):
    monkeypatch.setattr(tensorrt_builder.progress, "Progress", Recorder)
    run(tiny, "--size", "16x16", "--no-plugin", "--quiet")
    assert Recorder.made.total is None and Recorder.made.quiet
    now, stream = [0.0], io.StringIO()
    stream.isatty = lambda: True
    with Progress("building", None, stream=stream, clock=lambda: now[0]) as shown:
        for now[0] in (0.05, 65.0):
            shown.update(0.0, "building, still")
    lines = [line.strip() for line in stream.getvalue().split("\r") if line.strip()]
    assert lines == ["building, still: 1:05 min"]


def test_ctrl_c_ends_the_build_and_leaves_nothing(trt, tiny, place, monkeypatch):
    ended = []

    def build(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Whole", None, 1000)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: not monitor.step_complete("Whole", 1))
        ended.append(True)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    _, err = run(tiny, "--size", "16x16", code=130)
    assert err.splitlines() == ["interrupted: no plan is written"]
    assert len(ended) == 1 and not list(place.glob("*"))


def test_ctrl_c_where_tensorrt_cannot_be_told_ends_the_process(tiny, place, tmp_path):
    program = """
import os, signal, sys, time
import tensorrt as trt

def build(self, network, config):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(3600)

trt.Builder.build_serialized_network = build
from bidiff_deploy.cli import main
sys.argv[1:] = ["build", sys.argv[1], "--size", "32x32"]
main()
"""
    done = tensorrt_stand_in.run(program, tmp_path, str(tiny), version=OLD)
    assert done.returncode == 130 and "interrupted: no plan is written" in done.stderr
    assert not list(place.glob("*"))


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
