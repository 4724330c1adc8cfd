"""Feed-forward networks by TensorRT and TensorRT-RTX, from build to check, on the stand-in.

What NVIDIA's parser and builder take is for ``tests/nvidia``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy import EngineError, load_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.export.write import export_bundle
from stand_ins import tensorrt as tensorrt_stand_in
from support.bbcu_networks import BORDERED, SMALL, checkpoint_of, random_network
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
from bidiff_deploy import EngineError, load_bundle
from bidiff_deploy.cli import group

folder, out, told = Path(sys.argv[2]), {}, {}
given = np.load(folder / "in.npz")

def run(*words):
    done = CliRunner().invoke(group, [str(word) for word in words])
    return [done.exit_code, done.stdout + done.stderr]

backend = sys.argv[3]
words = ("--backend", backend, *("--compute-capability", "80") * ("rtx" in backend))
path = folder / ("exact" if "rtx" in backend else "half")
for shapes in (("--size", "16x24"), ("--min", "8x8", "--opt", "40x40", "--max", "40x48")):
    done = run("build", path, *words, *shapes, "--quiet")
    assert done[0] == 0, done
with load_bundle(path, backend=backend) as engine:
    out["images"] = np.stack([engine.enlarge(given["picture"]) for _ in range(3)])
    out["tiles"] = engine.upscale(given["pixels"])
    plan = engine.tile_plan(70, 90)
    told["engine"] = [engine.description, plan.tile_height, plan.count]
    try:
        engine.tile_plan(4, 4)
    except EngineError as error:
        told["engine"].append(str(error))
told["check"] = run("check", path, folder / "model.safetensors", "--backend", backend, "--size",
                    "16x24")
np.savez(folder / "out.npz", **out)
(folder / "out.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module", params=[
    (SMALL[2], "tensorrt", 40), (BORDERED, "tensorrt-rtx", 110)],
                ids=["published-plugin", "direct-rtx"])
def made(request, tmp_path_factory):
    """The folder of a network's bundles, what an engine returned, and what was said; the backend,
    and the least SNR of its images: half precision flips signs."""
    config, backend, least = request.param
    folder = tmp_path_factory.mktemp("gpu")
    checkpoint = checkpoint_of(random_network(config))
    write_packed(folder / "model.safetensors", checkpoint)
    for precision in ("exact", "half"):
        export_bundle(checkpoint, folder / precision, precision=precision)
    rng = np.random.default_rng(3)
    np.savez(folder / "in.npz", picture=rng.random((1, 3, 16, 24), np.float32),
             pixels=rng.integers(0, 256, (70, 90, 3), np.uint8))
    site = Path(tensorrt_stand_in.__file__).parents[1] / "rtx"
    done = tensorrt_stand_in.run(PROGRAM, folder / "cache", str(site), str(folder), backend,
                                 BIDIFF_TENSORRT_PLANS=str(folder / "plans"))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((folder / "out.json").read_text())
    return folder, dict(np.load(folder / "out.npz")), told, backend, least


def test_the_whole_way(made):
    folder, out, told, backend, least = made
    given = np.load(folder / "in.npz")
    with load_bundle(folder / "exact", threads=1) as engine:
        assert snr(engine.enlarge(given["picture"]), out["images"][0]) > least
        # Cut into tiles that a plan runs, with the pixels of the whole.
        apart = np.abs(engine.upscale(given["pixels"]).astype(int) - out["tiles"])
        assert apart.max() <= (1 if least > 100 else 16) and apart.mean() < 1
        scale = engine.scale
    np.testing.assert_array_equal(out["images"][0], out["images"][2])  # captured at the third
    description, tile, count, refused = told["engine"]
    assert description.startswith(backend) and tile == 40 * scale
    assert count == 12
    assert "runs batch x height x width 1x4x4, only 1x16x24, 1x8x8-1x40x40-1x40x48" in refused
    code, text = told["check"]
    assert code == 0 and "noise: " in text and "dB from the reference's image" in text
    assert "judged in onnxruntime-stock" in text


def test_a_backend_that_does_not_run_it(made):
    with pytest.raises(EngineError, match="feed-forward network, which backend onnxruntime-cuda "
                                          "does not run; choose onnxruntime, tensorrt or"):
        load_bundle(made[0] / "half", backend="onnxruntime-cuda")
