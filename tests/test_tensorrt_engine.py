"""The TensorRT backends in the hands of a stand-in for TensorRT that computes, on the emulated
driver: pictures, loops as graphs, what fails, and every sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorrt_stand_in
from conftest import snr

from bidiff_deploy import EngineError, UsageError, load_bundle
from bidiff_deploy.bundle import open_bundle
from bidiff_deploy.engines import TENSORRT, library
from bidiff_deploy.engines.tensorrt import engine as backend
from bidiff_deploy.engines.step_graphs import StepGraphs
from bidiff_deploy.engines.tensorrt.sidecar import PlanInfo, Profile
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.memory_model import cuda_step_bytes

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings")
if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

PROGRAM = Path(__file__).with_name("tensorrt_on_cpu.py")
COMMAND = "from bidiff_deploy.cli import main; main()"


def run(what: str, bundle: Path, folder: Path, version: str) -> SimpleNamespace:
    """Arrays and texts that the program gives; its plans are in ``folder``."""
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    done = tensorrt_stand_in.run(PROGRAM, cache, what, str(bundle), str(folder), version=version,
                                 BIDIFF_TENSORRT_PLANS=str(folder / "plans"))
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(out=dict(np.load(folder / "out.npz")), printed=done.stdout + done.stderr,
                           told=json.loads((folder / "out.json").read_text()), bundle=bundle)


def exported(reference, folder: Path, precision: str) -> Path:
    times = sorted(map(int, reference.arrays("forward_tiny")["timesteps"][::2]), reverse=True)
    export_bundle(reference.read("tiny"), folder / "b", timesteps=times, precision=precision)
    return folder / "b"


# -- what runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[("8.5.3", "half"), ("11.4.0", "exact")],
                ids=lambda param: "-".join(param))
def engine_run(request, reference, tmp_path_factory):
    version, precision = request.param
    folder = tmp_path_factory.mktemp(precision)
    data = reference.arrays("forward_tiny")
    np.savez(folder / "in.npz", noisy=data["noisy"], condition=data["condition"],
             timesteps=data["timesteps"][::2])
    found = run("engine", exported(reference, folder, precision), folder, version)
    found.precision, found.data, found.version = precision, data, version
    return found


def test_each_step_matches_the_reference(engine_run):
    bound = 115 if engine_run.precision == "exact" else 13  # as on the other backend of a GPU
    for expected, found in zip(engine_run.data["prediction"][::2, 0],
                               engine_run.out["predictions"], strict=True):
        assert found.dtype == np.float32 and snr(expected, found) >= bound
    told = engine_run.told
    assert told["precision"] == {"exact": "float32", "half": "float16"}[engine_run.precision]
    assert told["kernel"] == "tensorrt" and re.fullmatch(
        rf"tensorrt {engine_run.version}\.\d+, emulated sm_80, plugin, by cuda-python [\d.]+, "
        rf"{told['precision']}", told["description"])


def test_steps_repeat_at_other_shapes_in_batches_and_from_threads(engine_run):
    out, told = engine_run.out, engine_run.told
    np.testing.assert_array_equal(out["again"][0], out["predictions"][0])
    np.testing.assert_array_equal(out["threads"], out["predictions"][:2])
    np.testing.assert_array_equal(out["batch"], out["singles"])
    # TensorRT 8 takes one context at a time for a plan of many shapes, so each has an engine.
    alone = engine_run.version == "8.5.3"
    assert told["contexts"] == (1 if alone else 4)
    assert told["addressed"][0] == told["addressed"][1] > 0
    assert told["shapes"] == 4 and told["plans"] <= (6 if alone else 2)
    # The first runs, the second is captured and launched, the third is launched.
    assert told["first"] == [2, 2]


def test_a_loop_is_one_graph_from_its_second_time_on(engine_run):
    out, told = engine_run.out, engine_run.told
    assert told["steps"] == [[1, 3], [2, 3], [3, 3]]
    assert [told[f"loop{index}"] for index in range(3)] == [[3, 0], [3, 1], [0, 1]]
    for index in range(3):
        np.testing.assert_array_equal(out[f"loop{index}"], out["sample"])
    assert out["sample"].dtype == np.float32
    assert 0 <= out["sample"].min() and out["sample"].max() <= 1


@pytest.mark.parametrize("name", ["two", "start", "one", "all"])
def test_other_timesteps_factors_and_noise_by_the_same_graph(engine_run, name):
    """Step by step is the last; a number of steps that was not seen before has a graph of its
    own, in the place of one that was."""
    found = engine_run.out[f"loops_{name}"]
    for one in found[:-1]:
        np.testing.assert_array_equal(one, found[-1])
    assert engine_run.told[f"loop_{name}"] == [0, 1] and engine_run.told["loops"] == 2
    others = [engine_run.out[f"loops_{other}"][-1] for other in ("two", "start", "one", "all")]
    assert len({one.tobytes() for one in others}) == 4


def test_the_loop_is_the_loop_of_the_cpu(engine_run):
    with load_bundle(engine_run.bundle, threads=1) as engine:
        expected = engine.sample(engine_run.data["condition"][:1, :, :8, :16], seed=5)
    assert engine_run.out["sample"].shape == expected.shape
    if engine_run.precision == "exact":
        assert snr(expected, engine_run.out["sample"]) > 80


def test_callbacks_and_closed_engines(engine_run):
    told = engine_run.told
    assert len(told["callback"]) == 6
    assert all("on_step can not use the engine" in text for text in told["callback"])
    for name in ("sample_with_calls", "sample_after_stop"):
        np.testing.assert_array_equal(engine_run.out[name], engine_run.out["sample"])
    assert told["closed"][:2] == ["EngineError", "the engine is closed; open the bundle again"]


@pytest.mark.parametrize("precision", ["exact", "half"])
def test_all_variants_are_the_network(reference, tmp_path, precision):
    found = run("variants", exported(reference, tmp_path, precision), tmp_path, "10.3.0")
    bounds = {"exact": (115, 100), "half": (12, 3)}[precision]  # of a step, of a loop
    for name, variant in TENSORRT.items():
        for kind, bound in zip(("predict", "sample"), bounds):
            assert snr(found.out[f"cuda.{kind}"], found.out[f"{name}.{kind}"]) > bound
        assert f", {variant}, by " in found.told[name]
    # The plugin has the kernels of the other backend: nearer than float16 is to the reference.
    assert snr(found.out["cuda.predict"], found.out["tensorrt.predict"]) > 60


# -- what fails --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failures(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("failures")
    return run("failures", exported(reference, folder, "exact"), folder, "10.3.0")


def test_a_failed_run_leaves_nothing_behind_and_the_engine_usable(failures):
    """The program compares what is run after each failure."""
    told, memory = failures.told, "emulated sm_80 has no memory left for a step at"
    for name, begins, says in (
            ("memory", f"{memory} 16x8, which needs about", "cuMemAlloc: "),
            ("context", f"{memory} 8x16, which needs", "no execution context: Error Code 2"),
            ("enqueue", "tensorrt could not run a step at 24x8 on emulated", "illegal memory"),
            ("copy", "tensorrt could not run a step at 16x16", "cuMemcpyHtoDAsync: CUDA_ERROR_L"),
            ("launch", "tensorrt could not run a step at 8x8", "cuGraphLaunch: CUDA_ERROR_INV")):
        kind, text, alone, kept = told[name]
        assert kind == "EngineError" and text.startswith(begins) and says in text, text
        assert alone and not kept  # no error that would keep its buffers, no buffers
    assert "tensorrt could not run a step at 8x8" in told["loop"][1]
    assert told["freed"][0] == told["freed"][1]


def test_a_lack_of_memory_names_what_a_plan_runs(failures):
    text = failures.told["batch"][1]
    assert "a step at 24x24, batch 4, which needs" in text
    assert text.endswith("make the batch smaller: 2 fit")
    assert failures.told["tile"].endswith("; tiles of 64x64 fit: --tile 64, tile=64 in Python")
    assert re.fullmatch(r"no plugin plan in float32 runs batch x height x width 1x32x32, only .*; "
                        r"build one with `bidiff-deploy build .* --size 32x32`",
                        failures.told["none"][1])


def test_without_captured_graphs(failures):
    """Steps and loops are equal without; it is told once an engine."""
    for name in ("cuStreamBeginCapture", "cuGraphInstantiate", "invalidated"):
        (text,) = failures.told[name]
        assert re.match(r"the steps can not be captured as a CUDA graph \(\w+: CUDA_ERROR_STREAM_"
                        r"CAPTURE_UNSUPPORTED.*\); running without", text)


def test_an_engine_that_nobody_closes(failures):
    held, left = failures.told["left"]
    assert held and left == 0


def test_an_engine_by_pycuda(reference, tmp_path):
    found = run("pycuda", exported(reference, tmp_path, "exact"), tmp_path, "10.0.1")
    assert ", by pycuda 2026.1 and cuda-python " in found.told["description"]
    for name in ("steps", "loops"):
        for one in found.out[name][1:]:
            np.testing.assert_array_equal(one, found.out[name][0])
    assert "has no memory left for a step at 16x8" in found.told["memory"][1]
    assert found.told["freed"][0] == found.told["freed"][1]
    held, left = found.told["left"]
    # All is freed by the thread that pycuda's context belongs to.
    assert held and left == 0 and "out-of-thread" not in found.printed


def test_what_opening_is_refused_with(reference, tmp_path):
    told = run("opening", exported(reference, tmp_path, "exact"), tmp_path, "10.3.0").told
    for name, options in (("tensorrt", ""), ("tensorrt-dense", " --no-plugin"),
                          ("tensorrt-dense-int8", " --no-plugin --int8")):
        kind, text, _ = told["empty"][name]
        assert kind == "EngineError" and f"--backend tensorrt{options} --size 256x256`" in text
    for name in ("built", "beside", "next"):
        assert told[name][0] == "", told[name]
    assert told["description"].startswith("tensorrt 10.3.0")
    for name, says in (("gpu", "was built on emulated sm_80 (sm_87), here is"),
                       ("sidecar", "does not describe a TensorRT plan"),
                       ("deserialize", "could not be opened: Error Code 2: OutOfMemory"),
                       ("stream", "GPU 0 can not be used: cuStreamCreate: CUDA_ERROR_OUT_OF_MEM"),
                       ("plugin", "/nonexistent/plugin.so"),
                       ("context", "tensorrt could not run a step at 16x16 on emulated sm_80: "
                                   "cuCtxPushCurrent: CUDA_ERROR"),
                       ("stale", "was built by TensorRT 9.10.3")):
        assert told[name][0] and says in told[name][1], told[name]
    assert "`bidiff-deploy build " in told["gpu"][1] and "`bidiff-deploy build " in told["stale"][1]
    assert told["free"] == 1 << 30  # engines that could not be opened hold nothing


# -- tiles -------------------------------------------------------------------------------------


def engine_with(bundle: Path, *profiles: Profile, free: int = 1 << 60) -> backend.TensorRtEngine:
    """An engine that has plans but opens none: what it says needs no GPU."""
    opened = open_bundle(bundle)
    engine = backend.TensorRtEngine.__new__(backend.TensorRtEngine)
    super(backend.TensorRtEngine, engine).__init__(opened, StepGraphs(opened))
    engine._variant, engine._device_id, engine._free = "plugin", 0, free
    engine._refused, engine._stale = [], []
    engine._plans = [SimpleNamespace(path=Path(f"{index}.plan"), info=PlanInfo(
        "10.3.0", "GPU", 87, "12.4", "0" * 64, 1, "0" * 64, "plugin", "float32", profile, 1,
        "0" * 64, 17, None, None, 1.0)) for index, profile in enumerate(profiles)]
    engine._gpu = None
    return engine


def ranged(low: int, high: int, batch: int = 1) -> Profile:
    return Profile((1, low, low), (1, low, low), (batch, high, high))


def static(height: int, width: int) -> Profile:
    return Profile((1, height, width), (1, height, width), (1, height, width))


@pytest.fixture(scope="module")
def tiny(reference):
    return reference.bundle("tiny", [999, 400, 0])  # scale 4


@pytest.mark.parametrize("profiles, size, tile, expected", [
    ([ranged(64, 512)], (100, 60), "auto", (1, 400, 240)),       # whole
    ([ranged(64, 512)], (200, 150), "auto", (4, 512, 512)),      # a side too long: largest tiles
    ([ranged(64, 512)], (200, 50), "auto", (2, 512, 200)),       # one tile wide
    ([ranged(64, 200)], (100, 100), "auto", (9, 200, 200)),      # no power of two
    ([static(256, 256)], (100, 100), "auto", (4, 256, 256)),
    ([static(256, 256), static(400, 400)], (100, 100), "auto", (1, 400, 400)),
    ([static(256, 256), ranged(64, 384)], (100, 100), "auto", (4, 384, 384)),
    ([static(400, 600)], (100, 150), "auto", (1, 400, 600)),     # whole, though no square
    ([static(1200, 1600)], (300, 400), "auto", (1, 1200, 1600)),  # whole, as no tile is there
    ([ranged(64, 512)], (100, 60), 128, (12, 128, 128)),
    ([ranged(64, 512)], (100, 60), None, (1, 400, 240)),
    ([static(128, 128)], (32, 32), 64, None),
    ([static(128, 128)], (20, 20), "auto", None),
    ([ranged(64, 128)], (60, 60), None, None),
    ([ranged(64, 128)], (60, 60), 256, None),
], ids=str)
def test_tiles_are_shapes_that_a_plan_runs(tiny, profiles, size, tile, expected):
    engine = engine_with(tiny, *profiles)
    if expected is None:
        with pytest.raises(EngineError, match="no plugin plan in float32 runs batch x height x "
                                              "width .*, only .*; build one with `bidiff-deploy "
                                              "build .* --size") as error:
            engine.tile_plan(*size, tile)
        assert all(profile.label in str(error.value) for profile in profiles)
        return
    plan = engine.tile_plan(*size, tile)
    assert (plan.count, plan.tile_height, plan.tile_width) == expected


def test_tiles_and_the_memory(tiny):
    """The least memory of a plan is what its tile needs, and the rows of pixels under way."""
    config = open_bundle(tiny).config

    def needed(side: int) -> int:
        return cuda_step_bytes(config, side, side, half=False) + 12 * side * 800

    engine = engine_with(tiny, ranged(64, 512), free=needed(288) * 10 // 9 + 10)
    plan = engine.tile_plan(200, 200)
    assert (plan.tile_height, plan.tile_width) == (288, 288)
    assert engine.tile_plan(200, 200, memory=needed(264)).tile_height == 264
    assert engine.tile_plan(200, 200, memory=needed(1024)).whole is False
    with pytest.raises(UsageError, match="memory .* is too little"):
        engine.tile_plan(200, 200, memory=1 << 20)
    # Plans of larger tiles alone: the least that there is, unless memory was named.
    engine = engine_with(tiny, static(400, 400), static(512, 512), free=needed(288))
    assert engine.tile_plan(200, 200).tile_height == 400
    with pytest.raises(UsageError, match=r"memory \d+ MiB is too little for the plans"):
        engine.tile_plan(200, 200, memory=needed(288))
    with pytest.raises(UsageError, match="tile is 'big'"):
        engine.tile_plan(200, 200, "big")
    with pytest.raises(UsageError, match="overlap 200 is more than half"):
        engine.tile_plan(200, 200, 256, overlap=200)
    assert engine.tile_plan(200, 200, overlap=200).tile_height == 400


def test_options_are_checked_without_an_image(tiny):
    engine = engine_with(tiny, static(256, 256))
    for tile in ("auto", 256, 128, None):
        engine.check_tiles(tile, None)
    with pytest.raises(UsageError, match="but memory is 1 MiB"):
        engine.check_tiles(256, 1 << 20)


def test_a_batch_and_a_side_that_plans_run(tiny):
    engine = engine_with(tiny, ranged(64, 128, batch=4), static(64, 64))
    assert engine._batch_that_runs(8, 64, 64) == 4 and engine._batch_that_runs(3, 64, 64) == 3
    assert engine._batch_that_runs(8, 256, 64) == 0
    assert engine._side_that_fits(512) == 128 and engine._side_that_fits(64) is None
    assert engine_with(tiny, static(48, 48))._side_that_fits(512) is None


# -- commands ----------------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = tensorrt_stand_in.run(COMMAND, folder, *arguments, version="10.3.0",
                                 BIDIFF_TENSORRT_PLANS=str(folder / "plans"))
    return done.returncode, done.stdout, done.stderr


def test_the_commands(reference, tmp_path):
    from PIL import Image

    bundle = str(reference.bundle("tiny", [999, 400, 0]))
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "in.png")
    upscale = ("upscale", bundle, str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"),
               "--backend", "tensorrt", "--device", "0", "--quiet")
    code, _, told = command(tmp_path, *upscale)
    assert code == 1 and told.startswith("error: there is no plugin plan") and "`" in told
    assert told.count("\n") == 1
    for options in ((), ("--no-plugin",)):
        code, _, told = command(tmp_path, "build", bundle, "--size", "16x24", "--quiet", *options)
        assert code == 0, told
    code, _, told = command(tmp_path, *upscale)
    assert code == 0 and Image.open(tmp_path / "out.png").size == (24, 16), told
    code, found, told = command(
        tmp_path, "bench", bundle, "--size", "16x24", "--against",
        "tensorrt-dense,tensorrt-dense-int8", "--rounds", "1", "--json", "--quiet",
        "--threads", "1", "--device", "0")
    assert code == 0, told
    result = json.loads(found)
    assert [one["name"] for one in result["measured"]] == ["packed", "tensorrt-dense"]
    assert all(one["snr"] > 100 for one in result["measured"][1:])
    assert "there is no dense-int8 plan" in result["unavailable"]["tensorrt-dense-int8"]


def test_check_on_a_gpu(reference, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("polygraphy")
    bundle = str(reference.bundle("tiny", [999, 400, 0]))
    code, _, told = command(tmp_path, "build", bundle, "--size", "16x24", "--quiet")
    assert code == 0, told
    code, found, told = command(
        tmp_path, "check", bundle, str(reference.checkpoint("tiny")), "--options",
        str(reference.options("tiny")), "--backend", "tensorrt", "--device", "0", "--timesteps",
        "400", "--size", "16x24", "--threads", "1", "--quiet")
    assert code == 0, found + told
    assert "tensorrt 10.3.0" in found and "only backends on the CPU give them" in found


def test_the_doctor_builds_and_runs_a_plan(tmp_path):
    program = ("import sys\nfrom bidiff_deploy import doctor_probes\nimport json\n"
               "print(json.dumps({name: doctor_probes.run(name) for name in "
               "('plugin', 'cuda_python', 'backend:tensorrt', 'backend:tensorrt-dense-int8')}))")
    done = tensorrt_stand_in.run(program, tmp_path, version="10.3.0")
    found = json.loads(done.stdout)
    assert found["plugin"]["ok"] and found["plugin"]["tensorrt"].startswith("10.3.0")
    assert found["cuda_python"]["ok"] and found["cuda_python"]["version"]
    for name in ("tensorrt", "tensorrt-dense-int8"):
        probe = found[f"backend:{name}"]
        assert probe["ok"] and f", {TENSORRT[name]}, by " in probe["description"], probe
        assert probe["warnings"] == []
