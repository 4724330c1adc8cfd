"""The command line of ``bidiff-deploy build``: shapes and other options, each mistake told in a
sentence; and ``--graph``, which needs no TensorRT."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import onnx
import pytest

from bidiff_deploy.engines.tensorrt.build import builder as tensorrt_builder
from bidiff_deploy.engines.tensorrt.profiles import Profile, default_profile
from bidiff_deploy.errors import EngineError, UsageError
from bidiff_deploy.networks import network_of
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from support.tensorrt_building import refusal, run

WRONG = [
    ("--size 60x64", "multiples of 8"),
    ("--size 0x64", "--size '0x64' must be"),
    ("--size large", "--size 'large' must be"),
    ("--size 64x64 --max 64x64", "give either"),
    ("--max 64x64", "belong together; add --min"),
    ("--min 64x64 --max 64x64", "add --opt"),
    ("--min 72x64 --opt 64x64 --max 128x128", "--min 1x72x64 is larger than 1x64x64"),
    ("--min 64x64 --opt 2x64x64 --max 64x64", "--opt 2x64x64 is larger than 1x64x64"),
    ("--min 64 --opt 64x64 --max 64x64", "--min '64' must be"),
    ("--min 2x64x64 --opt 64x64 --max 64x64 --batch 2", "leave out --batch"),
    ("--min 8x8 --opt 12x8 --max 64x64", "1x12x8 (batch x height x width) cannot be run"),
    ("--min 8x8 --opt 8x8 --max 8x99999999", "--max '8x99999999'"),
    ("--int8", "--int8 requires --no-plugin"),
    ("--backend onnxruntime", "'onnxruntime' has no plans"),
    ("--workspace much", "--workspace 'much' must be"),
    ("--workspace 0.4", "--workspace is 0; it must be a whole number of bytes"),
    ("--workspace 99999999TB", "it must be a whole number"),
    ("--size 65536x65536", "smaller shape"),
    ("--graph g.onnx --device 1", "leave out --device"),
    ("--graph g.onnx -o x", "leave out --output"),
]


def test_mistakes_are_reported_in_a_sentence(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, told in WRONG:
        assert told in refusal(tiny, *arguments.split())
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_does_not_exist(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.bundle")


def test_profiles_of_a_network_with_more_levels():
    """Eight levels: sizes are multiples of 128, and so are the defaults."""
    config = NetworkConfig(channel_mults=tuple(1 << level for level in range(8)))
    bundle = SimpleNamespace(config=config, network=network_of(config))
    profile = default_profile(bundle)
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
    assert "in every run; to have them converted once, build the plugin" in err
    assert str(file) in out
    model = onnx.load(file)
    assert shapes_of(model)["noisy"] == first and not model.functions
    assert not any(attribute.name == "layout" and attribute.i
                   for node in model.graph.node for attribute in node.attribute)
    assert "--overwrite" in refusal(tiny, "--graph", file)
    _, err = run(tiny, "--graph", file, "--overwrite", "--no-plugin", *options)
    assert err == "" and all(not node.domain for node in onnx.load(file).graph.node)


def test_a_graph_of_one_file_says_what_a_build_may_do_better(tiny, halved, tmp_path):
    _, err = run(halved, "--graph", tmp_path / "h.onnx", "--no-plugin", "--int8", "--size", "16x16")
    assert err.startswith("note: the graph has opset 17, which every TensorRT reads; ")
    assert run(tiny, "--graph", tmp_path / "t.onnx", "--no-plugin", "--int8")[1] == ""


def test_the_graph_has_prepared_words_where_the_plugin_is(trt, tiny, tmp_path):
    out, err = run(tiny, "--graph", tmp_path / "g.onnx", "--json")
    told = json.loads(out)
    assert told["prepared"] and err == "" and told["inputs"]["noisy"] == ["N", 3, "H", "W"]
    assert told["outputs"] == ["prediction", "latent"]
    layouts = {attribute.i for node in onnx.load(tmp_path / "g.onnx").graph.node
               for attribute in node.attribute if attribute.name == "layout"}
    assert len(layouts) == 1 and 0 not in layouts
