"""The TensorRT backends in the hands of a stand-in for TensorRT that computes, on the emulated
driver: pictures, loops as graphs, what fails, and every sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.engines import TENSORRT, library
from bidiff_deploy.export.write import export_bundle
from stand_ins import tensorrt as tensorrt_stand_in
from support.reference_cases import snr

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings")

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

PROGRAM = Path(__file__).parents[2] / "support" / "tensorrt_on_cpu.py"


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
    assert all("on_step cannot use the engine" in text for text in told["callback"])
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
        # What a process does not recover from on a GPU.
        assert text.endswith("; restart the program") == (name in ("enqueue", "copy"))
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
        assert re.match(r"the steps cannot be captured as a CUDA graph \(\w+: CUDA_ERROR_STREAM_"
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
    for name, says in (("gpu", "was built on emulated sm_80 (sm_87), but this GPU is"),
                       ("sidecar", "does not describe a TensorRT plan"),
                       ("deserialize", "could not be opened: Error Code 2: OutOfMemory"),
                       ("stream", "GPU 0 cannot be used: cuStreamCreate: CUDA_ERROR_OUT_OF_MEM"),
                       ("memory", "emulated sm_80 cannot be used: cuMemAlloc: CUDA_ERROR_OUT_OF_"
                                  "MEMORY (CUDA_ERROR_OUT_OF_MEMORY); close other programs"),
                       ("plugin", "/nonexistent/plugin.so"),
                       ("context", "tensorrt could not run a step at 16x16 on emulated sm_80: "
                                   "cuCtxPushCurrent: CUDA_ERROR"),
                       ("stale", "was built by TensorRT 9.10.3")):
        assert told[name][0] and says in told[name][1], told[name]
    assert "`bidiff-deploy build " in told["gpu"][1] and "`bidiff-deploy build " in told["stale"][1]
    assert told["free"] == 1 << 30  # engines that could not be opened hold nothing
