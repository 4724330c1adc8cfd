"""inspect finds every place where the manifest differs, and answers damage in one sentence."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.errors import BundleError, UsageError
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.proof.inspect.text import to_text
from support.inspect_setup import (
    disagreements,
    edit_graphs,
    node_of,
    place_before,
    rehash,
    run,
)
from support.seeds import SEED, SOAK


def test_a_binary_layer_that_is_really_float_is_found(bundle, edit_manifest):
    def change(graph):
        node = node_of(graph, "e1.c1")
        weight = numpy_helper.from_array(np.ones((32, 32, 3, 3), "f4"), "e1.c1.weight")
        graph.initializer.append(weight)
        conv = helper.make_node("Conv", [node.input[0], weight.name], ["e1.c1"],
                                kernel_shape=[3, 3], pads=[1] * 4)
        node.CopyFrom(conv)
    edit_graphs(bundle, edit_manifest, change)
    told = disagreements(bundle)
    assert "encoder.1.conv1 is binary in the network, but float in the graph" in told
    layer = next(x for x in inspect_bundle(bundle).layers if x.name == "encoder.1.conv1")
    assert layer.found.bits == 32 and "binary in the network, but" in layer.why


def test_signs_that_the_graph_unpacks_itself_are_no_packed_layer(bundle, edit_manifest):
    """What a bundle without the custom operator would look like: 1 bit stored, float multiplied."""
    def change(graph):
        node = node_of(graph, "e1.c1")
        new = [helper.make_node("Cast", [node.input[1]], ["signs"], to=TensorProto.FLOAT),
               helper.make_node("Transpose", ["signs"], ["turned"], perm=[0, 3, 1, 2])]
        node.CopyFrom(helper.make_node("Conv", [node.input[0], "turned"], ["e1.c1"],
                                       kernel_shape=[3, 3], pads=[1] * 4))
        place_before(graph, "e1.c1", *new)
    edit_graphs(bundle, edit_manifest, change)
    assert "encoder.1.conv1 is binary in the network, but float" in disagreements(bundle)
    layer = next(x for x in inspect_bundle(bundle).layers if x.name == "encoder.1.conv1")
    assert (layer.found.kind, layer.found.bits) == ("float", 1)


def test_claims_of_the_manifest(bundle, edit_manifest):
    original = (bundle / "manifest.json").read_text()
    for match, change in (
            ("precision 'int8', but no layer has it", lambda m: m.update(precision="int8")),
            ("decoder.1.conv1 is full precision in the network, but packed",
             lambda m: m["network"].update(fp_res=[64, 32, 16])),
            ("is binary in the network, but float", lambda m: m["network"].update(fp_res=[])),
            ("should have weights 48x6x3x3, but the graph has 32x6x3x3",
             lambda m: m["network"].update(inner_channel=48)),
            ("onnx_opset 17, but the graph has 18", lambda m: m.update(onnx_opset=17)),
            ("step 400 belongs to group 1, but the manifest states 3",
             lambda m: m["steps"][1].update(group=3)),
            ("step_initializers does not name it",
             lambda m: m["step_initializers"].remove("e1.time")),
            ("names 'ghost', which no graph has",
             lambda m: m["step_initializers"].append("ghost"))):
        edit_manifest(bundle, change)
        assert match in disagreements(bundle), match
        (bundle / "manifest.json").write_text(original)
    assert inspect_bundle(bundle).disagreements == ()
    # Resolutions are names of levels: others for the same levels are the same network.
    edit_manifest(bundle, lambda m: m["network"].update(image_size=99, fp_res=[99]))
    found = inspect_bundle(bundle)
    assert found.disagreements == () and (found.count.height, found.count.width) == (100, 100)


def test_steps_that_are_not_one_graph(bundle, edit_manifest):
    def point_elsewhere(graph):
        alpha, other = (next(t for t in graph.initializer if t.name == name)
                        for name in ("e1.c1.alpha", "e1.c2.alpha"))
        alpha.CopyFrom(other)
        alpha.name = "e1.c1.alpha"
    edit_graphs(bundle, edit_manifest, point_elsewhere, "step_0400.onnx")
    assert "e1.c1.alpha differs from step to step" in disagreements(bundle)
    edit_graphs(bundle, edit_manifest, lambda graph: graph.node.pop(), "step_0000.onnx")
    assert "step_0000.onnx has other nodes" in disagreements(bundle)


@pytest.mark.parametrize("dims", [(16, 3, 3, 2), (96, 3, 1, 1), (288, 1, 1, 1)])
def test_words_that_do_not_fit_their_input(bundle, edit_manifest, dims):
    def change(graph):
        words = next(t for t in graph.initializer if t.name == "e1.c1.words")
        assert tuple(words.dims) == (32, 3, 3, 1)
        words.dims[:] = dims
    edit_graphs(bundle, edit_manifest, change)
    assert "encoder.1.conv1" in disagreements(bundle)
    layer = next(x for x in inspect_bundle(bundle).layers if x.name == "encoder.1.conv1")
    assert layer.found.kind == ("packed" if dims == (288, 1, 1, 1) else "unknown")


def test_layers_too_many_or_too_few(bundle, edit_manifest):
    def change(graph):
        extra = numpy_helper.from_array(np.ones((3, 3, 1, 1), "f4"), "spy.weight")
        graph.initializer.append(extra)
        graph.node.append(helper.make_node("Conv", ["noisy", extra.name], ["spy"]))
        node_of(graph, "e1.c1").op_type = "GroupNormSwish"
        graph.node.append(helper.make_node("Mystery", ["spy"], ["m"], domain="elsewhere"))
    edit_graphs(bundle, edit_manifest, change)
    told = disagreements(bundle)
    assert "the graph's spy (Conv) is not in the network" in told
    assert "the network's encoder.1.conv1 is not in the graph" in told
    assert "operator elsewhere.Mystery is not known" in told


@pytest.mark.parametrize("damage", ["absent", "other", "endless"])
def test_a_fused_operator_is_known_by_our_definition_alone(bundle, edit_manifest, damage):
    for path in sorted(bundle.glob("step_*.onnx")):
        model = onnx.load(path, load_external_data=False)
        function = next(f for f in model.functions if f.name == "NormConv")
        if damage == "absent":
            model.functions.remove(function)
        elif damage == "other":
            function.node[-1].op_type = "Sub"
        else:
            function.node.append(helper.make_node("NormConv", function.input, ["again"],
                                                  domain="bidiff"))
        path.write_bytes(model.SerializeToString(deterministic=True))
    rehash(bundle, edit_manifest)
    told = disagreements(bundle)
    assert "operator bidiff.NormConv is not known" in told
    assert "the network's head.conv is not in the graph" in told
    assert inspect_bundle(bundle).operators["bidiff.NormConv"] > 0


def test_bytes_that_nothing_names(bundle, edit_manifest):
    with open(bundle / "weights.bin", "ab") as stream:
        stream.write(bytes(1 << 20))
    (bundle / "payload.sh").touch()
    rehash(bundle, edit_manifest)
    told = disagreements(bundle)
    assert "bytes that no graph uses" in told
    assert "'payload.sh' is in the folder" in told


def test_refusals_are_one_sentence(bundle, edit_manifest, tmp_path):
    for match, *arguments in (("does not exist", tmp_path / "absent"),
                              ("height and width", bundle, "--size", "big"),
                              ("multiples of", bundle, "--size", "33x32"),
                              ("height and width", bundle, "--size", "0x0"),
                              ("height and width", bundle, "--size", "999999999x8")):
        code, out, err = run(*arguments)
        assert code == 1 and out == "" and len(err.splitlines()) == 1 and match in err
    with pytest.raises(UsageError):
        inspect_bundle(bundle, (33, 32))
    step = bundle / "step_0400.onnx"
    data = bytearray(step.read_bytes())
    data[len(data) // 2] ^= 1
    step.write_bytes(data)
    code, out, err = run(bundle)
    assert code == 1 and out == "" and "SHA-256" in err and "step_0400.onnx" in err
    step.write_bytes(b"\x00nonsense")
    rehash(bundle, edit_manifest)
    code, out, err = run(bundle)
    assert code == 1 and out == "" and "is no ONNX graph" in err


def test_a_hostile_graph_ends_in_a_sentence(bundle, edit_manifest):
    def point_outside(graph):
        tensor = next(t for t in graph.initializer if t.name == "e1.c1.alpha")
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    edit_graphs(bundle, edit_manifest, point_outside, "step_0400.onnx")
    with pytest.raises(BundleError, match="e1.c1.alpha points outside"):
        inspect_bundle(bundle)


def test_a_stranger_s_words_do_not_steer_the_terminal(bundle, edit_manifest):
    def change(manifest):
        manifest.update(precision="\x1b[2Jfloat32", assumptions=["\x1b[31mall is well"], tool=7,
                        source={"name": "\x1b]0;owned\x07\nerror: none", "sha256": None})
    edit_manifest(bundle, change)
    code, out, err = run(bundle)
    assert code == 1 and "?[31mall is well" in out
    assert all(c.isprintable() or c == "\n" for c in out + err)
    json.loads(run(bundle, "--json")[1])
    edit_manifest(bundle, lambda manifest: manifest.update(assumptions=5, source="me",
                                                           precision="float32", zero_weights=[]))
    assert run(bundle)[0] == 0

    def rename(graph):
        node_of(graph, "stem").name = "fine"
        node_of(graph, "e1.c1").op_type = "\x1b[2J"
    edit_graphs(bundle, edit_manifest, rename)
    code, out, err = run(bundle)
    assert code == 1 and out == "" and "is not a printable name" in err and err[:-1].isprintable()


@pytest.mark.soak
def test_random_bytes_in_a_graph_never_crash(bundle, edit_manifest):
    """Any change of a graph gives an inspection or a BundleError, whatever onnx makes of it."""
    step = bundle / "step_1960.onnx"
    original = step.read_bytes()
    random = np.random.default_rng([7, SEED])
    for _ in range(300 if SOAK else 30):
        data = bytearray(original)
        for place in random.integers(0, len(data), random.integers(1, 6)):
            data[place] = random.integers(0, 256)
        step.write_bytes(data)
        rehash(bundle, edit_manifest)
        try:
            to_text(inspect_bundle(bundle))
        except BundleError as error:
            assert "\n" not in str(error)
