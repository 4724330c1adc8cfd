"""Backend tensorrt-rtx, from build to captured loop, on the stand-in that has TensorRT-RTX's names:
the calls and their order. What its builder takes is for ``tests/nvidia``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stand_ins import tensorrt as tensorrt_stand_in

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings")

PROGRAM = """
import json, sys
sys.modules["pycuda"] = None
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
from bidiff_deploy import EngineError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines.tensorrt.build.builder import build_plan
from bidiff_deploy.engines.tensorrt.profiles import Profile

path, folder = sys.argv[2], Path(sys.argv[3])
shape, out, told = (1, 16, 24), {}, {}
noisy, condition = np.random.default_rng(3).random((2, 1, 3, 16, 24), np.float32)

def build(variant, **options):
    build_plan(open_bundle(path), Profile(shape, shape, shape), variant=variant, quiet=True,
               **options)

build("rtx", capabilities=(89, 120))
try:
    load_bundle(path, backend="tensorrt-rtx")
except EngineError as error:
    told["other"] = str(error)
for backend, variant in (("tensorrt-rtx", "rtx"), ("tensorrt-rtx-int8", "rtx-int8"),
                         ("tensorrt-dense", "dense"), ("tensorrt-dense-int8", "dense-int8")):
    options = {"capabilities": (75, 80)} if "rtx" in variant else {}
    build(variant, overwrite=True, **options)
    for _ in range(1 + (variant == "rtx")):  # the second time with the cache of the first
        with load_bundle(path, backend=backend) as engine:
            out[backend] = np.stack([engine.predict(noisy, condition, engine.timesteps[0]),
                                     *(engine.sample(condition, seed=1) for _ in range(3))])
            told[backend] = engine.description
told["caches"] = sorted(file.name for file in (folder / "plans").glob("*.cache"))
np.savez(folder / "out.npz", **out)
(folder / "out.json").write_text(json.dumps(told))
"""


def test_the_whole_way(reference, tmp_path: Path) -> None:
    bundle = reference.bundle("tiny", [999, 400, 0], precision="half")
    site = Path(tensorrt_stand_in.__file__).parents[1] / "rtx"
    done = tensorrt_stand_in.run(PROGRAM, tmp_path / "cache", str(site), str(bundle),
                                 str(tmp_path), BIDIFF_TENSORRT_PLANS=str(tmp_path / "plans"))
    assert done.returncode == 0, done.stdout + done.stderr
    out, told = np.load(tmp_path / "out.npz"), json.loads((tmp_path / "out.json").read_text())
    # TensorRT from 10 on gets the same graph, and the stand-in computes it in the same way.
    for name in ("", "-int8"):
        np.testing.assert_array_equal(out[f"tensorrt-rtx{name}"], out[f"tensorrt-dense{name}"])
        found = out[f"tensorrt-rtx{name}"]
        np.testing.assert_array_equal(found[1], found[3])  # step by step, then captured
    assert told["tensorrt-rtx"].startswith("tensorrt-rtx 1.7.1.116, emulated sm_80, rtx, by cuda")
    assert "was built for sm_89, sm_120, but this GPU is emulated sm_80 (sm_80)" in told["other"]
    assert "--backend tensorrt-rtx --compute-capability 80,89,120 --size 16x24" in told["other"]
    assert told["caches"] == ["rtx-float16-1x16x24.cache", "rtx-int8-float16-1x16x24.cache"]
