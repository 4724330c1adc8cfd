"""Backend onnxruntime-cuda on the emulated driver: ONNX Runtime's CPU provider runs the operators
that its CUDA provider runs on a GPU, and every failure is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import emulated_cuda
import numpy as np
import pytest
from conftest import snr

from bidiff_deploy import EngineError, load_bundle, ops
from bidiff_deploy.engines import cuda_provider, library
from bidiff_deploy.engines.device_step import NO_GRAPH, DeviceStep
from bidiff_deploy.engines.half_graph import MAPS
from bidiff_deploy.engines.onnxruntime import session_options
from bidiff_deploy.export.write import export_bundle

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

PROGRAM = str(Path(__file__).with_name("cuda_on_cpu.py"))


def on_cpu(cache: Path, *arguments: str, **changed: str) -> None:
    environment = {**os.environ, **emulated_cuda.variables(
        cache, BIDIFF_CUDA_ON_CPU="1", **{"BIDIFF_EMULATED_GPUS": "80", **changed})}
    done = subprocess.run([sys.executable, PROGRAM, *arguments], env=environment, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


# -- single operators -------------------------------------------------------------------------


class Maker:
    """Random inputs of operators, by name in the operator's order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
        return (scale * self.rng.standard_normal(shape) + shift).astype(np.float32)

    def branch(self, channels: int, k: int, out: int | None = None) -> list[np.ndarray]:
        words = self.rng.integers(-2**31, 2**31, (out or channels, k, k, -(-channels // 32)))
        return [words.astype(np.int32), self.normal(out or channels, scale=0.1),
                self.normal(channels, scale=0.3), self.normal(3, out or channels, scale=0.3)]

    def norm(self, channels: int) -> list[np.ndarray]:
        return [self.normal(channels, scale=0.2, shift=1), self.normal(channels)]


def cases() -> dict[str, tuple[str, list[np.ndarray | None], dict[str, int]]]:
    make, none = Maker(0), np.zeros(1, np.float32)
    x = make.normal(2, 24, 6, 10)
    return {
        "conv": (ops.BINARY_CONV, [x, *make.branch(24, 3, 40), make.normal(2, 40, 6, 10),
                                   make.normal(40)], {}),
        "conv_bare": (ops.BINARY_CONV, [x, *make.branch(24, 1, 7)[:2]], {}),
        "conv_scalars": (ops.BINARY_CONV, [x, *make.branch(24, 1, 5), make.normal(1),
                                           make.normal(1)], {}),
        "norm": (ops.GROUP_NORM_SWISH, [x, *make.norm(24)], {"groups": 4}),
        "norm_conv": (ops.NORM_BINARY_CONV, [x, *make.norm(24), *make.branch(24, 3),
                                             make.normal(24), make.normal(2, 24, 6, 10)],
                      {"groups": 4}),
        "norm_conv_alone": (ops.NORM_BINARY_CONV, [x, *make.norm(24), *make.branch(24, 3), none,
                                                   none], {"groups": 4}),
        "fusion": (ops.BINARY_FUSION, [x, make.normal(2, 24, 6, 10), *make.branch(24, 1),
                                       *make.branch(24, 1)], {}),
        "down": (ops.BINARY_DOWN, [x, *make.branch(12, 3), *make.branch(12, 3)], {}),
        "up": (ops.BINARY_UP, [x, *make.branch(24, 3), *make.branch(24, 3)], {}),
    }


def model(op, inputs, attributes, *, half, fed=()):
    """One node. Maps are inputs of the model, the rest constants but for those ``fed``."""
    helper, types = onnx.helper, onnx.TensorProto
    names = ["" if value is None else f"i{index}" for index, value in enumerate(inputs)]
    graph_inputs, constants = [], []
    for index, (name, value) in enumerate(zip(names, inputs)):
        element = types.FLOAT16 if half and index in MAPS[op] else types.FLOAT
        if value is None:
            continue
        if value.ndim == 4 and index in MAPS[op] or index in fed:
            kind = element if value.dtype == np.float32 else types.INT32
            graph_inputs.append(helper.make_tensor_value_info(name, kind, value.shape))
        else:
            constants.append(onnx.numpy_helper.from_array(
                value.astype(np.float16) if element == types.FLOAT16 else value, name))
    y = helper.make_tensor_value_info("y", types.FLOAT16 if half else types.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, names, ["y"], domain=ops.DOMAIN,
                                                **attributes)], "one", graph_inputs, [y], constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", ops.ONNX_OPSET), helper.make_opsetid(ops.DOMAIN, ops.VERSION)])


def write(folder, name, op, inputs, attributes, *, half=False, fed=()):
    made = model(op, inputs, attributes, half=half, fed=fed)
    (folder / f"{name}.onnx").write_bytes(made.SerializeToString())
    wanted = {value.name for value in made.graph.input}
    np.savez(folder / f"{name}.npz", **{
        f"i{index}": value.astype(np.float16) if half and index in MAPS[op] else value
        for index, value in enumerate(inputs) if f"i{index}" in wanted})


def on_the_cpus_kernels(op, inputs, attributes):
    """The same in float32 by this process, whose library runs the CPU's operators."""
    made = model(op, inputs, attributes, half=False)
    options = session_options(1)
    options.register_custom_ops_library(str(library.library_path()))
    session = ort.InferenceSession(made.SerializeToString(), options,
                                   providers=["CPUExecutionProvider"])
    return session.run(["y"], {value.name: inputs[int(value.name[1:])]
                               for value in made.graph.input})[0]


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
def operators(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("operators")
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
    return folder


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
def engine_run(request, reference, tmp_path_factory, cache):
    """(precision, the reference's case, what the engine gave, what it said)."""
    folder = tmp_path_factory.mktemp(request.param)
    data = reference.arrays("forward_tiny")
    times = sorted(map(int, data["timesteps"]), reverse=True)
    export_bundle(reference.read("tiny"), folder / "b", timesteps=times, precision=request.param)
    np.savez(folder / "in.npz", noisy=data["noisy"], condition=data["condition"],
             timesteps=data["timesteps"][::2])
    on_cpu(cache, "engine", str(folder / "b"), str(folder))
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
    assert "batch 64" in told["batch"] and "make the batch smaller" in told["batch"]
    assert told["other"].startswith("onnxruntime could not run a step at 8x8 on emulated sm_80")


def test_the_command_line(engine_run, tmp_path, cache):
    from PIL import Image

    Image.fromarray(np.full((4, 4, 3), 90, np.uint8)).save(tmp_path / "in.png")
    done = subprocess.run(
        [sys.executable, "-m", "bidiff_deploy", "upscale", str(engine_run.bundle),
         str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--backend",
         "onnxruntime-cuda", "--steps", "1", "--quiet"], text=True, capture_output=True,
        env={**os.environ, **emulated_cuda.variables(cache, BIDIFF_CUDA_ON_CPU="1",
                                                     BIDIFF_EMULATED_GPUS="80")})
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out.png").size == (16, 16)


# -- what can go wrong ----------------------------------------------------------------------


def sentence(bundle, cache, **changed):
    """What opening ``bundle`` fails with, on the stand-in's driver but for a provider of ONNX
    Runtime's own."""
    code = ("import sys\nfrom bidiff_deploy import EngineError, load_bundle\ntry:\n"
            "    load_bundle(sys.argv[1], backend='onnxruntime-cuda')\n"
            "except EngineError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], text=True,
                          capture_output=True, env={**os.environ, **emulated_cuda.variables(
                              cache, **{"BIDIFF_CUDA_ON_CPU": "", **changed})})
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("changed, says", [
    ({"BIDIFF_LIBCUDA": "/nonexistent/libcuda.so.1"}, "driver can not be opened.*install it"),
    ({"BIDIFF_EMULATED_GPUS": ""}, "sees no GPU"),
    ({"BIDIFF_EMULATED_GPUS": "61", "BIDIFF_CUDA_ON_CPU": "1"}, "compute capability 6.1.*7.5"),
    ({"BIDIFF_OPS_LIBRARY": "/nonexistent/libbidiff_ops.so"}, "can not be loaded.*rebuild it"),
], ids=lambda value: "")
def test_gpus_that_are_not_there(reference, cache, changed, says):
    import re

    assert re.search(says, sentence(reference.bundle("tiny", [999, 400, 0]), cache, **changed))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(),
                    reason="this onnxruntime is built with CUDA")
def test_an_onnxruntime_for_cpus(reference, cache):
    told = sentence(reference.bundle("tiny", [999, 400, 0]), cache)
    assert "built without CUDA" in told and "bidiff-deploy[gpu]" in told


def test_libraries_of_the_provider_that_are_missing(tmp_path):
    """A provider linked to a library that is then taken away, another that stays."""
    compiler = shutil.which("cc") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C compiler")
    capi = tmp_path / "capi"
    capi.mkdir()
    for name, call in (("cuhere", 1), ("cugone", 2)):
        (tmp_path / f"{name}.c").write_text(f"int {name}(void) {{ return {call}; }}")
        subprocess.run([compiler, "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so.13", "-o",
                        tmp_path / f"lib{name}.so", tmp_path / f"{name}.c"], check=True)
    (tmp_path / "p.c").write_text("int cuhere(void); int cugone(void);"
                                  "int both(void) { return cuhere() + cugone(); }")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,--no-as-needed", "-o",
                    capi / "libonnxruntime_providers_cuda.so", tmp_path / "p.c", f"-L{tmp_path}",
                    "-lcuhere", "-lcugone"], check=True)
    fake = SimpleNamespace(__file__=str(tmp_path / "__init__.py"), __version__="9.9",
                           get_available_providers=lambda: [cuda_provider.PROVIDER])
    assert cuda_provider.missing_libraries(fake) == ["libcuhere.so.13", "libcugone.so.13"]
    with pytest.raises(EngineError, match="needs libcuhere.so.13, libcugone.so.13, which can not "
                                          "be loaded; pip install"):
        cuda_provider.require_provider(fake)
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"\x7fELF\x02\x01 no more")
    assert cuda_provider.missing_libraries(fake) == []


@pytest.mark.parametrize("options, says", [
    ({"device": 0}, "backend onnxruntime does not use"),
    ({"device": -1, "backend": "onnxruntime-cuda"}, "device=-1 must be the number of a GPU"),
    ({"device": True, "backend": "onnxruntime-cuda"}, "device=True must be"),
])
def test_devices_that_are_none(reference, options, says):
    with pytest.raises(EngineError, match=says):
        load_bundle(reference.bundle("tiny", [0]), **options)


# -- CUDA graphs -----------------------------------------------------------------------------


class FakeSession:
    """Notes which buffers and which graph number a run has."""

    def __init__(self) -> None:
        self.runs, self.released = [], []

    def io_binding(self):
        bound = {}
        return SimpleNamespace(
            bound=bound, bind_ortvalue_input=lambda name, value: bound.update({name: value}),
            bind_ortvalue_output=lambda name, value: bound.update({f"-> {name}": value}),
            bind_input=lambda name, device, number, kind, shape, pointer: bound.update(
                {name: (device, number, shape, pointer)}))

    def run_with_iobinding(self, binding, options):
        self.runs.append((binding.bound, int(options.get_run_config_entry("gpu_graph_id"))))

    def release_captured_graph(self, number):
        self.released.append(number)


def test_one_graph_for_each_direction_at_fixed_addresses():
    session, target = FakeSession(), cuda_provider.Target("cpu", 0, "CPUExecutionProvider", {})
    step = DeviceStep(ort, session, target, (1, 3, 4, 4), {"a": (0, (2,)), "b": (64, (3, 2))}, 128,
                      (7, 8))
    image = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    row = np.arange(128, dtype=np.float32)
    step.load(image, image)
    for _ in range(4):
        step.run(row)
    step.load(image, image)
    step.run(row)
    assert [number for _, number in session.runs] == [NO_GRAPH, 8, 7, 8, 7]
    first, second = (bound for bound, _ in session.runs[:2])
    assert [bound for bound, _ in session.runs] == [first, second, first, second, first]
    assert first["noisy"] is second["-> latent"] and second["noisy"] is first["-> latent"]
    assert first["noisy"] is not second["noisy"]
    for name in ("condition", "-> prediction", "a", "b"):
        assert first[name] is second[name] or first[name] == second[name]
    assert first["b"][3] - first["a"][3] == 256 and first["b"][2] == [3, 2]
    np.testing.assert_array_equal(first["noisy"].numpy(), image)
    step.release()
    assert session.released == [7, 8]


def test_settings_of_the_provider(monkeypatch):
    monkeypatch.delenv("BIDIFF_CUDA_ON_CPU", raising=False)
    target = cuda_provider.cuda_target(3, True)
    assert (target.device, target.device_id, target.provider) == ("cuda", 3, "CUDAExecutionProvider")
    assert target.options["device_id"] == "3" and target.options["enable_cuda_graph"] == "1"
    assert target.options["use_tf32"] == "0"
    assert cuda_provider.cuda_target(0, False).options["enable_cuda_graph"] == "0"
