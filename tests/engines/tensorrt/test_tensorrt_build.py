"""``bidiff-deploy build`` with the stand-in for TensorRT: what a plan is built of in every version,
the timing cache, and each failure in a sentence."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto

from bidiff_deploy.bundle.manifest import manifest_digest, open_bundle
from bidiff_deploy.engines.gpu.library import device_info
from bidiff_deploy.engines.tensorrt import plans as tensorrt_plans
from bidiff_deploy.engines.tensorrt.build import network as tensorrt_network
from bidiff_deploy.engines.tensorrt.build import timing_cache as tensorrt_cache
from bidiff_deploy.graphs import lowering
from stand_ins import tensorrt as tensorrt_stand_in
from support.tensorrt_building import NEW, OLD, how_built, refusal, run, static, versions

NAME = "plugin-float32-1x8x8.plan"


# -- what is built ------------------------------------------------------------------------------


@versions(OLD, "10.0.1", NEW)
def test_a_plan_and_its_sidecar(trt, tiny, place):
    out, _ = run(tiny, "--size", "64x32", "--batch", 2, "--workspace", "1GiB", "--json")
    told, gpu = json.loads(out), device_info(0)
    plan, = tensorrt_plans.read_plans(place)
    header, info, target = how_built(plan.path)[0], plan.info, plan.info.target
    # Strongly typed from 10 on; before, float32 unless a flag says otherwise. Never TF32.
    assert header["flags"] == [] and header["strongly_typed"] != (trt._version[0] == 8)
    assert not header["dynamic"] and header["workspace"] == info.workspace == 1 << 30
    assert header["profiles"][0]["noisy"] == [[2, 3, 64, 32]] * 3
    assert plan.path == place / "plugin-float32-2x64x32.plan"
    assert {"plan": str(plan.path), "notes": [], **json.loads(json.dumps(info.to_dict()))} == told
    assert (target.tensorrt, info.variant, target.precision) == (
        trt.__version__, "plugin", "float32")
    assert (target.gpu, target.architectures, target.driver) == (
        gpu.name, (gpu.architecture,), gpu.driver)
    assert target.bundle == manifest_digest(open_bundle(tiny).manifest)
    assert target.layout is not None and info.opset <= 17 and info.profile == static(2, 64, 32)
    assert info.bytes == plan.path.stat().st_size


@pytest.mark.parametrize("trt, options, variant", [
    *((OLD, options, variant) for options, variant in (
        ((), "plugin"), (("--no-plugin",), "dense"),
        (("--no-plugin", "--int8"), "dense-int8"))),
    ("10.0.1", ("--no-plugin",), "dense"), (NEW, (), "plugin"),
    ("10.3.0", ("--backend", "tensorrt-dense-int8"), "dense-int8")], indirect=["trt"])
def test_precision_is_the_graphs_in_every_version(trt, options, variant, halved, place):
    old = trt._version[0] == 8
    run(halved, "--size", "32x32", "--quiet", *options)
    header, model = how_built(place / f"{variant}-float16-1x32x32.plan")
    types = tensorrt_network.value_types(model)
    assert TensorProto.FLOAT16 in types.values()
    # From 10 on parsers read the later one.
    later = variant != "plugin" and not old
    assert model.opset_import[0].version == (19 if later else 17)
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear"
                 for name in node.output}
    assert {types[name] for name in quantised} == (
        {TensorProto.FLOAT16 if later else TensorProto.FLOAT} if variant == "dense-int8" else set())
    # Layers are set as test_tensorrt_network.py says.
    assert header["flags"] == (["FP16", *["INT8"] * (variant == "dense-int8"),
                                "PREFER_PRECISION_CONSTRAINTS"] if old else [])
    assert set(header["precisions"].values()) == ({"FLOAT", "HALF"} if old else set())


@versions(OLD)
def test_a_layer_without_a_kernel_in_its_precision_is_a_remark(trt, halved, tiny, place,
                                                               monkeypatch):
    """TensorRT 8.5's words, of which the last build alone counts."""
    real, fused = trt.Builder.build_serialized_network, " + ".join(["d.norm/mul"] * 99)

    def build(self, network, config):
        for text in (f"No implementation of layer {fused} obeys the requested constraints. I.e. no "
                     "conforming implementation was found. Using fastest implementation instead.",
                     *["Check verbose logs for the list."] * 50) * ("FP16" in config._set):
            self.logger.log(trt.ILogger.Severity.WARNING, text)
        return real(self, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    for bundle, reported in ((halved, True), (tiny, False)):
        _, err = run(bundle, "--size", "32x32", "--no-plugin")
        assert ("note: TensorRT has no kernel for some layer in the graph's precision"
                in err) == reported


def test_plans_for_many_shapes_of_another_gpu_and_in_another_folder(trt, tiny, place, tmp_path):
    run(tiny, "--batch", 3)
    header = how_built(place / "plugin-float32-3x64x64-3x256x256-3x512x512.plan")[0]
    assert header["dynamic"] and header["level"] == 3
    run(tiny, "--min", "8x16", "--opt", "2x16x32", "--max", "4x32x32", "--no-plugin",
        "--optimization-level", 5, "--device", 1, "--output", tmp_path / "mine", "--workspace",
        "900TB")
    plan, = tensorrt_plans.read_plans(tmp_path / "mine")
    header, gpu = how_built(plan.path)[0], device_info(1)
    profile, = header["profiles"]
    assert profile["condition"] == [[1, 3, 8, 16], [2, 3, 16, 32], [4, 3, 32, 32]]
    # What is the step's own has one shape.
    assert all(low == middle == high for name, (low, middle, high) in profile.items()
               if name not in ("noisy", "condition"))
    assert plan.path.name == "dense-float32-1x8x16-2x16x32-4x32x32.plan" and header["level"] == 5
    assert (plan.info.target.gpu, plan.info.target.architectures, plan.info.workspace) == (
        gpu.name, (gpu.architecture,), 900 * 1000 ** 4)


# -- the timing cache ---------------------------------------------------------------------------


def test_the_second_build_knows_the_times_of_the_first(trt, tiny, place, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_cache, "MAX_BYTES", 4096)
    file = tensorrt_cache.cache_file("10.3.0", device_info(0))
    assert file.parent == tmp_path / "bidiff_deploy" and "10.3.0" in file.name

    def timed() -> bool:
        run(tiny, "--size", "8x8", "--overwrite")
        return how_built(place / NAME)[0]["timed"]

    assert timed() and not timed()
    before = (place / NAME).stat().st_mtime_ns
    assert "--overwrite" in refusal(tiny, "--size", "8x8")
    assert (place / NAME).stat().st_mtime_ns == before
    for damage in (b"damaged", b"", file.read_bytes() + b"x" * 4096):
        file.write_bytes(damage)
        assert timed(), damage[:10]
    # Another version's cache, even under this one's name, is left alone.
    with tensorrt_stand_in.in_process(tmp_path, NEW):
        assert timed()
        shutil.copy(file, tensorrt_cache.cache_file("11.4.0.106", device_info(0)))
        assert timed()
    # One that cannot be kept is a remark.
    shutil.rmtree(file.parent)
    file.parent.write_text("in the way")
    _, err = run(tiny, "--size", "8x8", "--no-plugin")
    assert "note: the timing cache was not saved: " in err
    assert len(tensorrt_plans.read_plans(place)) == 2


# -- failures -----------------------------------------------------------------------------------


def test_without_gpu_or_plugin(trt, tiny, place, monkeypatch):
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", "")
    assert "GPU" in refusal(tiny, "--device", 77)
    assert "no plugin for TensorRT 10.3; build it with bidiff-deploy build-plugin" in refusal(tiny)
    assert not list(place.glob("*"))
    run(tiny, "--no-plugin", "--size", "8x8")  # which needs none


def test_a_plugin_that_is_loaded_but_not_for_this_tensorrt(trt, tiny, place, monkeypatch):
    monkeypatch.setenv("BIDIFF_STAND_IN_PLUGIN", "8.5.3")
    text = refusal(tiny, "--size", "32x32")
    assert "does not find its plugins: it was built for TensorRT 8.5.3; build it again" in text
    assert not list(place.glob("*")) and "Assertion" not in text


def test_a_node_that_the_parser_does_not_take_and_that_is_not_the_plugins(trt, tiny, monkeypatch):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "other": 1]>
        g (float[1] x) => (float[1] y) { a = Relu(x)  y = other.Unheard(a) }""")
    monkeypatch.setattr(lowering, "lower_for_tensorrt", lambda *_, **__: SimpleNamespace(
        model=model.SerializeToString(), inputs={"x": (1,)}, opset=17))
    assert "TensorRT 10.3.0 refuses the graph at node 1 (Unheard): " in refusal(
        tiny, "--size", "32x32")


def test_a_build_that_fails_says_why(trt, tiny, place, monkeypatch):
    def failing(said):
        return lambda self, network, config: self.logger.log(trt.ILogger.Severity.ERROR, said)

    size = ("--size", "32x32")
    for said, options, told in (
            ("No implementation for node.", size, ["could not build a plan for 1x32x32 on emulated "
                                                   "sm_75 (No implementation", "with --verbose"]),
            ("insufficient tactics", (*size, "--workspace", "1k"), ["give more --workspace"]),
            ("OutOfMemory (9 bytes.)", size, ["has no memory left to build a plan for 1x32x32 (OutO"
                                              "fMemory (9 bytes.))", "a smaller --size or --batch",
                                              "close other programs"]),
            ("OutOfMemory", (), ["a smaller --max"])):
        monkeypatch.setattr(trt.Builder, "build_serialized_network", failing(said))
        text = refusal(tiny, *options)
        assert all(word in text for word in told), text
    assert not list(place.glob("*"))
    shutil.rmtree(place)
    place.write_text("")
    assert "a file of that name exists; choose another" in refusal(tiny, *size)


@versions(OLD)
def test_optimization_levels_before_there_were_any(trt, tiny):
    assert "(8.6 and later have them); leave out --optimization-level" in refusal(
        tiny, "--optimization-level", 0)
