"""The commands with the TensorRT backends: each mistake of ``build`` in a sentence, ``--graph``,
which needs no TensorRT, and the others on a stand-in that computes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

from bidiff_deploy.doctor import probes
from bidiff_deploy.engines import TENSORRT
from bidiff_deploy.engines.tensorrt.build import builder as tensorrt_builder
from bidiff_deploy.engines.tensorrt.profiles import Profile, default_profile
from bidiff_deploy.errors import EngineError, UsageError
from bidiff_deploy.networks import network_of
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from stand_ins import tensorrt as tensorrt_stand_in
from support.tensorrt_building import build, refusal, run, static

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
    noisy = next(value for value in model.graph.input if value.name == "noisy")
    assert [dim.dim_value or dim.dim_param for dim in noisy.type.tensor_type.shape.dim] == first
    assert not model.functions
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


# -- other commands -----------------------------------------------------------------------------


def test_the_commands(trt, tiny, reference, tmp_path):
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "in.png")
    upscale = (tiny, tmp_path / "in.png", "-o", tmp_path / "out.png", "--backend", "tensorrt",
               "--device", "0", "--quiet")
    _, told = run(*upscale, command="upscale", code=1)
    assert told.startswith("error: there is no plugin plan") and "`" in told
    assert told.count("\n") == 1
    for variant in ("plugin", "dense"):
        build(tiny, static(1, 16, 24), variant=variant)
    run(*upscale, command="upscale")
    assert Image.open(tmp_path / "out.png").size == (24, 16)
    found, _ = run(tiny, "--size", "16x24", "--against", "tensorrt-dense,tensorrt-dense-int8",
                   "--rounds", "1", "--json", "--quiet", "--threads", "1", "--device", "0",
                   command="bench")
    result = json.loads(found)
    assert [one["name"] for one in result["measured"]] == ["packed", "tensorrt-dense"]
    assert all(one["snr"] > 100 for one in result["measured"][1:])
    assert "there is no dense-int8 plan" in result["unavailable"]["tensorrt-dense-int8"]
    pytest.importorskip("torch")
    pytest.importorskip("polygraphy")
    found, _ = run(tiny, reference.checkpoint("tiny"), "--options", reference.options("tiny"),
                   "--backend", "tensorrt", "--device", "0", "--timesteps", "400", "--size",
                   "16x24", "--threads", "1", command="check")
    assert "tensorrt 10.3.0" in found and "only CPU backends return them" in found


def test_the_doctor_builds_and_runs_a_plan(trt, monkeypatch):
    """Each probe in a process of its own, with this one's sys.path."""
    monkeypatch.syspath_prepend(Path(tensorrt_stand_in.__file__).parent / "site")
    found = probes.run("plugin")
    assert found["ok"] and found["tensorrt"].startswith("10.3.0"), found
    found = probes.run("backend:tensorrt")
    assert found["ok"] and found["warnings"] == [], found
    assert f", {TENSORRT['tensorrt']}, by cuda-python" in found["description"]
