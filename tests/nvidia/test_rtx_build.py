"""Backend tensorrt-rtx with NVIDIA's builder: plans, what is refused, the layers it makes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from bidiff_deploy import EngineError, UsageError
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines.tensorrt.api import open_tensorrt
from bidiff_deploy.engines.tensorrt.build.builder import build_plan
from bidiff_deploy.engines.tensorrt.build.network import parse
from bidiff_deploy.engines.tensorrt.plans import Plan, check, read_plans
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.run.context import OpenPlan
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.graphs.lowering import TensorRtGraph, lower_for_tensorrt
from bidiff_deploy.models.open import checkpoint_file
from support import tensorrt_names
from tools import tensorrt_layers

pytestmark = pytest.mark.nvidia
ALL = (75, 86, 89, 120)
SIDE = Profile((1, 256, 256), (1, 256, 256), (1, 256, 256))
LIMIT_MB, LIMIT_CPU_SECONDS = 2000, 60


@pytest.fixture(scope="module")
def published(reference) -> Path:
    """The published network's shapes, with float16 maps."""
    return reference.bundle("full", [1999, 999], precision="half")


@pytest.fixture(scope="module")
def shipped(shared):
    """A function: the shipped model at one time step."""
    def made(precision: str) -> Path:
        def export(path: Path) -> None:
            export_bundle(read_checkpoint(checkpoint_file("diffusion-x2")), path, timesteps=(999,),
                          precision=precision)

        return shared(f"diffusion-x2-{precision}.bundle", export)

    return made


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bidiff_deploy", *map(str, words)], text=True,
                          capture_output=True)


@pytest.mark.parametrize("int8", [False, True], ids=["half", "int8"])
def test_the_published_network_is_built_for_every_generation(published, tmp_path, int8):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command("build", published, "--backend", "tensorrt-rtx", "--size", "256x256",
                   "--compute-capability", "75,86,89,120", "-o", tmp_path, "--json",
                   *["--int8"] * int8)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < LIMIT_CPU_SECONDS
    assert after.ru_maxrss >> 10 < LIMIT_MB
    said = json.loads(done.stdout)
    plan, = read_plans(tmp_path)
    content = plan.path.read_bytes()
    assert plan.info.target.architectures == ALL and plan.info.target.gpu is None
    assert plan.info.variant == ("rtx-int8" if int8 else "rtx")
    assert said["sha256"] == plan.info.sha256 == hashlib.sha256(content).hexdigest()
    assert plan.info.bytes == len(content) > 10_000_000


@pytest.mark.parametrize("precision, options", [
    ("half", []), ("exact", []), ("exact", ["--int8"]),
    ("half", ["--min", "64x64", "--opt", "128x128", "--max", "256x256"])],
    ids=["half", "float32", "int8", "shapes"])
def test_the_shipped_model_is_built(shipped, tmp_path, precision, options):
    size = [] if "--min" in options else ["--size", "128x128"]
    done = command("build", shipped(precision), "--backend", "tensorrt-rtx", "-o", tmp_path,
                   *size, *options)
    assert done.returncode == 0, done.stderr
    plan, = read_plans(tmp_path)
    # NVIDIA's compiler has no float32 matrix products for Turing.
    assert plan.info.target.architectures == (ALL if precision == "half" else ALL[1:])
    assert ("sm_75" in done.stderr) == (precision == "exact")


def test_float32_for_turing_is_refused(shipped, tmp_path):
    with pytest.raises(UsageError, match="no float32 matrices on sm_75.*--precision half"):
        build_plan(open_bundle(str(shipped("exact"))), SIDE, variant="rtx", folder=tmp_path,
                   capabilities=(75,), quiet=True)
    assert not list(tmp_path.iterdir())


def test_layers_and_bytes_of_the_published_network(published):
    """From 383 layers that move 3514 MB, when norms were written in four reductions."""
    before, after, (one, two) = tensorrt_layers.compare(str(published), (256, 256), int8=False)
    assert len(after.layers) <= 200
    assert after.moved <= 0.6 * 3514e6
    assert one == two
    assert len(before.layers) > 1.5 * len(after.layers)  # both are read from the log
    assert "| **all** |" in tensorrt_layers.table(before, after)


def test_convolutions_of_an_int8_bundle_are_compiled_as_int8(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (tmp_path / "low").mkdir()
    Image.fromarray(pixels).save(tmp_path / "low/a.png")
    done = command("export", "diffusion-x2", "-o", tmp_path / "b", "--precision", "int8",
                   "--calibration", tmp_path / "low")
    assert done.returncode == 0, done.stderr
    lists = tensorrt_layers.compare(str(tmp_path / "b"), (64, 64), int8=False)[:2]
    for built in lists:
        kinds = [layer.kind for layer in built.layers]
        assert sum(kind.startswith("convolution, int8") for kind in kinds) == 8


@pytest.fixture(scope="module")
def small_plan(reference, tmp_path_factory) -> Plan:
    bundle = open_bundle(str(reference.bundle("tiny", [999, 400, 0], precision="half")))
    shape = (1, 16, 16)
    return build_plan(bundle, Profile(shape, shape, shape), variant="rtx", quiet=True,
                      folder=tmp_path_factory.mktemp("plans"), capabilities=(89,))


def test_without_a_gpu_a_plan_is_refused_in_a_sentence(small_plan):
    content = small_plan.path.read_bytes()
    with pytest.raises(EngineError, match="could not be opened"):
        OpenPlan(open_tensorrt(rtx=True), small_plan, content, {})


def test_a_plan_runs_only_on_what_it_was_compiled_for(small_plan):
    info = small_plan.info
    here = dataclasses.replace(info.target, gpu="NVIDIA T", architectures=(89,), driver="13.0")
    assert check(small_plan, here, Path("b")) == small_plan.path.read_bytes()
    there = dataclasses.replace(here, architectures=(120,))
    with pytest.raises(EngineError, match=r"was built for sm_89, but this GPU is NVIDIA T "
                                          r"\(sm_120\).*--compute-capability 89,120"):
        check(small_plan, there, Path("b"))
    newer = dataclasses.replace(here, tensorrt="1.8.0.1")
    with pytest.raises(EngineError, match="built by TensorRT-RTX 1.7.*but 1.8.0.1 is installed"):
        check(small_plan, newer, Path("b"))


def test_a_damaged_plan_is_refused_before_it_is_read(small_plan, tmp_path):
    plan = dataclasses.replace(small_plan, path=tmp_path / small_plan.path.name)
    content = bytearray(small_plan.path.read_bytes())
    content[1000] ^= 1
    plan.path.write_bytes(content)
    target = dataclasses.replace(plan.info.target, gpu="G", driver="13.0")
    with pytest.raises(EngineError, match="is damaged"):
        check(plan, target, Path("b"))


def graph_of(*nodes: onnx.NodeProto) -> TensorRtGraph:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 8, 8])
              for name in "xy"]
    model = helper.make_model(helper.make_graph(list(nodes), "g", values[:1], values[1:]),
                              ir_version=9, opset_imports=[helper.make_opsetid("", 19),
                                                           helper.make_opsetid("bidiff", 2)])
    return TensorRtGraph(model.SerializeToString(), {}, ("y",), 19)


@pytest.mark.parametrize("node, sentence", [
    (helper.make_node("BinaryConv", ["x"], ["y"], domain="bidiff", name="e1"),
     "TensorRT-RTX 1.7.* runs no plugins, but the graph has the node BinaryConv e1"),
    (helper.make_node("NoSuch", ["x"], ["y"], name="n"), "refuses the graph.*NoSuch"),
    (helper.make_node("Conv", ["x", "gone"], ["y"], name="c"), "refuses the graph")],
    ids=["plugin", "unknown", "incomplete"])
def test_foreign_graphs_are_refused_in_a_sentence(node, sentence):
    api = open_tensorrt(rtx=True)
    with pytest.raises(EngineError, match=sentence):
        parse(api, api.builder(), graph_of(node), None)


def test_our_graphs_are_parsed_in_every_form(reference):
    for precision in ("exact", "half"):
        graphs = StepGraphs(open_bundle(str(reference.bundle("small", [1960, 400, 0], precision))))
        for variant in ("dense", "dense-int8"):
            for shape in (None, (1, 16, 16)):
                for opset in (17, 19):
                    graph = lower_for_tensorrt(graphs, variant=variant, shape=shape, opset=opset,
                                               float16=precision == "half")
                    api = open_tensorrt(rtx=True)
                    found = parse(api, api.builder(), graph, None)
                    assert found.network.num_inputs == len(graph.inputs)


def test_the_committed_names_are_those_of_the_bindings():
    """The stand-in on which the rest is run has them, and no others."""
    trt, table = open_tensorrt(rtx=True).trt, tensorrt_names.tables()[tensorrt_names.RTX]
    assert trt.__version__ == table["version"]
    assert [name for name in dir(trt) if name[0].isupper()] == [
        name for name in table["module"] if name[0].isupper()]
    for path, names in table["classes"].items():
        found = functools.reduce(getattr, path.split("."), trt)
        members = getattr(found, "__members__", None)
        assert names == ([name for name in dir(found) if not name.startswith("_")]
                         if members is None else {key: int(one) for key, one in members.items()})
