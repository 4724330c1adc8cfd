"""inspect finds every place where files and manifest differ, and answers damage in one sentence."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from bidiff_deploy.errors import BundleError, UsageError
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.proof.inspect.text import to_text
from support.inspect_setup import disagreements, edit_graphs, rehash, run
from support.seeds import SEED, SOAK


def alpha_of_another(model):
    alpha, other = (next(t for t in model.graph.initializer if t.name == name)
                    for name in ("e1.c1.alpha", "e1.c2.alpha"))
    alpha.CopyFrom(other)
    alpha.name = "e1.c1.alpha"


def float_convolution(model):
    node = next(node for node in model.graph.node if node.output[0] == "stem")
    node.CopyFrom(helper.make_node("Conv", node.input, node.output, kernel_shape=[3, 3],
                                   pads=[1] * 4))


def rounded(model):
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "compute":
                attribute.s = b"bfloat16"


def other_definition(model):
    next(f for f in model.functions if f.name == "NormConv").node[-1].op_type = "Sub"


def another_output(model):
    model.graph.output.append(helper.make_empty_tensor_value_info("spy"))


@pytest.mark.parametrize("change, difference", [
    (alpha_of_another, "its tensor e1.c1.alpha differs"),
    (float_convolution, "its node stem differs"), (rounded, "its node m0.a differs"),
    (other_definition, "its definition of NormConv differs"),
    (another_output, "it has other parts"),
    (lambda model: model.functions.pop(), "it has other parts"),
    (lambda model: model.graph.initializer.extend([onnx.TensorProto()] * 100_000),
     "it is larger than that graph can be")])
def test_a_step_file_with_another_graph_is_named(bundle, edit_manifest, change, difference):
    before = inspect_bundle(bundle)
    edit_graphs(bundle, edit_manifest, change, "step_0400.onnx")
    found = inspect_bundle(bundle)
    assert found.disagreements == (
        f"step_0400.onnx is not the graph of its network: {difference}",)
    assert disagreements(bundle) == found.disagreements[0]
    assert (found.layers, found.operators) == (before.layers, before.operators)


def test_every_file_is_compared(bundle, edit_manifest):
    edit_graphs(bundle, edit_manifest, rounded)
    found = inspect_bundle(bundle)
    assert len(found.disagreements) == len(found.bundle.steps) == 3


def test_claims_of_the_manifest(bundle, edit_manifest):
    original = (bundle / "manifest.json").read_text()
    for match, change in (
            ("step_1960.onnx is not the graph of its network: its node ",
             lambda m: m.update(precision="bfloat16")),
            ("onnx_opset 17, but the graph has 18", lambda m: m.update(onnx_opset=17)),
            ("bidiff_opset 1, but the graph has 2", lambda m: m.update(bidiff_opset=1)),
            ("step 400 belongs to group 1, but the manifest states 3",
             lambda m: m["steps"][1].update(group=3)),
            ("step_0400.onnx is not the graph of its network: its tensor e1.c1.alpha differs",
             lambda m: m["tensors"].update({"e1.c1.alpha": m["tensors"]["e1.c2.alpha"]})),
            ("step_0400.onnx is not the graph of its network: its tensor ",
             lambda m: m["steps"][1].update(offsets=m["steps"][0]["offsets"])),
            ("tensors in weights.bin overlap", lambda m: m["tensors"].update(
                {"e1.c1.alpha": m["tensors"]["e1.c2.alpha"] + 64}))):
        edit_manifest(bundle, change)
        assert match in disagreements(bundle), match
        (bundle / "manifest.json").write_text(original)
    for match, change in (
            ("precision 'int4' is not known", lambda m: m.update(precision="int4")),
            ("does not fit its network", lambda m: m["network"].update(fp_res=[64, 32, 16])),
            ("does not fit its network", lambda m: m["network"].update(fp_res=[])),
            ("does not fit its network", lambda m: m["network"].update(inner_channel=48)),
            ("one offset for each", lambda m: m["step_initializers"].pop()),
            ("step_initializers are not those",
             lambda m: m["step_initializers"].__setitem__(0, "ghost"))):
        edit_manifest(bundle, change)
        code, out, err = run(bundle)
        assert (code, out, err.count("\n")) == (1, "", 1) and str(bundle) in err
        with pytest.raises(BundleError, match=match):
            inspect_bundle(bundle)
        (bundle / "manifest.json").write_text(original)
    assert inspect_bundle(bundle).disagreements == ()
    # Resolutions are names of levels: others for the same levels are the same network.
    edit_manifest(bundle, lambda m: m["network"].update(image_size=99, fp_res=[99]))
    found = inspect_bundle(bundle)
    assert found.disagreements == () and (found.count.height, found.count.width) == (100, 100)


def test_bytes_that_nothing_names(bundle, edit_manifest):
    with open(bundle / "weights.bin", "ab") as stream:
        stream.write(bytes(1 << 20))
    (bundle / "payload.sh").touch()
    rehash(bundle, edit_manifest)
    told = disagreements(bundle)
    assert "bytes that no tensor uses" in told
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
    assert "step_0400.onnx is not the graph of its network: it is no ONNX graph" in \
        disagreements(bundle)


def test_a_stranger_s_words_do_not_control_the_terminal(bundle, edit_manifest):
    def change(manifest):
        manifest.update(onnx_opset=17, assumptions=["\x1b[31mall is well"],
                        source={"name": "\x1b]0;owned\x07\nerror: none", "sha256": None})
    edit_manifest(bundle, change)
    (bundle / "\x1b[2J").touch()
    code, out, err = run(bundle)
    assert code == 1 and "\\x1b[31mall is well" in out
    assert all(c.isprintable() or c == "\n" for c in out + err) and err.count("\n") == 1
    json.loads(run(bundle, "--json")[1])
    (bundle / "\x1b[2J").unlink()
    edit_manifest(bundle, lambda manifest: [manifest.pop(key) for key in (
        "assumptions", "source", "tool", "zero_weights")] and manifest.update(onnx_opset=18))
    assert run(bundle)[0] == 0


@pytest.mark.soak
def test_random_bytes_in_a_graph_never_crash(bundle, edit_manifest):
    """Any change of a graph is a disagreement, or is not one for ONNX either."""
    step = bundle / "step_1960.onnx"
    original = step.read_bytes()
    random = np.random.default_rng([7, SEED])
    for _ in range(300 if SOAK else 15):
        data = bytearray(original)
        for place in random.integers(0, len(data), random.integers(1, 6)):
            data[place] = random.integers(0, 256)
        step.write_bytes(data)
        rehash(bundle, edit_manifest)
        try:
            to_text(inspect_bundle(bundle))
        except BundleError as error:
            assert "\n" not in str(error)
