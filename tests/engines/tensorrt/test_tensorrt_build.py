"""``bidiff-deploy build`` with the stand-in for TensorRT: what a plan is built of in every version,
the timing cache, and each failure in a sentence."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper

from bidiff_deploy.bundle.manifest import manifest_digest, open_bundle
from bidiff_deploy.engines.gpu.library import device_info
from bidiff_deploy.engines.tensorrt import plans as tensorrt_plans
from bidiff_deploy.engines.tensorrt.build import network as tensorrt_network
from bidiff_deploy.engines.tensorrt.build import timing_cache as tensorrt_cache
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.graphs import lowering
from stand_ins import tensorrt as tensorrt_stand_in
from support import tensorrt_names
from support.tensorrt_building import NEW, OLD, how_built, refusal, run

VERSIONS = tensorrt_names.DISTINCT


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
    assert (info.target.tensorrt, info.variant,
            info.target.precision) == (trt.__version__, "plugin", "float32")
    assert (info.target.gpu, info.target.architectures, info.target.driver) == (
        gpu.name, (gpu.architecture,), gpu.driver)
    assert info.target.bundle == manifest_digest(open_bundle(tiny).manifest)
    assert info.target.layout is not None
    assert info.bytes == (place / name).stat().st_size and info.workspace == 1 << 30
    assert info.profile == Profile((2, 64, 32), (2, 64, 32), (2, 64, 32)) and info.opset <= 17
    assert "built without kernels of CUBLAS" in " ".join(told["notes"]) or version != OLD


@pytest.mark.parametrize("version, options, variant", [
    *((version, (), "plugin") for version in VERSIONS),
    *((version, ("--no-plugin",), "dense") for version in (OLD, "10.0.1")),
    *((version, ("--no-plugin", "--int8"), "dense-int8") for version in (OLD, NEW)),
    ("10.3.0", ("--backend", "tensorrt-dense-int8"), "dense-int8")])
def test_precision_is_the_graphs_in_every_version(version, options, variant, halved, place,
                                                  tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, version):
        run(halved, "--size", "32x32", "--quiet", *options)
    name = f"{variant}-float16-1x32x32.plan"
    header, model = tensorrt_stand_in.read_plan((place / name).read_bytes())
    types = tensorrt_network.value_types(model)
    assert TensorProto.FLOAT16 in types.values()
    # From 10 on parsers read the later one.
    later = variant != "plugin" and version != OLD
    assert model.opset_import[0].version == (19 if later else 17)
    assert {types[name] for node in model.graph.node if node.op_type == "DequantizeLinear"
            for name in node.output} == ({TensorProto.FLOAT16 if later else TensorProto.FLOAT}
                                         if variant == "dense-int8" else set())
    int8 = ["INT8"] if variant == "dense-int8" else []
    if version != OLD:
        assert header["flags"] == [] and header["precisions"] == {}
        return
    assert header["flags"] == ["FP16", *int8, "PREFER_PRECISION_CONSTRAINTS"]
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


@pytest.mark.parametrize("bundle, told", [("halved", True), ("tiny", False)])
def test_a_layer_without_a_kernel_in_its_precision_is_a_remark(bundle, told, place, tmp_path,
                                                               monkeypatch, request):
    """TensorRT 8.5's words, of which the last build alone counts."""
    with tensorrt_stand_in.in_process(tmp_path, OLD) as trt:
        real = trt.Builder.build_serialized_network

        def build(self, network, config):
            if config.get_flag(trt.BuilderFlag.FP16):
                fused = " + ".join(f"d{index}.norm/mul" for index in range(99))
                warning = trt.ILogger.Severity.WARNING
                self.logger.log(warning, f"No implementation of layer {fused} obeys the requested "
                                "constraints. I.e. no conforming implementation was found for "
                                "requested layer computation precision and output precision. Using "
                                "fastest implementation instead.")
                for _ in range(50):
                    self.logger.log(warning, "Check verbose logs for the list of affected weights.")
            return real(self, network, config)

        monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
        _, err = run(request.getfixturevalue(bundle), "--size", "32x32", "--no-plugin")
    assert ("note: TensorRT has no kernel for some layer in the graph's precision" in err) == told
    assert len(tensorrt_plans.read_plans(place)) == 1


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
    assert header["architectures"] == [second.architecture] and not place.exists()
    plan, = tensorrt_plans.read_plans(tmp_path / "mine")
    assert (plan.info.target.gpu, plan.info.target.architectures) == (
        second.name, (second.architecture,))


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
    name = "plugin-float32-1x32x32.plan"
    with tensorrt_stand_in.in_process(tmp_path):
        file = tensorrt_cache.cache_file("10.3.0", device_info(0))
        timed = []
        for damage in (None, None, b"damaged", b"", b"x" * (tensorrt_cache.MAX_BYTES + 1)):
            if damage is not None:
                file.write_bytes(damage)
            run(tiny, "--size", "32x32", "--overwrite")
            timed.append(how_built(place, name)["timed"])
        # Another version's cache, even under this one's name, is left alone.
        with tensorrt_stand_in.in_process(tmp_path, NEW):
            run(tiny, "--size", "32x32", "--overwrite")
            assert how_built(place, name)["timed"] == timed[0]
            shutil.copy(file, tensorrt_cache.cache_file("11.4.0.106", device_info(0)))
            run(tiny, "--size", "32x32", "--overwrite")
            assert how_built(place, name)["timed"] == timed[0]
    assert timed[0] > 0 and timed == [timed[0], 0, timed[0], timed[0], timed[0]]
    assert file.parent == tmp_path / "bidiff_deploy" and "10.3.0" in file.name


def test_a_cache_that_cannot_be_kept_is_a_remark(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path):
        cache = tmp_path / "bidiff_deploy"
        shutil.rmtree(cache, ignore_errors=True)
        cache.write_text("in the way")
        _, err = run(tiny, "--size", "32x32", "--no-plugin")
    assert "note: the timing cache was not saved: " in err
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
    assert "does not find its plugins: it was built for TensorRT 8.5.3; build it again" in text
    assert not list(place.glob("*")) and "Assertion" not in text


def test_a_plugin_that_is_built_anew_is_still_the_one_that_is_loaded(tiny, tmp_path):
    """As by another run of these tests."""
    program = """
import os, shutil, sys
from bidiff_deploy.cli import main
from bidiff_deploy.engines.tensorrt.api import open_tensorrt

file = os.environ["BIDIFF_TENSORRT_PLUGIN"]
open_tensorrt().plugin()
shutil.copy(file, file + ".new")
os.replace(file + ".new", file)
sys.argv[1:] = ["build", sys.argv[1], "--size", "32x32"]
main()
"""
    plugin = shutil.copy(tensorrt_stand_in.plugin(), tmp_path)
    done = tensorrt_stand_in.run(program, tmp_path, str(tiny), BIDIFF_TENSORRT_PLUGIN=str(plugin),
                                 BIDIFF_TENSORRT_PLANS=str(tmp_path / "plans"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [("--no-plugin",), ()])
def test_a_graph_that_the_parser_does_not_take(options, tiny, place, tmp_path, monkeypatch):
    """Which is not the plugin's fault where the node is none of its own."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["a"], name="a"),
                           helper.make_node("Unheard", ["a"], ["y"], name="it", domain="other")],
                          "g", [image], [helper.make_tensor_value_info("y", 1, [1])]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("other", 1)])
    monkeypatch.setattr(lowering, "lower_for_tensorrt", lambda *_, **__: SimpleNamespace(
        model=model.SerializeToString(), inputs={"x": (1,)}, opset=17))
    with tensorrt_stand_in.in_process(tmp_path):
        text = refusal(tiny, "--size", "32x32", *options)
    assert "TensorRT 10.3.0 refuses the graph at node 1 (Unheard it): " in text
    assert not list(place.glob("*"))


def test_a_build_that_fails_says_why(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, BIDIFF_STAND_IN_FAIL="build"):
        text = refusal(tiny, "--size", "32x32")
        assert "could not build a plan for 1x32x32 on" in text and "--verbose" in text
        assert "Could not find any implementation for node" in text
    with tensorrt_stand_in.in_process(tmp_path):
        assert "give more --workspace" in refusal(tiny, "--workspace", "1k")
    assert not list(place.glob("*"))


def test_what_workspace_can_be_is_what_a_sidecar_can_tell(tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path):
        run(tiny, "--size", "32x32", "--no-plugin", "--workspace", "900TB")
    plan, = tensorrt_plans.read_plans(place)
    assert plan.info.workspace == 900 * 1000 ** 4


def test_a_folder_of_plans_that_is_a_file(tiny, place, tmp_path):
    place.write_text("")
    with tensorrt_stand_in.in_process(tmp_path):
        assert "a file of that name exists; choose another" in refusal(tiny, "--size", "32x32")


@pytest.mark.parametrize("shapes, remedy", [(("--size", "32x32"), "a smaller --size or --batch"),
                                            ((), "a smaller --max")])
def test_out_of_memory_names_remedies(shapes, remedy, tiny, place, tmp_path, monkeypatch):
    with tensorrt_stand_in.in_process(tmp_path) as trt:
        def build(self, network, config):
            self.logger.log(trt.ILogger.Severity.ERROR,
                            "Error Code 2: OutOfMemory (Requested size was 9 bytes.)")

        monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
        text = refusal(tiny, *shapes)
    assert "has no memory left to build a plan for 1x" in text and remedy in text
    assert "Requested size was 9 bytes" in text and "close other programs" in text


def test_without_a_usable_driver_the_builder_says_so(tiny, place, tmp_path, monkeypatch):
    with tensorrt_stand_in.in_process(tmp_path) as trt:
        def refuse(logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")

        monkeypatch.setattr(trt, "Builder", refuse)
        assert "cannot start its builder" in refusal(tiny, "--size", "32x32")


@pytest.mark.parametrize("level", [0, 4])
def test_optimization_levels_before_there_were_any(level, tiny, place, tmp_path):
    with tensorrt_stand_in.in_process(tmp_path, OLD):
        assert "(8.6 and later have them); leave out --optimization-level" in refusal(
            tiny, "--optimization-level", level)
