"""Backend tensorrt-rtx, from build to captured loop, on the stand-in that has TensorRT-RTX's names:
the calls and their order. What its builder takes is for ``tests/nvidia``."""

from __future__ import annotations

import numpy as np
import pytest

from bidiff_deploy import EngineError, load_bundle
from stand_ins import tensorrt as tensorrt_stand_in
from support.tensorrt_building import build, static
from support.tensorrt_names import RTX


def test_the_whole_way(trt, reference, place, tmp_path) -> None:
    bundle = reference.bundle("tiny", [999, 400, 0], precision="half")
    noisy, condition = np.random.default_rng(3).random((2, 1, 3, 16, 24), np.float32)
    found = {}
    with tensorrt_stand_in.in_process(tmp_path, RTX):
        build(bundle, static(1, 16, 24), variant="rtx", capabilities=(89, 120))
        with pytest.raises(EngineError) as error:
            load_bundle(bundle, backend="tensorrt-rtx")
        for says in ("was built for sm_89, sm_120, but this GPU is emulated sm_75 (sm_75)",
                     "--backend tensorrt-rtx --compute-capability 75,89,120 --size 16x24"):
            assert says in str(error.value)
        for backend, variant in (
                ("tensorrt-rtx", "rtx"), ("tensorrt-rtx-int8", "rtx-int8"),
                ("tensorrt-dense", "dense"), ("tensorrt-dense-int8", "dense-int8")):
            options = {"capabilities": (75, 80)} if "rtx" in variant else {}
            build(bundle, static(1, 16, 24), variant=variant, overwrite=True, **options)
            for _ in range(1 + (variant == "rtx")):  # the second time with the cache of the first
                with load_bundle(bundle, backend=backend) as engine:
                    loops = [engine.sample(condition, seed=1) for _ in range(3)]
                    found[variant] = engine.predict(noisy, condition, 999), loops[0]
            np.testing.assert_array_equal(loops[0], loops[2])  # step by step, then captured
            if variant == "rtx":
                assert engine.description.startswith(
                    "tensorrt-rtx 1.7.1.116, emulated sm_75, rtx, by cuda")
    # TensorRT from 10 on gets the same graph, and the stand-in computes it in the same way.
    for rtx, dense in (("rtx", "dense"), ("rtx-int8", "dense-int8")):
        np.testing.assert_array_equal(found[rtx], found[dense])
    assert sorted(file.name for file in place.glob("*.cache")) == [
        "rtx-float16-1x16x24.cache", "rtx-int8-float16-1x16x24.cache"]
