"""The stand-in for TensorRT refuses the builds and the plans that TensorRT refuses, and tells what
it does."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import helper

from stand_ins import tensorrt as tensorrt_stand_in
from support import emulated_cuda
from support.tensorrt_networks import SHAPES, Trt, info, small, wrap

pytest.importorskip("onnxruntime")


def test_networks_that_are_not_built(open_trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(trt: Trt, words: str, made: Any, *arguments: Any, **flags: Any) -> None:
        assert trt.plan(made, *arguments, **flags) is None
        assert words in trt.told[-1], trt.told

    old, new = open_trt("8.5.3"), open_trt("10.3.0")
    half = wrap([helper.make_node("Relu", ["x"], ["y"])],
                [info("x", [1, 3], onnx.TensorProto.FLOAT16)],
                [info("y", None, onnx.TensorProto.FLOAT16)])
    refused(old, "fp16 is not configured", half)
    fp16 = old.trt.BuilderFlag.FP16
    assert old.plan(half, None, lambda config: config.set_flag(fp16)) is not None
    refused(new, "strongly typed", half, None,
            lambda config: config.set_flag(new.trt.BuilderFlag.FP16))
    refused(new, "no optimization profile", small())
    refused(new, "no shapes in the optimization profile", small(), {"z": SHAPES["x"]})
    refused(new, "does not go with its dimensions", small(), {"x": [(1, 4, 4, 4)] * 3})
    refused(new, "insufficient workspace", small(), SHAPES, lambda config:
            config.set_memory_pool_limit(new.trt.MemoryPoolType.WORKSPACE, 1))
    with pytest.raises(ValueError, match="inconsistent"):
        new.builder.create_optimization_profile().set_shape("x", (2, 3), (1, 3), (2, 3))
    with pytest.raises(TypeError, match="BuilderFlag"):
        new.builder.create_builder_config().set_flag(new.trt.MemoryPoolType.WORKSPACE)
    with pytest.raises(AttributeError, match="optimisation_level"):
        new.builder.create_builder_config().optimisation_level = 3
    monkeypatch.setenv("BIDIFF_STAND_IN_FAIL", "build,enqueue")
    refused(new, "implementation", small(), SHAPES)
    with pytest.raises(TypeError, match="ILogger"):
        new.trt.Builder(type("Logger", (new.trt.ILogger,), {"__init__": lambda self: None})())


def test_a_build_tells_its_progress_and_can_be_cancelled(trt: Trt) -> None:
    base: Any = trt.trt.IProgressMonitor

    class Monitor(base):
        def __init__(self, last: int) -> None:
            base.__init__(self)
            self.last, self.told = last, []

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.told.append((phase, parent, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            self.told.append((phase, step))
            return len(self.told) < self.last

        def phase_finish(self, phase: str) -> None:
            self.told.append(phase)

    def build(last: int) -> tuple[Any, Monitor]:
        monitor = Monitor(last)
        return trt.plan(small(), SHAPES, lambda config: setattr(config, "progress_monitor",
                                                                monitor)), monitor

    plan, monitor = build(1000)
    assert plan is not None and monitor.told[0] == ("Building Engine", None, 2)
    assert monitor.told[-1] == "Building Engine" and len(monitor.told) == 13
    plan, monitor = build(5)
    assert plan is None and len(monitor.told) == 5 and "cancelled" in trt.told[-1]


def test_the_timing_cache_and_what_a_plan_says(trt: Trt) -> None:
    content, plans = b"", []
    for _ in range(2):
        made: list[Any] = []

        def change(config: Any, content: bytes = content, made: list[Any] = made) -> None:
            config.clear_flag(trt.trt.BuilderFlag.TF32)
            cache = config.create_timing_cache(content)
            assert config.set_timing_cache(cache, ignore_mismatch=False)
            made.append(config)

        plans.append(tensorrt_stand_in.read_plan(trt.plan(small(), SHAPES, change))[0])
        content = bytes(made[0].get_timing_cache().serialize())
    assert [plan["timed"] for plan in plans] == [5, 0]  # equal layers are timed once
    assert plans[0]["tensorrt"] == "10.3.0" and plans[0]["flags"] == []
    assert plans[0]["profiles"] == [{"x": [list(shape) for shape in SHAPES["x"]]}]
    config = trt.builder.create_builder_config()
    assert config.create_timing_cache(b"nothing of the kind") is None
    other = config.create_timing_cache(content.replace(b"10.3.0", b"10.2.0"))
    assert not config.set_timing_cache(other, ignore_mismatch=False)


def test_plans_of_others_are_refused(open_trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = open_trt()
    plan = bytes(trt.plan(small(), SHAPES))

    def refused(opened: Trt, words: str, content: bytes) -> None:
        assert opened.engine(content) is None and words in opened.told[-1]

    for damaged in (plan[:-1], b"", plan[:40] + bytes([plan[40] ^ 1]) + plan[41:]):
        refused(trt, "Magic tag", damaged)
    refused(open_trt("10.9.0"), "Version tag", plan)
    monkeypatch.setenv("BIDIFF_STAND_IN_FAIL", "deserialize,context")
    refused(trt, "OutOfMemory", plan)
    monkeypatch.delenv("BIDIFF_STAND_IN_FAIL")
    engine = trt.engine(plan)
    monkeypatch.setenv("BIDIFF_EMULATED_FAIL", "cuMemAlloc=2")  # as too little memory does
    refused(trt, "OutOfMemory", plan)
    assert engine.create_execution_context() is None and "OutOfMemory" in trt.told[-1]
    strategy = trt.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert engine.create_execution_context(strategy) is not None


PLAN_OF_ANOTHER_GPU = """
import sys, tensorrt as trt
engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(open(sys.argv[1], "rb").read())
sys.exit(engine is not None)
"""


def test_a_plan_of_another_gpu(trt: Trt, tmp_path) -> None:
    file = tmp_path / "small.plan"
    x, y = info("x", [1, 3, 4, 4]), info("y", None)
    file.write_bytes(trt.plan(wrap([helper.make_node("Relu", ["x"], ["y"])], [x], [y])))
    here = str(emulated_cuda.GPUS[0])
    for gpu, code in ((here, 1), ("90", 0)):
        done = tensorrt_stand_in.run(PLAN_OF_ANOTHER_GPU, tmp_path, str(file),
                                     BIDIFF_EMULATED_GPUS=gpu)
        assert done.returncode == code and ("incompatible device" in done.stderr) == (code == 0)
