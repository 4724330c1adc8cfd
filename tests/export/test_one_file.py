"""export-onnx: one file that other runtimes run, with the images that our engine makes."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.record import Checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.errors import OutputError, UsageError
from bidiff_deploy.export.one_file import NOISE_SIDE, export_one_file, one_file_model
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.models.open import checkpoint_file
from bidiff_deploy.sampling.noise import gaussian_noise
from support import run_once
from support.reference_cases import snr

PHOTOS = Path(__file__).parents[2] / "training" / "photos"
MODELS = ("diffusion-x2", "photo-x2")
WEB = """
const ort = require('onnxruntime-web'), fs = require('fs');
const [model, shape, input, output] = process.argv.slice(1);
ort.env.wasm.numThreads = 1;
(async () => {
  const session = await ort.InferenceSession.create(fs.readFileSync(model));
  const data = new Float32Array(new Uint8Array(fs.readFileSync(input)).buffer);
  const found = await session.run({input: new ort.Tensor('float32', data, JSON.parse(shape))});
  fs.writeFileSync(output, new Uint8Array(found.output.data.buffer));
  console.log(JSON.stringify(found.output.dims));
})();
"""
RTX = """
import ctypes, glob, sys
for name in ("libtensorrt_rtx.so*", "libtensorrt_onnxparser_rtx.so*"):
    for path in glob.glob(f"{sys.argv[1]}/{name}"):
        ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
import tensorrt_rtx_bindings as trt
logger = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(logger).create_network(
    1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse(open(sys.argv[2], "rb").read()):
    sys.exit("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
print(network.get_output(0).name, network.num_layers)
"""


@functools.cache
def photo() -> np.ndarray:
    return read_image(PHOTOS / "chelsea.png").pixels


def crop(height: int, width: int) -> np.ndarray:
    """Part of a photo, float32 (1, 3, height, width)."""
    pixels = photo()[60:60 + height, 90:90 + width]
    return np.ascontiguousarray((pixels / np.float32(255)).transpose(2, 0, 1)[None])


@functools.cache
def checkpoint(name: str) -> Checkpoint:
    return read_checkpoint(checkpoint_file(name))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Callable[..., Path]:
    """``file(name, **options)``: the exported file of a shipped model."""
    folder = tmp_path_factory.mktemp("onnx")

    def exported(name: str, **options: object) -> Path:
        path = folder / f"{name}{''.join(sorted(options))}.onnx"
        if not path.exists():
            export_one_file(checkpoint(name), path, **options)
        return path
    return exported


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """``engine(name)(x)``: what our engine makes of an image with the file's noise."""
    folder, opened = tmp_path_factory.mktemp("bundles"), {}

    def run(name: str, x: np.ndarray) -> np.ndarray:
        if name not in opened:
            found = checkpoint(name)
            export_bundle(found, folder / name, timesteps=choose_timesteps(found))
            opened[name] = load_bundle(folder / name, threads=1)
        if name == "photo-x2":
            return np.clip(opened[name].enlarge(x), 0, 1)
        condition = np.stack([to_condition(one.transpose(1, 2, 0), 2) for one in x])
        return opened[name].sample(condition, noise=field(condition.shape))
    yield run
    for found in opened.values():
        found.close()


def field(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """The file's noise, for an image of ``shape`` padded to multiples of 8."""
    rows, columns = (np.arange(-(-side // 8) * 8) % NOISE_SIDE for side in shape[2:])
    tile = gaussian_noise((1, 3, NOISE_SIDE, NOISE_SIDE), seed)
    return np.repeat(tile[:, :, rows][:, :, :, columns], shape[0], axis=0)


session_of = functools.cache(run_once.session)


def in_onnxruntime(path: Path, *inputs: np.ndarray) -> np.ndarray:
    session = session_of(path)
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs)))[0]


def in_reference(path: Path, x: np.ndarray) -> np.ndarray:
    return onnx.reference.ReferenceEvaluator(str(path)).run(None, {"input": x})[0]


def in_openvino(path: Path, x: np.ndarray) -> np.ndarray:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(x)[0]


def in_web(path: Path, x: np.ndarray) -> np.ndarray:
    """In onnxruntime-web under node, which finds it in NODE_PATH."""
    if not shutil.which("node") or subprocess.run(
            ["node", "-e", "require.resolve('onnxruntime-web')"], capture_output=True).returncode:
        pytest.skip("onnxruntime-web is not installed where node finds it (NODE_PATH)")
    given, found = path.with_suffix(".in"), path.with_suffix(".out")
    x.tofile(given)
    done = subprocess.run(["node", "-e", WEB, str(path), json.dumps(x.shape), given, found],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.fromfile(found, np.float32).reshape(json.loads(done.stdout))


RUNTIMES = {"onnxruntime": in_onnxruntime, "onnx.reference": in_reference,
            "openvino": in_openvino, "onnxruntime-web": in_web}


def assert_alike(expected: np.ndarray, found: np.ndarray, bound: float = 60,
                 share: float = 1e-4) -> None:
    """``bound`` dB PSNR, and at most one level of 8 bits apart; in a ``share`` of the values a sign
    flipped, which moves them further."""
    assert found.shape == expected.shape
    error = np.mean((found.astype(np.float64) - expected) ** 2)
    assert error < 10 ** (-bound / 10), f"{-10 * np.log10(error):.1f} dB"
    levels = np.abs(np.rint(found * 255.0) - np.rint(expected * 255.0))
    assert np.count_nonzero(levels > 1) <= share * levels.size, f"up to {levels.max():.0f} levels"


# -- agreement with our engine --------------------------------------------------------------------
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_makes_our_engines_images(file, engine, runtime, name):
    x = np.concatenate([crop(21, 34), crop(60, 34)[:, :, 39:]])
    assert_alike(engine(name, x), RUNTIMES[runtime](file(name), x))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (64, 68), (70, 20)])
def test_any_size(file, engine, name, size):
    """Smaller than the padding, multiples of it, and larger than the field of noise."""
    x = crop(*size)
    assert_alike(engine(name, x), in_onnxruntime(file(name), x))


@pytest.mark.parametrize("name", MODELS)
def test_each_image_of_a_batch_is_what_it_is_alone(file, name):
    x = np.concatenate([crop(12, 15), crop(40, 15)[:, :, 28:]])
    together = in_onnxruntime(file(name), x)
    for index in range(2):
        assert_alike(in_onnxruntime(file(name), x[index:index + 1]), together[index:index + 1])


@pytest.mark.parametrize("name", MODELS)
def test_plain_weights_are_floats_and_make_the_same_image(file, engine, name):
    x, plain = crop(21, 34), file(name, plain=True)
    assert_alike(engine(name, x), in_onnxruntime(plain, x))
    # A float has 32 bits for each bit; nodes that decode bits take a little of the difference.
    words = sum(weight.words.nbytes for weight in checkpoint(name).binary.values())
    assert plain.stat().st_size - file(name).stat().st_size > 0.95 * 31 * words
    assert "Mod" not in {node.op_type for node in onnx.load(plain).graph.node
                         if node.name.startswith("network/")}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plain", [False, True])
def test_half(file, engine, name, plain):
    x = crop(21, 34)
    found = in_onnxruntime(file(name, half=True, **({"plain": True} if plain else {})),
                           x.astype(np.float16))
    assert found.dtype == np.float16
    assert_alike(engine(name, x), found.astype(np.float32), bound=50, share=0.02)


def test_another_seed_is_other_noise(file):
    model = one_file_model(checkpoint("diffusion-x2"), seed=7)
    found = next(tensor for tensor in model.graph.initializer if tensor.name == "noise_field")
    assert np.array_equal(numpy_helper.to_array(found),
                          gaussian_noise((1, 3, NOISE_SIDE, NOISE_SIDE), 7))


# -- the noise predictor of one step --------------------------------------------------------------
def predictions(reference, name: str, step: int, tmp_path: Path, size: tuple[int, int],
                **options: object) -> tuple[np.ndarray, np.ndarray]:
    """Of our engine, and of the file in ONNX Runtime, for a batch of two."""
    path = tmp_path / "step.onnx"
    export_one_file(reference.read(name), path, step=step, **options)
    rng = np.random.default_rng(1)
    condition = rng.random((2, 3, *size), np.float32)
    noisy = rng.standard_normal(condition.shape, np.float32)
    with load_bundle(reference.bundle(name, [step]), threads=1) as opened:
        expected = opened.predict(noisy, condition, step)
    kind = np.float16 if options.get("half") else np.float32
    return expected, in_onnxruntime(path, noisy.astype(kind), condition.astype(kind))


@pytest.mark.parametrize("size", [(8, 8), (16, 12), (40, 24)])
def test_a_step_of_a_loop(reference, tmp_path, size):
    """Attention over fewer positions than its blocks, and over a number they do not divide."""
    expected, found = predictions(reference, "tiny", 700, tmp_path, size)
    assert snr(expected, found) > 60


def test_a_step_in_half(reference, tmp_path):
    expected, found = predictions(reference, "tiny", 700, tmp_path, (16, 16), half=True)
    assert found.dtype == np.float16 and snr(expected, found) > 8  # signs flip from layer to layer


@pytest.mark.parametrize("binarizer", ["reactnet", "xnor", "dab", "bbcu", "none"])
def test_every_binarizer(tmp_path, binarizer):
    pytest.importorskip("torch", reason="torch is not installed")
    from support import binarizer_setup

    found = binarizer_setup.checkpoint(binarizer_setup.network(binarizer_setup.small(binarizer)))
    export_one_file(found, tmp_path / "step.onnx", step=10)
    export_bundle(found, tmp_path / "bundle", timesteps=[10])
    noisy, condition = np.random.default_rng(2).random((2, 1, 3, 12, 8), np.float32)
    with load_bundle(tmp_path / "bundle", threads=1) as opened:
        expected = opened.predict(noisy, condition, 10)
    assert snr(expected, in_onnxruntime(tmp_path / "step.onnx", noisy, condition)) > 60


# -- what other programs require ------------------------------------------------------------------
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("half", [False, True])
def test_standard_operators_alone_and_no_functions(file, name, half):
    model = onnx.load(file(name, **({"half": True} if half else {})))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert not model.functions and all(node.domain == "" for node in model.graph.node)
    assert not {"BitShift", "BitwiseAnd", "Loop", "If"} & {
        node.op_type for node in model.graph.node}
    words = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer
             if tensor.name.endswith("/words")]
    assert len(words) > 10 and all(word.dtype == np.int32 and word.min() >= 0 for word in words)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("half", [False, True])
def test_names_types_and_sizes_as_chainner_and_vs_mlrt_read_them(file, name, half):
    """chaiNNer infers the scale at 16x16 in strict mode; vs-mlrt sets the size of the input, and
    reads that of the output from the session."""
    model = onnx.load(file(name, **({"half": True} if half else {})))
    (given,), (made,) = model.graph.input, model.graph.output
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    assert (given.name, made.name) == ("input", "output")
    assert [value.type.tensor_type.elem_type for value in (given, made)] == [kind, kind]
    for dim, size in zip(given.type.tensor_type.shape.dim, (1, 3, 16, 16)):
        dim.dim_value = size
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shape = model.graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim][1:] == [3, 32, 32]
    session = run_once.session(model)
    assert session.get_outputs()[0].shape[1:] == [3, 32, 32]


@pytest.mark.nvidia
@pytest.mark.parametrize("options", [{}, {"half": True}, {"plain": True}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_tensorrt_for_rtx_parses_it(file, name, options):
    libraries = pytest.importorskip("tensorrt_rtx_libs",
                                    reason="tensorrt-rtx-cu13-libs is not installed")
    done = subprocess.run([sys.executable, "-c", RTX, libraries.__path__[0],
                           str(file(name, **options))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("output ")


# -- the command ----------------------------------------------------------------------------------
def run(*arguments: object) -> object:
    return CliRunner().invoke(group, ["export-onnx", *map(str, arguments)])


def test_the_command_says_what_the_file_holds(tmp_path):
    packed, out = tmp_path / "packed.safetensors", tmp_path / "x2.onnx"
    write_packed(packed, checkpoint("diffusion-x2"))
    done = run(packed, "-o", out, "--seed", 3, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["file"] == str(out) and summary["bytes"] == out.stat().st_size
    assert (summary["scale"], summary["precision"], summary["timestep"]) == (2, "float32", 40)
    assert summary["noise"] == {"seed": 3, "side": NOISE_SIDE}
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(out).metadata_props}
    assert metadata == {key: summary[key] for key in metadata}
    assert metadata["source"]["name"] == "packed.safetensors"
    before = out.read_bytes()
    again = run(packed, "-o", out)
    assert again.exit_code == 1 and "--overwrite" in again.output
    assert out.read_bytes() == before
    done = run(packed, "-o", out, "--overwrite", "--precision", "half", "--plain")
    assert done.exit_code == 0 and done.output == (
        f"{out}: x2, float16, {out.stat().st_size / 1e6:.2f} MB\n")


def test_the_same_checkpoint_makes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        export_one_file(checkpoint("photo-x2"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_of_several_steps_needs_one_step(reference, tmp_path):
    given = (reference.checkpoint("tiny"), "--options", reference.options("tiny"))
    done = run(*given, "-o", tmp_path / "a.onnx")
    assert done.exit_code == 1 and "samples in 50 steps" in done.output
    assert "give --step T" in done.output and not (tmp_path / "a.onnx").exists()
    done = run(*given, "-o", tmp_path / "a.onnx", "--step", 700, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["size_multiple"] == 2


@pytest.mark.parametrize("arguments, words", [
    (["photo-x2", "--step", "40"], "leave --step out"),
    (["diffusion-x2", "--step", "2000"], "2000"),
    ([PHOTOS], "is a folder; give the checkpoint"),
    (["absent.safetensors"], "absent.safetensors")])
def test_mistakes_are_one_sentence(tmp_path, arguments, words):
    done = run(*arguments, "-o", tmp_path / "a.onnx")
    assert done.exit_code == 1 and done.output.startswith("error: ") and words in done.output
    assert done.output.count("\n") == 1 and not any(tmp_path.iterdir())


def test_refusals(tmp_path):
    import dataclasses

    found = checkpoint("diffusion-x2")
    with pytest.raises(UsageError, match="give --scale"):
        one_file_model(dataclasses.replace(found, scale=None))
    with pytest.raises(UsageError, match="from pure noise"):
        one_file_model(dataclasses.replace(found, sampling={"timesteps": [40]}))
    with pytest.raises(OutputError, match="folder does not exist"):
        export_one_file(found, tmp_path / "absent" / "a.onnx")
