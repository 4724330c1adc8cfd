"""Graphs of strangers that need more than their network are refused before they run."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bidiff_deploy import BundleError
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.graphs.lowering import parameterized_graph
from bidiff_deploy.graphs.validate import validate_graph
from bidiff_deploy.networks import network_of
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.operators.definitions import functions
from bidiff_deploy.operators.names import VERSION


def initializer(model, name, *values):
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))


def big_constant(model):
    initializer(model, "bomb.shape", 1, 3, 1 << 20, 1 << 20)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["bomb.shape"], ["bomb"]))


def doubling(model):
    value = "input"
    for i in range(30):
        model.graph.node.append(helper.make_node("Concat", [value, value], [f"bomb{i}"], axis=1))
        value = f"bomb{i}"


def whole_image_map(model):
    initializer(model, "bomb.flat", 0, 6, -1)
    model.graph.node.extend([
        helper.make_node("Reshape", ["input", "bomb.flat"], ["bomb.a"]),
        helper.make_node("Transpose", ["bomb.a"], ["bomb.b"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["bomb.b", "bomb.a"], ["bomb.map"])])


def size_from_data(model):
    model.graph.node.extend([
        helper.make_node("NonZero", ["noisy"], ["bomb.places"])])


def loop(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


def redefined(model):
    function = model.functions[1]
    function.node[-1].op_type = "Add"


def wider_masks(model):
    """Only a constant inside a function changes, to one that multiplies every size."""
    for node in model.functions[0].node:
        if node.output[0] == "masks":
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.zeros(1 << 20, np.int32)))


@pytest.mark.parametrize("change, says", [
    (big_constant, "larger than anything"), (doubling, "larger than anything"),
    (whole_image_map, "larger than anything"), (size_from_data, "is unknown before"),
    (loop, "contains a graph"), (redefined, "differs from that of this version"),
    (wider_masks, "differs from that of this version")])
def test_bombs_are_refused(reference, tmp_path, edit_manifest, change, says):
    bundle = tmp_path / "b"
    shutil.copytree(reference.bundle("small", [1960, 0]), bundle)
    file = bundle / "step_1960.onnx"
    model = onnx.load(file, load_external_data=False)
    change(model)
    file.write_bytes(model.SerializeToString())
    edit_manifest(bundle, lambda m: m["files"].update({file.name: {
        "bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}))
    with pytest.raises(BundleError, match=says) as caught:
        parameterized_graph(StepGraphs(open_bundle(bundle)))
    assert "step_1960.onnx" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tiny", "small", "full"])
def test_honest_graphs_pass(reference, name):
    bundle = open_bundle(reference.bundle(name, [0]))
    model = onnx.load(bundle.path / "step_0000.onnx", load_external_data=False)
    validate_graph(model, bundle.config, bundle.path)


def test_definitions_are_those_in_bundles_of_before():
    """A bundle with others is refused; a change of one needs a new version of the op set."""
    digest = hashlib.sha256()
    for function in functions():
        for node in function.node:
            node.ClearField("name")
        digest.update(function.SerializeToString(deterministic=True))
    assert (VERSION, digest.hexdigest()[:16]) == (2, "0c98ed1cf55c5166")


@pytest.mark.parametrize("options", [
    {}, {"attn_res": (256, 64)}, {"channel_mults": (1,), "fp_res": ()}, {"in_channel": 60},
    {"res_blocks": 1, "channel_mults": (2, 4), "fp_res": (128,)}])
def test_the_limit_is_what_the_widest_part_needs(options):
    config = NetworkConfig(**options)
    side = 8 * config.size_multiple
    low = side >> (config.levels - 1)
    assert network_of(config).largest_value(config, side) == max(
        config.in_channel * side ** 2, 3 * config.channels(0) * side ** 2,
        3 * config.channels(config.levels - 1) * low ** 2,
        side ** 4 if 256 in config.attn_res else low ** 4)
