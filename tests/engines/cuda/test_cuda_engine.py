"""Backend onnxruntime-cuda on the emulated driver: ONNX Runtime's CPU provider runs the operators
that its CUDA provider runs on a GPU."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines import library
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.graphs.float16 import MAPS
from bidiff_deploy.networks.bi_diffsr.memory import cuda_step_bytes
from support import emulated_cuda, forked
from support.cuda_cases import cases, model, on_the_cpus_kernels
from support.reference_cases import snr

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

PROGRAM = Path(__file__).parents[2] / "support" / "cuda_on_cpu.py"


def on_cpu(cache: Path, *arguments: str, **changed: str) -> None:
    done = forked.program(PROGRAM, *arguments, environment=emulated_cuda.variables(
        cache, BIDIFF_CUDA_ON_CPU="1", **{"BIDIFF_EMULATED_GPUS": "80", **changed}))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


# -- single operators -------------------------------------------------------------------------


def write(folder, name, op, inputs, attributes, *, half=False, fed=()):
    made = model(op, inputs, attributes, half=half, fed=fed)
    (folder / f"{name}.onnx").write_bytes(made.SerializeToString())
    wanted = {value.name for value in made.graph.input}
    np.savez(folder / f"{name}.npz", **{
        f"i{index}": value.astype(np.float16) if half and index in MAPS[op] else value
        for index, value in enumerate(inputs) if f"i{index}" in wanted})


REFUSED = {
    "alpha must have shape": ("conv", {2: np.ones(3, np.float32)}, ()),
    "skip must have the shape of x": ("norm_conv", {8: np.ones((2, 24, 2, 2), np.float32)}, ()),
    "groups 5 must divide": ("norm", {}, ()),
    "words must be a constant": ("conv", {}, (1,)),
    "words": ("up", {1: np.zeros((24, 3, 3, 2), np.int32)}, ()),
    "must be even": ("down", {0: np.ones((1, 24, 5, 4), np.float32)}, ()),
    "rprelu": ("fusion", {5: np.ones((2, 24), np.float32)}, ()),
}


@pytest.fixture(scope="module")
def operators(shared, cache):
    def make(folder):
        folder.mkdir()
        for name, (op, inputs, attributes) in cases().items():
            write(folder, f"{name}.f32", op, inputs, attributes)
            write(folder, f"{name}.f16", op, inputs, attributes, half=True)
        for index, (_, (name, changes, fed)) in enumerate(REFUSED.items()):
            op, inputs, attributes = cases()[name]
            changed = [changes.get(i, value) for i, value in enumerate(inputs)]
            if name == "norm":
                attributes = {"groups": 5}
            write(folder, f"refused{index}", op, changed, attributes, fed=fed)
        on_cpu(cache, "ops", str(folder))

    return shared("cuda_operators", make)


@pytest.mark.parametrize("name", cases())
def test_an_operator_in_float32(operators, name):
    """Equal to the bit but for the norm, whose statistics are summed in another order."""
    op, inputs, attributes = cases()[name]
    expected, found = on_the_cpus_kernels(op, inputs, attributes), np.load(
        operators / f"{name}.f32.out.npy")
    assert found.dtype == np.float32
    if "norm" in name:
        assert snr(expected, found) > 110
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", cases())
def test_an_operator_in_float16(operators, name):
    """The float32 result for the same float16 inputs, rounded once."""
    op, inputs, attributes = cases()[name]
    rounded = [value.astype(np.float16).astype(np.float32)
               if value is not None and index in MAPS[op] else value
               for index, value in enumerate(inputs)]
    expected = on_the_cpus_kernels(op, rounded, attributes).astype(np.float16)
    found = np.load(operators / f"{name}.f16.out.npy")
    assert found.dtype == np.float16
    if "norm" in name:  # float32 statistics on either side of a tie
        assert snr(expected, found) > 75
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index, says", list(enumerate(REFUSED)))
def test_inputs_that_do_not_fit_are_refused(operators, index, says):
    file = operators / f"refused{index}.txt"
    assert file.is_file() and "bidiff::" in file.read_text() and says in file.read_text()


# -- the engine ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["exact", "half"])
def engine_run(request, reference, shared, cache):
    """(precision, the reference's case, what the engine gave, what it said)."""
    data = reference.arrays("forward_tiny")

    def make(folder):
        folder.mkdir()
        times = sorted(map(int, data["timesteps"]), reverse=True)
        export_bundle(reference.read("tiny"), folder / "b", timesteps=times,
                      precision=request.param)
        np.savez(folder / "in.npz", noisy=data["noisy"], condition=data["condition"],
                 timesteps=data["timesteps"][::2])
        on_cpu(cache, "engine", str(folder / "b"), str(folder))

    folder = shared(f"cuda_engine_{request.param}", make)
    return SimpleNamespace(precision=request.param, data=data, bundle=folder / "b",
                           out=dict(np.load(folder / "out.npz")),
                           told=json.loads((folder / "out.json").read_text()))


def test_each_step_matches_the_reference(engine_run):
    # float32: the CPU engine has 129 dB. float16: 11 bits, and this network has 8 to 16 channels,
    # so a flipped sign is a large part of a sum: 16 dB, 24 dB with 32 channels, 36 dB published.
    bound = 115 if engine_run.precision == "exact" else 13
    expected_ones = engine_run.data["prediction"][::2, 0]
    for expected, found in zip(expected_ones, engine_run.out["predictions"], strict=True):
        assert found.dtype == np.float32 and snr(expected, found) >= bound
    told = engine_run.told
    assert told["precision"] == {"exact": "float32", "half": "float16"}[engine_run.precision]
    assert told["precision"] in told["description"] and "emulated sm_80" in told["description"]
    assert told["kernel"] == "cuda"


def test_runs_repeat(engine_run):
    """After other shapes, and from two threads at once, every bit is the same."""
    out = engine_run.out
    np.testing.assert_array_equal(out["again"][0], out["predictions"][0])
    np.testing.assert_array_equal(out["threads"], out["predictions"][:2])
    np.testing.assert_array_equal(out["first_threads"], np.repeat(out["predictions"][:2], 3, 0))


def test_a_callback_cannot_use_the_engine_of_its_loop(engine_run):
    told = engine_run.told["callback"]
    assert len(told) == 10 and all("on_step cannot use the engine" in text for text in told)
    np.testing.assert_array_equal(engine_run.out["sample_with_calls"], engine_run.out["sample"])


def test_a_failed_run_leaves_nothing_behind(engine_run):
    memory, damaged = engine_run.told["failures"]
    assert memory[0] == "EngineError" and "has no memory left for a step at" in memory[1]
    assert memory[2:] == [True, False]  # no error that would keep its buffers, no buffers
    assert damaged[:2] == ["BundleError", "step.onnx is gone"]
    np.testing.assert_array_equal(engine_run.out["after_failures"],
                                  engine_run.out["predictions"][0][None])


def test_the_loop_is_the_loop_of_the_cpu(engine_run):
    # A network at random: in float32 as long as no sign flips; in float16 the loop's clip and its
    # few steps keep the images alike at best.
    with load_bundle(engine_run.bundle, threads=1) as engine:
        expected = engine.sample(engine_run.data["condition"][0, :, :16, :24], seed=5)
        image = np.random.default_rng(1).integers(0, 256, (5, 17, 3), np.uint8)
        upscaled = engine.upscale(image, seed=2, steps=1, tile=64, overlap=8)
    found = engine_run.out["sample"]
    assert found.shape == expected.shape and found.dtype == np.float32
    assert 0 <= found.min() and found.max() <= 1
    assert engine_run.told["steps"] == [[done, 5] for done in range(1, 6)]
    assert engine_run.out["upscaled"].shape == upscaled.shape
    if engine_run.precision == "exact":
        assert snr(expected, found) > 40
        assert np.abs(engine_run.out["upscaled"].astype(int) - upscaled).mean() < 1


def test_a_lack_of_memory_names_what_fits(engine_run):
    told = engine_run.told
    assert "has no memory left for a step at 4096x4096, which needs about" in told["image"]
    assert "of the 2048 MiB that were free" in told["image"]
    side = int(told["image"].rpartition("--tile ")[2].split(",")[0])
    assert 64 <= side < 4096 and side % 64 == 0
    config, half = open_bundle(engine_run.bundle).config, engine_run.precision == "half"
    room = int(0.9 * (2 << 30))
    for fits, limit in ((side, room), (side + 64, None)):
        needed = cuda_step_bytes(config, fits, fits, half=half)
        assert needed <= room if limit else needed > room
    batch = int(re.search(r"batch 64,.*make the batch smaller: (\d+) fits?$", told["batch"])[1])
    fixed = cuda_step_bytes(config, 0, 0, half=half)
    each = cuda_step_bytes(config, 64, 64, half=half) - fixed
    assert batch == (room - fixed) // each and 1 < batch < 32
    assert told["other"].startswith("onnxruntime could not run a step at 8x8 on emulated sm_80")


def test_the_command_line(engine_run, tmp_path, cache):
    from PIL import Image

    Image.fromarray(np.full((4, 4, 3), 90, np.uint8)).save(tmp_path / "in.png")
    done = forked.command(
        "upscale", engine_run.bundle, tmp_path / "in.png", "-o", tmp_path / "out.png", "--backend",
        "onnxruntime-cuda", "--device", "0", "--steps", "1", "--quiet",
        environment=emulated_cuda.variables(cache, BIDIFF_CUDA_ON_CPU="1",
                                            BIDIFF_EMULATED_GPUS="80"))
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out.png").size == (16, 16)


@pytest.mark.parametrize("arguments, says", [
    (["upscale", "in.png", "-o", "out.png"],
     "device is 1, the number of a GPU, but backend onnxruntime runs"),
    (["bench"], "device 1 is a GPU, which none of the baselines uses; measure against"),
], ids=["upscale", "bench"])
def test_a_device_where_no_gpu_is_used(reference, tmp_path, monkeypatch, arguments, says):
    from click.testing import CliRunner
    from PIL import Image

    from bidiff_deploy.cli import group

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save("in.png")
    name, *others = arguments
    bundle = str(reference.bundle("tiny", [999, 400, 0]))
    done = CliRunner().invoke(group, [name, bundle, *others, "--device", "1"])
    assert done.exit_code == 1 and says in done.output
    assert not (tmp_path / "out.png").exists()
