"""``bidiff-deploy build`` with the stand-in for TensorRT: what a plan is built of in every version,
the timing cache, progress, Ctrl-C, each failure in a sentence; and ``--graph`` without TensorRT."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import bbcu_networks
import numpy as np
import onnx
import pytest
import tensorrt_names
import tensorrt_stand_in
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.bundle import manifest_digest, open_bundle
from bidiff_deploy.cli import group
from bidiff_deploy.engines.tensorrt import (builder as tensorrt_builder, graph as tensorrt_graph,
                                            network as tensorrt_network, plans as tensorrt_plans,
                                            timing_cache as tensorrt_cache)
from bidiff_deploy.engines.cuda_library import device_info
from bidiff_deploy.engines.tensorrt.plans import Profile
from bidiff_deploy.engines.tensorrt.progress import BuildProgress
from bidiff_deploy.errors import EngineError, UsageError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.progress import Progress

VERSIONS = tensorrt_names.VERSIONS
OLD, NEW = "8.5.3", "11.4.0"


@pytest.fixture(scope="module")
def tiny(reference) -> Path:
    return reference.bundle("tiny", [999, 400, 0])


@pytest.fixture(scope="module")
def halved(reference, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("half") / "half.bundle"
    export_bundle(reference.read("tiny"), path, timesteps=(999, 400, 0), precision="half")
    return path


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Folder of plans that bundles look in."""
    monkeypatch.setenv("BIDIFF_TENSORRT_PLANS", str(tmp_path / "plans"))
    return tmp_path / "plans"


def run(*arguments, code: int = 0):
    """(stdout, stderr) of the command."""
    done = CliRunner().invoke(group, ["build", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def refusal(*arguments) -> str:
    """The sentence that the command ends with."""
    _, err = run(*arguments, code=1)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0].removeprefix("error: ")


def how_built(place: Path, name: str) -> dict:
    header, _ = tensorrt_stand_in.read_plan((place / name).read_bytes())
    return header


# -- what is built ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_and_its_sidecar(version, tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, version) as trt:
        out, _ = run(tiny, "--size", "64x32", "--batch", 2, "--workspace", "1GiB", "--json")
        gpu = device_info(0)
    told = json.loads(out)
    name = "plugin-float32-2x64x32.plan"
    assert told["plan"] == str(place / name)
    header = how_built(place, name)
    # Strongly typed from 10 on; before, float32 unless a flag says otherwise. Never TF32.
    assert header["flags"] == [] and header["strongly_typed"] == (version != OLD)
    assert not header["dynamic"] and header["workspace"] == 1 << 30
    assert header["profiles"][0]["noisy"] == [[2, 3, 64, 32]] * 3
    plan, = tensorrt_plans.read_plans(place)
    assert {"plan": told["plan"], "notes": told["notes"],
            **json.loads(json.dumps(plan.info.to_dict()))} == told
    info = plan.info
    assert (info.tensorrt, info.variant, info.precision) == (trt.__version__, "plugin", "float32")
    assert (info.gpu, info.architecture, info.driver) == (gpu.name, gpu.architecture, gpu.driver)
    assert info.bundle == manifest_digest(open_bundle(tiny).manifest) and info.layout is not None
    assert info.bytes == (place / name).stat().st_size and info.workspace == 1 << 30
    assert info.profile == Profile((2, 64, 32), (2, 64, 32), (2, 64, 32)) and info.opset <= 17
    assert "built without kernels of CUBLAS" in " ".join(told["notes"]) or version != OLD


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options, variant", [
    ((), "plugin"), (("--no-plugin",), "dense"), (("--no-plugin", "--int8"), "dense-int8"),
    (("--backend", "tensorrt-dense-int8"), "dense-int8")])
def test_precision_is_the_graphs_in_every_version(version, options, variant, halved, place,
                                                  tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, version):
        run(halved, "--size", "32x32", "--quiet", *options)
    name = f"{variant}-float16-1x32x32.plan"
    header, model = tensorrt_stand_in.read_plan((place / name).read_bytes())
    types = tensorrt_network.value_types(model)
    assert TensorProto.FLOAT16 in types.values()
    # From 10 on parsers read the opset in which a quantised value can be float16.
    later = variant == "dense-int8" and version != OLD
    assert model.opset_import[0].version == (19 if later else 17)
    assert {types[name] for node in model.graph.node if node.op_type == "DequantizeLinear"
            for name in node.output} == ({TensorProto.FLOAT16 if later else TensorProto.FLOAT}
                                         if variant == "dense-int8" else set())
    int8 = ["INT8"] if variant == "dense-int8" else []
    if version != OLD:
        assert header["flags"] == [] and header["precisions"] == {}
        return
    assert header["flags"] == ["FP16", *int8, "OBEY_PRECISION_CONSTRAINTS"]
    words = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF"}
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear"
                 for name in node.output}
    expected = {}
    for node in model.graph.node:
        kind = words.get(types[node.output[0]])
        if kind is None or node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear", "Shape"):
            continue
        expected.update({f"{node.name}:{index}": kind for index in range(len(node.output))})
        if not node.domain and not quantised & set(node.input):
            expected[node.name] = kind
    assert header["precisions"] == expected and {"FLOAT", "HALF"} == set(expected.values())


def test_a_plan_for_many_shapes(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path):
        run(tiny, "--batch", 3)
        run(tiny, "--min", "8x16", "--opt", "2x16x32", "--max", "4x32x32", "--no-plugin",
            "--optimization-level", 5)
    header = how_built(place, "plugin-float32-3x64x64-3x256x256-3x512x512.plan")
    assert header["dynamic"] and header["level"] == 3
    header = how_built(place, "dense-float32-1x8x16-2x16x32-4x32x32.plan")
    profile, = header["profiles"]
    assert profile["condition"] == [[1, 3, 8, 16], [2, 3, 16, 32], [4, 3, 32, 32]]
    assert header["level"] == 5
    # What is the step's own has one shape.
    assert all(low == middle == high for name, (low, middle, high) in profile.items()
               if name not in ("noisy", "condition"))


def test_another_gpu_and_another_folder(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path):
        run(tiny, "--size", "32x32", "--device", 1, "--output", tmp_path / "mine")
        second = device_info(1)
    header = how_built(tmp_path / "mine", "plugin-float32-1x32x32.plan")
    assert header["architecture"] == second.architecture and not place.exists()
    plan, = tensorrt_plans.read_plans(tmp_path / "mine")
    assert (plan.info.gpu, plan.info.architecture) == (second.name, second.architecture)


def test_a_plan_that_is_there_is_kept_unless_told_otherwise(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path):
        run(tiny, "--size", "32x32")
        before = (place / "plugin-float32-1x32x32.plan").stat().st_mtime_ns
        assert "--overwrite" in refusal(tiny, "--size", "32x32")
        assert (place / "plugin-float32-1x32x32.plan").stat().st_mtime_ns == before
        run(tiny, "--size", "32x32", "--overwrite")
    assert (place / "plugin-float32-1x32x32.plan").stat().st_mtime_ns != before


# -- the timing cache ---------------------------------------------------------------------------


def test_the_second_build_knows_the_times_of_the_first(tiny, place, tmp_path):
    name = "dense-float32-1x32x32.plan"
    with tensorrt_stand_in.in_process(tmp_path):
        file = tensorrt_cache.cache_file("10.3.0", device_info(0))
        timed = []
        for damage in (None, None, b"damaged", b"", b"x" * (tensorrt_cache.MAX_BYTES + 1)):
            if damage is not None:
                file.write_bytes(damage)
            run(tiny, "--size", "32x32", "--no-plugin", "--overwrite")
            timed.append(how_built(place, name)["timed"])
        # Another version's cache, even under this one's name, is left alone.
        with tensorrt_stand_in.in_process(tmp_path, NEW):
            run(tiny, "--size", "32x32", "--no-plugin", "--overwrite")
            assert how_built(place, name)["timed"] == timed[0]
            shutil.copy(file, tensorrt_cache.cache_file("11.4.0.106", device_info(0)))
            run(tiny, "--size", "32x32", "--no-plugin", "--overwrite")
            assert how_built(place, name)["timed"] == timed[0]
    assert timed[0] > 0 and timed == [timed[0], 0, timed[0], timed[0], timed[0]]
    assert file.parent == tmp_path / "bidiff_deploy" and "10.3.0" in file.name


def test_a_cache_that_can_not_be_kept_is_a_remark(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path):
        cache = tmp_path / "bidiff_deploy"
        shutil.rmtree(cache, ignore_errors=True)
        cache.write_text("in the way")
        _, err = run(tiny, "--size", "32x32", "--no-plugin")
    assert "note: the timing cache is not kept: " in err
    assert len(tensorrt_plans.read_plans(place)) == 1


# -- failures -----------------------------------------------------------------------------------


def test_without_tensorrt_gpu_or_plugin(tiny, place, tmp_path, monkeypatch):
    with tensorrt_stand_in.in_process(tmp_path, BIDIFF_TENSORRT_PLUGIN=""):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "tensorrt", None)
            assert "not installed; pip install tensorrt" in refusal(tiny)
        assert "GPU" in refusal(tiny, "--device", 77)
        assert "no plugin for TensorRT 10.3; build it with bidiff-deploy build-plugin" in \
            refusal(tiny)
        assert not place.exists()
        run(tiny, "--no-plugin")  # which needs none


def test_a_plugin_that_is_loaded_but_not_for_this_tensorrt(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, "10.3.0", BIDIFF_STAND_IN_PLUGIN="8.5.3"):
        text = refusal(tiny, "--size", "32x32")
    assert "does not know its plugins: it was built for TensorRT 8.5.3; build it again" in text
    assert not list(place.glob("*")) and "Assertion" not in text


def test_a_graph_that_the_parser_does_not_take(tiny, place, tmp_path, monkeypatch):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["a"], name="a"),
                           helper.make_node("Unheard", ["a"], ["y"], name="it", domain="other")],
                          "g", [image], [helper.make_tensor_value_info("y", 1, [1])]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("other", 1)])
    monkeypatch.setattr(tensorrt_graph, "derive", lambda *_, **__: SimpleNamespace(
        model=model.SerializeToString(), inputs={"x": (1,)}, opset=17))
    with tensorrt_stand_in.in_process(tmp_path):
        text = refusal(tiny, "--size", "32x32", "--no-plugin")
    assert "TensorRT 10.3.0 does not take the graph at node 1 (Unheard it): " in text
    assert not list(place.glob("*"))


def test_a_build_that_fails_says_why(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, BIDIFF_STAND_IN_FAIL="build"):
        text = refusal(tiny, "--size", "32x32")
        assert "could not build a plan for 1x32x32 on" in text and "--verbose" in text
        assert "Could not find any implementation for node" in text
    with tensorrt_stand_in.in_process(tmp_path):
        assert "give more --workspace" in refusal(tiny, "--workspace", "1k")
    assert not list(place.glob("*"))


@pytest.mark.parametrize("shapes, remedy", [(("--size", "32x32"), "a smaller --size or --batch"),
                                            ((), "a smaller --max")])
def test_out_of_memory_names_remedies(shapes, remedy, tiny, place, tmp_path, monkeypatch):
    with tensorrt_stand_in.in_process(tmp_path) as trt:
        def build(self, network, config):
            self.logger.log(trt.ILogger.Severity.ERROR,
                            "Error Code 2: OutOfMemory (Requested size was 9 bytes.)")

        monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
        text = refusal(tiny, *shapes)
    assert f"has no memory left to build a plan for 1x" in text and remedy in text
    assert "Requested size was 9 bytes" in text and "close other programs" in text


def test_without_a_usable_driver_the_builder_says_so(tiny, place, tmp_path, monkeypatch):
    with tensorrt_stand_in.in_process(tmp_path) as trt:
        def refuse(logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")

        monkeypatch.setattr(trt, "Builder", refuse)
        assert "can not start its builder" in refusal(tiny, "--size", "32x32")


@pytest.mark.parametrize("level", [0, 4])
def test_optimization_levels_before_there_were_any(level, tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, OLD):
        assert "came with 8.6; leave out --optimization-level" in refusal(
            tiny, "--optimization-level", level)


# -- progress and Ctrl-C ------------------------------------------------------------------------


class Recorder:
    """In Progress's place."""

    def __init__(self, label, total, *, quiet):
        Recorder.made = self
        self.total, self.quiet, self.seen = total, quiet, []
        self.condition = threading.Condition()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, done, label=None):
        with self.condition:
            self.seen.append((done, label))
            self.condition.notify_all()

    def wait_for(self, what) -> bool:
        with self.condition:
            return self.condition.wait_for(lambda: any(map(what, self.seen)), timeout=20)


def test_progress_is_told_while_tensorrt_builds(tiny, place, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_builder.progress, "Progress", Recorder)
    monkeypatch.setattr(tensorrt_builder, "_TICK_SECONDS", 0.001)
    with tensorrt_stand_in.in_process(tmp_path) as trt:
        real = trt.Builder.build_serialized_network

        def build(self, network, config):
            monitor, told = config.progress_monitor, Recorder.made
            monitor.phase_start("Whole", None, 4)
            monitor.step_complete("Whole", 0)
            monitor.phase_start("Part", "Whole", 2)
            assert monitor.step_complete("Part", 0)
            assert told.wait_for(lambda seen: seen == (
                0.375, "building float32 plugin, Part"))
            monitor.phase_finish("Part")
            monitor.phase_finish("Whole")
            return real(self, network, config)

        monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
        run(tiny, "--size", "32x32")
    assert Recorder.made.total == 1
    shares = [done for done, _ in Recorder.made.seen]
    assert shares == sorted(shares) and max(shares) <= 0.99


def test_before_there_was_a_monitor_the_time_alone_is_told(tiny, place, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_builder.progress, "Progress", Recorder)
    with tensorrt_stand_in.in_process(tmp_path, OLD):
        run(tiny, "--size", "32x32", "--no-plugin", "--quiet")
    assert Recorder.made.total is None and Recorder.made.quiet


def test_progress_of_unknown_length():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    now = [0.0]
    stream = Terminal()
    with Progress("building", None, stream=stream, clock=lambda: now[0]) as shown:
        for now[0] in (0.05, 65.0):
            shown.update(0.0, "building, still")
    lines = [line.strip() for line in stream.getvalue().split("\r") if line.strip()]
    assert lines == ["building, still: 1:05 min"]


def test_ctrl_c_ends_the_build_and_leaves_nothing(tiny, place, tmp_path, monkeypatch):
    ended = []
    with tensorrt_stand_in.in_process(tmp_path) as trt:
        def build(self, network, config):
            monitor = config.progress_monitor
            monitor.phase_start("Whole", None, 1000)
            os.kill(os.getpid(), signal.SIGINT)
            for step in range(1000):
                if not monitor.step_complete("Whole", step):
                    ended.append(step)
                    return None
                time.sleep(0.02)

        monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
        _, err = run(tiny, "--size", "32x32", code=130)
    assert err.splitlines() == ["interrupted: no plan is written"]
    assert len(ended) == 1 and not list(place.glob("*"))


def test_ctrl_c_where_tensorrt_can_not_be_told_ends_the_process(tiny, tmp_path):
    program = """
import os, signal, sys, time
import tensorrt as trt

def build(self, network, config):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

trt.Builder.build_serialized_network = build
from bidiff_deploy.cli import main
sys.argv[1:] = ["build", sys.argv[1], "--size", "32x32"]
main()
"""
    started = time.monotonic()
    done = tensorrt_stand_in.run(program, tmp_path, str(tiny), version=OLD,
                                 BIDIFF_TENSORRT_PLANS=str(tmp_path / "plans"))
    assert done.returncode == 130 and "interrupted: no plan is written" in done.stderr
    assert time.monotonic() - started < 50 and not list((tmp_path / "plans").glob("*"))


PHASES = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, *"abcd"]),
                            st.sampled_from(["start", "step", "finish"]), st.integers(-1, 9)),
                  max_size=40)


@given(PHASES)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_whatever_is_told_the_share_never_falls(events):
    progress, last = BuildProgress(), 0.0
    for name, parent, what, number in events:
        if what == "start":
            progress.start(name, parent, number)
        elif what == "step":
            assert progress.step(name, number)
        else:
            progress.finish(name)
        share, label = progress.state()
        assert last <= share <= 1 and label in ("", *"abcd")
        last = share
    progress.cancel()
    assert progress.cancelled and not progress.step("a", 0)


# -- weak typing --------------------------------------------------------------------------------


class Layer:
    """One layer, which notes what it is told."""

    def __init__(self, kind: str, *outputs: tuple[str, str], shape: bool = False):
        self.type, self.told = kind, {}
        self._outputs = [SimpleNamespace(name=name, dtype=dtype, is_shape_tensor=shape)
                         for name, dtype in outputs]
        self.num_outputs = len(outputs)

    def get_output(self, index):
        return self._outputs[index]

    def set_output_type(self, index, kind):
        self.told[index] = kind

    precision = property(None, lambda self, kind: self.told.update(precision=kind))


def test_a_node_that_becomes_several_layers_keeps_its_precision_in_all():
    """Layers without a name of the graph belong to the node whose output comes next."""
    value = helper.make_tensor_value_info
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
             helper.make_node("Add", ["h", "h"], ["s"]),
             helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Softmax", ["f"], ["m"]),
             helper.make_node("Shape", ["m"], ["n"]),
             helper.make_node("GroupNormSwish", ["h"], ["p"], domain="bidiff"),
             helper.make_node("Mul", ["m", "one"], ["y"])]
    model = helper.make_model(helper.make_graph(
        nodes, "g", [value("x", 1, [1])], [value("y", 1, [1])], [one]))
    layers = {
        "cast": Layer("IDENTITY", ("h", "half")),
        "add_shuffle": Layer("SHUFFLE", ("(Unnamed) 1", "half")),
        "add": Layer("ELEMENTWISE", ("s", "half")),
        "back": Layer("IDENTITY", ("f", "float")),
        "softmax_sizes": Layer("SHAPE", ("(Unnamed) 2", "int32"), shape=True),
        "softmax_floats": Layer("ELEMENTWISE", ("(Unnamed) 3", "float"), shape=True),
        "softmax": Layer("SOFTMAX", ("m", "float")),
        "shape": Layer("SHAPE", ("n", "int32"), shape=True),
        "plugin": Layer("PLUGIN_V2", ("p", "half")),
        "constant": Layer("CONSTANT", ("(Unnamed) 4", "float")),
        "mul": Layer("ELEMENTWISE", ("y", "float")),
    }
    listed = list(layers.values())
    network = SimpleNamespace(num_layers=len(listed), get_layer=lambda index: listed[index])
    trt = SimpleNamespace(float32="float", float16="half", LayerType=SimpleNamespace(
        CONSTANT="CONSTANT", SHAPE="SHAPE", IDENTITY="IDENTITY"))
    tensorrt_network.keep_precision(SimpleNamespace(trt=trt), network, model.SerializeToString())
    half, full = ({"precision": kind, 0: kind} for kind in ("half", "float"))
    assert {name: layer.told for name, layer in layers.items()} == {
        "cast": {}, "add_shuffle": half, "add": half, "back": {}, "softmax_sizes": {},
        "softmax_floats": {}, "softmax": full, "shape": {}, "plugin": {0: "half"}, "constant": {},
        "mul": full}


@pytest.mark.parametrize("variant", ["dense", "dense-int8"])
@pytest.mark.parametrize("float16", [False, True])
def test_types_are_those_that_onnx_infers(variant, float16, tiny):
    from bidiff_deploy.engines.step_graphs import StepGraphs

    bundle = open_bundle(tiny)
    graph = tensorrt_graph.derive(StepGraphs(bundle).promoted(), bundle.config, variant=variant,
                                  float16=float16)
    model = onnx.load_model_from_string(graph.model)
    found = tensorrt_network.value_types(model)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    assert len(inferred) > 100
    assert {value.name: value.type.tensor_type.elem_type for value in inferred} == {
        value.name: found[value.name] for value in inferred}


# -- the command line ---------------------------------------------------------------------------

WRONG = {
    "a size that is no multiple": (("--size", "60x64"), "multiples of 8"),
    "a size of nothing": (("--size", "0x64"), "--size '0x64' must be"),
    "no size": (("--size", "large"), "--size 'large' must be"),
    "size and range": (("--size", "64x64", "--max", "64x64"), "give either"),
    "only the largest": (("--max", "64x64"), "belong together; add --min"),
    "without the best": (("--min", "64x64", "--max", "64x64"), "add --opt"),
    "smallest above best": (("--min", "72x64", "--opt", "64x64", "--max", "128x128"),
                            "--min 1x72x64 is larger than 1x64x64"),
    "best above largest": (("--min", "64x64", "--opt", "2x64x64", "--max", "64x64"),
                           "--opt 2x64x64 is larger than 1x64x64"),
    "a range of one number": (("--min", "64", "--opt", "64x64", "--max", "64x64"),
                              "--min '64' must be"),
    "two batches": (("--min", "2x64x64", "--opt", "64x64", "--max", "64x64", "--batch", "2"),
                    "leave out --batch"),
    "a range of no multiple": (("--min", "8x8", "--opt", "12x8", "--max", "64x64"),
                               "1x12x8 (batch x height x width) can not be run"),
    "a huge range": (("--min", "8x8", "--opt", "8x8", "--max", "8x99999999"), "--max '8x99999999'"),
    "int8 with the plugin": (("--int8",), "add --no-plugin"),
    "a backend without plans": (("--backend", "onnxruntime"), "'onnxruntime' has nothing to build"),
    "no room": (("--workspace", "much"), "--workspace 'much' must be"),
    "a graph on a GPU": (("--graph", "g.onnx", "--device", "1"), "--device has no meaning"),
    "a graph in a folder of plans": (("--graph", "g.onnx", "-o", "x"), "--output has no meaning"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_mistakes_are_told_in_a_sentence(wrong, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, told = WRONG[wrong]
    assert told in refusal(tiny, *arguments)
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_of_a_diffusion_model(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.bundle")
    bundle = bbcu_networks.bundle_of(bbcu_networks.random_network(bbcu_networks.SMALL[2]), tmp_path)
    assert "is a feed-forward bundle, which backend tensorrt does not run" in refusal(bundle)


def test_profiles_of_a_network_with_more_levels():
    """Eight levels: sizes are multiples of 128, and so are the defaults."""
    bundle = SimpleNamespace(config=SimpleNamespace(size_multiple=128))
    profile = tensorrt_builder.default_profile(bundle)
    assert profile == Profile((1, 128, 128), (1, 256, 256), (1, 512, 512))
    tensorrt_builder.check_profile(profile, bundle)
    with pytest.raises(UsageError, match="multiples of 128"):
        tensorrt_builder.check_profile(Profile(*[(1, 64, 64)] * 3), bundle)
    with pytest.raises(EngineError, match="'fast' is not known"):
        tensorrt_builder.build_plan(bundle, profile, variant="fast")


# -- --graph ------------------------------------------------------------------------------------


def shapes_of(model: onnx.ModelProto) -> dict[str, list]:
    return {value.name: [dim.dim_value or dim.dim_param
                         for dim in value.type.tensor_type.shape.dim]
            for value in model.graph.input}


@pytest.mark.parametrize("options, first", [
    ((), ["N", 3, "H", "W"]), (("--size", "64x32", "--batch", "2"), [2, 3, 64, 32]),
    (("--min", "8x8", "--opt", "8x8", "--max", "64x64"), ["N", 3, "H", "W"])])
def test_the_graph_needs_no_tensorrt(options, first, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    file = tmp_path / "g.onnx"
    out, err = run(tiny, "--graph", file, *options)
    assert "the contract's" in err and str(file) in out
    model = onnx.load(file)
    assert shapes_of(model)["noisy"] == first and not model.functions
    assert not any(attribute.name == "layout" and attribute.i
                   for node in model.graph.node for attribute in node.attribute)
    assert "--overwrite" in refusal(tiny, "--graph", file)
    _, err = run(tiny, "--graph", file, "--overwrite", "--no-plugin", *options)
    assert err == "" and all(not node.domain for node in onnx.load(file).graph.node)


def test_the_graph_has_prepared_words_where_the_plugin_is(tiny, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path):
        out, err = run(tiny, "--graph", tmp_path / "g.onnx", "--json")
    told = json.loads(out)
    assert told["prepared"] and err == "" and told["inputs"]["noisy"] == ["N", 3, "H", "W"]
    assert told["outputs"] == ["prediction", "latent"]
    layouts = {attribute.i for node in onnx.load(tmp_path / "g.onnx").graph.node
               for attribute in node.attribute if attribute.name == "layout"}
    assert len(layouts) == 1 and 0 not in layouts
