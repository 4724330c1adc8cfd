"""inspect tells what is in a bundle's graphs: kinds of layers, precisions, bytes and counts."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.bundle.graph_reader import GraphReader
from bidiff_deploy.networks.bi_diffsr.costs import count
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.proof.inspect.text import WIDTH, human, to_text
from support.inspect_setup import check_layers, run

STEPS = {"tiny": [900, 0], "small": [400, 0], "full": [1960, 1920, 0]}  # few, so tests share them


@pytest.mark.parametrize("name", ["tiny", "small", "full"])
def test_kinds_bytes_and_counts(reference, name):
    path = reference.bundle(name, STEPS[name])
    found = inspect_bundle(path)
    expected = count(found.bundle.config, *(found.bundle.config.image_size,) * 2)
    assert found.disagreements == ()
    check_layers(found)
    for layer in found.layers:
        kind, bits = ("packed", 1) if layer.binary else ("float", 32 if layer.found.shape else None)
        assert (layer.found.kind, layer.found.bits) == (kind, bits), layer.name
        assert "\n" not in layer.why and layer.why
    assert found.macs == {"packed": expected.binary_macs, "float": expected.float_macs,
                          "attention": expected.attention_macs}
    assert found.paper_operations == expected.paper_operations
    total = found.total
    assert total.disk == sum(file.stat().st_size for file in path.iterdir())
    parts = [layer.weight for layer in found.layers] + list(found.parts.values())
    assert sum(w.checkpoint for w in parts) == total.checkpoint == 4 * expected.parameters
    assert 0 <= found.unused_bytes < 64 * 2000


def test_bytes_of_single_layers(reference):
    found = {layer.name: layer for layer in
             inspect_bundle(reference.bundle("full", STEPS["full"])).layers}
    layer = found["encoder.10.conv1"]
    # 512x512x3x3 signs, alpha; threshold and RPReLU of two groups, time vectors of three steps.
    assert layer.weight.disk == layer.weight.memory == (
        512 * 512 * 9 // 8 + 4 * 512 + 2 * 4 * 4 * 512 + 3 * 4 * 512)
    assert layer.weight.checkpoint == 4 * (512 * 512 * 9 + 4 * 5 * 512)
    assert found["stem"].weight.disk == 4 * (64 * 6 * 9 + 64)
    # Two 1x1 convolutions of 128 channels each are one of 256; their biases are one sum.
    fusion = found["decoder.14"]
    assert fusion.found.shape == (128, 256, 1, 1) and "level 1 (128) is in fp_res" in fusion.why
    assert fusion.weight.disk == 4 * (2 * 128 * 128 + 128)
    assert fusion.weight.checkpoint == 2 * 4 * (128 * 128 + 128)
    reasons = {name: layer.why for name, layer in found.items()}
    assert "first convolution" in reasons["stem"] and "last" in reasons["head.conv"]
    assert "level 0 (256) is in fp_res" in reasons["decoder.26.conv1"]
    assert "level 1 (128) is in fp_res" in reasons["decoder.15.conv2"]
    assert "attention" in reasons["middle.0.attention.qkv"]
    assert "XNOR" in reasons["decoder.20.conv1"]


def test_table_and_json_say_the_same(reference):
    path = reference.bundle("full", STEPS["full"])
    code, text, err = run(path)
    assert code == 0 and err == ""
    assert max(len(line) for line in text.splitlines() if str(path) not in line) <= WIDTH
    assert "4.58 M parameters (binary / 32), 36.24 G operations (binary / 64)" in text
    summary, details, *_ = text.split("\n\n")
    lines = [" ".join(line.split()) for line in summary.splitlines()]
    assert "upscales by 4, network bi-diffsr, 3 time steps" in " ".join(lines)
    assert "packed 56 of 80 layers" in lines and "not packed 24 of 80 layers: 24 float" in lines
    assert "agreement graphs, weights and manifest agree" in lines
    counted = [int(line.split()[0]) for line in lines if line.partition(" ")[2].startswith(
        ("binary: ", "full precision: ", "attention: "))]
    assert sum(counted) == 80 and details.startswith("made from")
    assert "group 4: 1960, 1920" in text and "group 0: 0" in text
    code, out, err = run(path, "--json", "--size", "512x768")
    found = json.loads(out)
    assert code == 0 and err == "" and found["size"] == [512, 768]
    assert found["macs"]["packed"] == 6 * 98_650_030_080
    assert found["macs"]["attention"] == 36 * 1_073_741_824
    assert found["paper"]["parameters"] == 4_575_043
    assert found["kinds"] == {"packed": 56, "float": 24}
    assert found["files_verified"] == 4 and found["disagreements"] == []
    assert {step["timestep"]: step["group"] for step in found["steps"]} == {1960: 4, 1920: 4, 0: 0}
    assert found["versions"]["opsets"] == {"ai.onnx": 18, "bidiff": 2}
    layer = next(layer for layer in found["layers"] if layer["name"] == "encoder.1.conv1")
    assert layer["map"] == [512, 768] and layer["bits"] == 1
    assert layer["shape"] == [64, 64, 3, 3] and layer["op"] == "bidiff.BinaryConv"
    assert layer["inside"] == "e1.h"
    assert found["operators"] == {
        "bidiff.NormBinaryConv": 32, "bidiff.NormConv": 13, "bidiff.BinaryFusion": 6,
        "bidiff.PairConv": 6, "bidiff.BinaryDown": 3, "bidiff.BinaryUp": 3, "bidiff.Conv3x3": 1,
        "bidiff.Attention": 1, "Concat": 1}
    assert "32 bidiff.NormBinaryConv, 13 bidiff.NormConv" in text
    for line in text.splitlines():
        if line.startswith("encoder.1.conv1"):
            assert human(layer["disk"]) in line and human(layer["checkpoint"]) in line


def test_needs_neither_runtime_nor_torch(reference):
    code = ("import sys\nsys.modules.update(onnxruntime=None, torch=None)\n"
            "from bidiff_deploy.cli import group\ngroup(sys.argv[1:])")
    done = subprocess.run([sys.executable, "-c", code, "inspect",
                           str(reference.bundle("tiny", [900, 0]))], text=True, capture_output=True)
    assert done.returncode == 0 and "28 of 46 layers" in done.stdout, done.stderr


def test_tensors_that_share_bytes_count_once(bundle, edit_manifest):
    before = inspect_bundle(bundle)
    edit_manifest(bundle, lambda m: m["tensors"].update(
        {"e1.c2.alpha": m["tensors"]["e1.c1.alpha"]}))
    after = inspect_bundle(bundle)
    sizes = [{layer.name: layer.weight for layer in found.layers} for found in (before, after)]
    first, second = "encoder.1.conv1", "encoder.1.conv2"
    assert sizes[1][first] == sizes[0][first]
    assert sizes[1][second].disk == sizes[0][second].disk - 4 * 32
    assert sizes[1][second].memory == sizes[0][second].memory
    assert after.unused_bytes == before.unused_bytes + 4 * 32
    assert after.total.disk == sum(file.stat().st_size for file in bundle.iterdir())


def test_memory_is_every_tensor_once(bundle):
    """Those of the first step, and the steps' own of all others that have other bytes."""
    tensors: dict[tuple[str, str], int] = {}
    for path in bundle.glob("step_*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            tensors[tensor.name, place.get("offset", "")] = \
                int(place["length"]) if place else tensor.ByteSize()
    found = inspect_bundle(bundle)
    assert found.total.memory == sum(tensors.values())


@pytest.mark.parametrize("precision, kind, device", [("fast", "bf16", "CPU"),
                                                     ("half", "fp16", "GPU")])
def test_what_fused_operators_may_round_to(reference, precision, kind, device):
    found = inspect_bundle(reference.bundle("small", [400], precision))
    assert found.disagreements == () and f" {kind}" in to_text(found)
    kinds = {layer.name: layer.found.kind for layer in found.layers}
    assert kinds["middle.0.attention.qkv"] == kinds["head.conv"] == kind
    assert kinds["middle.0.attention.scores"] == kind and kinds["encoder.1.conv1"] == "packed"
    assert kinds["stem"] == "float"
    assert all((f"rounded to {kind} where the {device} multiplies it" in layer.why)
               == (layer.found.kind == kind) for layer in found.layers)


def test_matrix_products_and_shared_weights():
    """Linear layers count their inner size; a node whose weight is an activation is a product."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "l.weight"], ["y"]),
         helper.make_node("Transpose", ["y"], ["t"], perm=[0, 1, 3, 2]),
         helper.make_node("MatMul", ["y", "t"], ["z"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, "H", "W"])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((8, 5), "f4"), "l.weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    linear, product = GraphReader(model, 4, 8).layers()
    assert (linear.name, linear.macs, linear.shape) == ("l", 2 * 4 * 5 * 8, (8, 5))
    assert (product.name, product.macs, product.shape) == ("z", 2 * 4 * 4 * 5, ())


@pytest.mark.parametrize("number, text", [(0, "0"), (999, "999"), (1000, "1.00 k"),
                                          (151_552, "151.6 k"), (2_415_919_104, "2.42 G"),
                                          (10 ** 400, "huge")])
def test_human_numbers(number, text):
    assert human(number) == text
