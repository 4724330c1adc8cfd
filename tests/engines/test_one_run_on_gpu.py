"""Feed-forward networks by TensorRT and TensorRT-RTX, from build to check, on the stand-in.

What NVIDIA's parser and builder take is for ``tests/nvidia``."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from bidiff_deploy import EngineError, load_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.cli import group
from bidiff_deploy.export.write import export_bundle
from stand_ins import tensorrt as tensorrt_stand_in
from support.bbcu_networks import BORDERED, SMALL, checkpoint_of, random_network
from support.reference_cases import snr
from support.tensorrt_names import RTX


@pytest.fixture(scope="module", params=[
    (SMALL[2], "tensorrt", 40), (BORDERED, "tensorrt-rtx", 110)],
                ids=["published-plugin", "direct-rtx"])
def made(request, tmp_path_factory):
    """The folder of a network's bundles, what an engine returned, and what was said; the backend,
    and the least SNR of its images: half precision flips signs."""
    config, backend, least = request.param
    folder, rtx = tmp_path_factory.mktemp("gpu"), "rtx" in backend
    checkpoint = checkpoint_of(random_network(config))
    write_packed(folder / "model.safetensors", checkpoint)
    for precision in ("exact", "half"):
        export_bundle(checkpoint, folder / precision, precision=precision)
    rng = np.random.default_rng(3)
    given = {"picture": rng.random((1, 3, 16, 24), np.float32),
             "pixels": rng.integers(0, 256, (70, 90, 3), np.uint8)}

    def run(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(group, [str(word) for word in words])
        return done.exit_code, done.stdout + done.stderr

    path = folder / ("exact" if rtx else "half")
    with tensorrt_stand_in.in_process(folder / "cache", RTX if rtx else "10.3.0",
                                      BIDIFF_TENSORRT_PLANS=str(folder / "plans")):
        for shapes in (("--size", "16x24"), ("--min", "8x8", "--opt", "40x40", "--max", "40x48")):
            code, text = run("build", path, "--backend", backend, *shapes, "--quiet",
                             *("--compute-capability", "75") * rtx)
            assert code == 0, text
        with load_bundle(path, backend=backend) as engine:
            out = {"images": [engine.enlarge(given["picture"]) for _ in range(3)],
                   "tiles": engine.upscale(given["pixels"])}
            plan = engine.tile_plan(70, 90)
            with pytest.raises(EngineError) as error:
                engine.tile_plan(4, 4)
            said = {"engine": (engine.description, plan.tile_height, plan.count, str(error.value))}
        said["check"] = run("check", path, folder / "model.safetensors", "--backend", backend,
                            "--size", "16x24")
    return folder, given, out, said, backend, least


def test_the_whole_way(made):
    folder, given, out, said, backend, least = made
    with load_bundle(folder / "exact", threads=1) as engine:
        assert snr(engine.enlarge(given["picture"]), out["images"][0]) > least
        # Cut into tiles that a plan runs, with the pixels of the whole.
        apart = np.abs(engine.upscale(given["pixels"]).astype(int) - out["tiles"])
        assert apart.max() <= (1 if least > 100 else 16) and apart.mean() < 1
        scale = engine.scale
    np.testing.assert_array_equal(out["images"][0], out["images"][2])  # captured at the third
    description, tile, count, refused = said["engine"]
    assert description.startswith(backend) and tile == 40 * scale
    assert count == 12
    assert "runs batch x height x width 1x4x4, only 1x16x24, 1x8x8-1x40x40-1x40x48" in refused
    code, text = said["check"]
    assert code == 0 and "noise: " in text and "dB from the reference's image" in text
    assert "judged in onnxruntime-stock" in text


def test_a_backend_that_does_not_run_it(made):
    with pytest.raises(EngineError, match="feed-forward network, which backend onnxruntime-cuda "
                                          "does not run; choose onnxruntime, tensorrt or"):
        load_bundle(made[0] / "half", backend="onnxruntime-cuda")
