"""Feed-forward networks by TensorRT and TensorRT-RTX, from build to check, on the stand-in.

What NVIDIA's parser and builder take is for ``tests/nvidia``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.export.write import export_bundle
from stand_ins import tensorrt as tensorrt_stand_in
from support.bbcu_networks import DIRECT, SMALL, checkpoint_of, random_network
from support.reference_cases import snr

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings")

PROGRAM = """
import json, sys
sys.modules["pycuda"] = None
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
from click.testing import CliRunner
from bidiff_deploy import load_bundle
from bidiff_deploy.cli import group

folder, out, told = Path(sys.argv[2]), {}, {}
picture = np.random.default_rng(3).random((1, 3, 16, 24), np.float32)
pixels = np.random.default_rng(4).integers(0, 256, (70, 90, 3), np.uint8)

def run(*words):
    done = CliRunner().invoke(group, [str(word) for word in words])
    return [done.exit_code, done.stdout, done.stderr]

for name, backend, words in (
        ("half", "tensorrt", ()), ("half", "tensorrt-dense", ("--no-plugin",)),
        ("exact", "tensorrt-rtx", ()), ("exact", "tensorrt-rtx-int8", ())):
    path = folder / name
    target = backend if "rtx" in backend else "tensorrt"
    words += ("--compute-capability", "80") if "rtx" in backend else ()
    for shapes in (("--size", "16x24"), ("--min", "8x8", "--opt", "40x40", "--max", "40x48")):
        done = run("build", path, "--backend", target, *words, *shapes, "--quiet")
        assert done[0] == 0, done
    with load_bundle(path, backend=backend) as engine:
        out[backend] = np.stack([engine.enlarge(picture) for _ in range(3)])
        out[backend + ".tiles"] = engine.upscale(pixels)
        plan = engine.tile_plan(70, 90)
        told[backend] = [engine.description, plan.tile_height, plan.count]
    told[backend + ".check"] = run("check", path, folder / "model.safetensors", "--backend",
                                   backend, "--size", "16x24")
told["cuda"] = run("upscale", "--model", folder / "half", folder / "x.png", "--backend",
                   "onnxruntime-cuda")
np.savez(folder / "out.npz", **out)
(folder / "out.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module", params=[SMALL[2], DIRECT], ids=["published", "direct"])
def made(request, tmp_path_factory):
    """The folder of a network's bundles, what its engines returned, and what was said."""
    folder = tmp_path_factory.mktemp("gpu")
    checkpoint = checkpoint_of(random_network(request.param))
    write_packed(folder / "model.safetensors", checkpoint)
    for precision in ("exact", "half"):
        export_bundle(checkpoint, folder / precision, precision=precision)
    site = Path(tensorrt_stand_in.__file__).parents[1] / "rtx"
    done = tensorrt_stand_in.run(PROGRAM, folder / "cache", str(site), str(folder),
                                 BIDIFF_TENSORRT_PLANS=str(folder / "plans"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, dict(np.load(folder / "out.npz")), json.loads((folder / "out.json").read_text())


def test_x(made):
    folder, out, told = made
    for k, v in told.items(): print(k, *v)
    with load_bundle(folder / "exact", threads=1) as engine:
        picture = np.random.default_rng(3).random((1, 3, 16, 24), np.float32)
        e = engine.enlarge(picture)
    for k, v in out.items():
        print(k, v.shape, [snr(e, x) for x in v] if "tiles" not in k else "")
    assert 0
