"""Latent networks through the commands, and as plain ONNX files that other runtimes run."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.cli.bench import latent_table
from bidiff_deploy.errors import UsageError
from bidiff_deploy.export.one_file import NOISE_SIDE, one_file_model
from bidiff_deploy.networks.base import DECODER, ENCODER
from bidiff_deploy.networks.costs import Layer
from bidiff_deploy.proof.bench.latent import bench_latent
from bidiff_deploy.proof.check.latent import check_latent
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.sampling.noise import gaussian_noise
from support import run_once
from support.inspect_setup import disagreements, edit_graphs
from support.latent_cases import VQ
from support.reference_cases import snr
from support.report_pages import one_examination

NAME = "ditsr_tiny"
pytestmark = pytest.mark.usefixtures("kept_sessions")


def run(*arguments: object):
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def packed(latent, tmp_path_factory):
    """The published network, for one step."""
    path = tmp_path_factory.mktemp("packed") / "one.safetensors"
    done = run("pack", latent.file(NAME), "--autoencoder", latent.file(VQ), "--timesteps", "14",
               "--sampler", "deterministic", "-o", path)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def exported(packed):
    """Its bundle, and what the command says of it."""
    bundle = packed.with_name("one.bundle")
    done = run("export", packed, "-o", bundle, "--json")
    assert done.exit_code == 0, done.output
    return bundle, json.loads(done.stdout)


# -- commands -------------------------------------------------------------------------------------
def test_commands_take_it(packed, exported, tmp_path):
    bundle, told = exported
    assert told["steps"] == [14]
    opened = open_bundle(bundle)
    assert (opened.sampler, opened.timesteps, opened.scale) == ("deterministic", (14,), 4)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    done = run("upscale", bundle, tmp_path / "a.png", "-o", tmp_path / "b.png", "--quiet")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (52, 36)
    done = run("check", bundle, packed, "--size", "9x13", "--images", tmp_path / "a.png", "--quiet")
    assert done.exit_code == 0, done.output
    done = run("inspect", bundle)
    assert done.exit_code == 0 and "deterministic sampler" in done.stdout, done.output
    for words in ("658.1 k parameters", "encoder", "bidiff.NormConv"):
        assert words in done.stdout


@pytest.mark.parametrize("words, sentence", [
    (["export", "FILE", "-o", "x"], "without its autoencoder"),
    (["export", "PACKED", "-o", "x", "--precision", "half"], "has no --precision half"),
    (["export", "PACKED", "-o", "x", "--timesteps", "15"], "timestep"),
    (["export-onnx", "PACKED", "-o", "x", "--precision", "half"], "leave --precision out"),
    (["export-onnx", "PACKED", "-o", "x", "--part", "encoder", "--step", "3"], "no time steps"),
    (["export-onnx", "BOTH", "-o", "x"], "samples in 15 steps.*--part encoder"),
    (["check", "BUNDLE", "PACKED", "--truth", "a"], "--truth and --save are not supported"),
    (["check", "BUNDLE", "PACKED", "--timesteps", "3,20"], "has no timestep 20"),
    (["check", "BUNDLE", "PACKED", "--backend", "tensorrt"], "cannot be checked")])
def test_what_does_not_fit_is_refused(latent, packed, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    files = {"FILE": latent.file(NAME), "PACKED": packed, "BOTH": latent.packed(NAME),
             "BUNDLE": latent.bundle(NAME)}
    done = run(*(files.get(word, word) for word in words))
    assert done.exit_code == 1 and not list(tmp_path.iterdir())
    assert re.search(sentence, " ".join(done.output.split())), done.output


def test_export_onnx_of_another_network_has_no_parts(reference):
    with pytest.raises(UsageError, match="BI-DiffSR, which has no encoder; leave --part out"):
        one_file_model(reference.read("tiny"), part=ENCODER)


# -- inspect and check ----------------------------------------------------------------------------
def test_inspect_reads_the_counted_layers_from_the_graphs(latent):
    found = inspect_bundle(latent.bundle(NAME))
    assert found.disagreements == ()
    counted: list[Layer] = list(found.count.layers)
    assert [layer.name for layer in found.layers] != []
    expected = {layer.name: (layer.shape, layer.macs) for layer in counted}
    assert len(expected) == len(counted) == len(found.layers)
    for layer in found.layers:
        assert (layer.found.shape, layer.found.macs) == expected[layer.name], layer.name
    total = sum(int(np.prod(shape)) for name in (NAME, VQ)
                for shape in latent.layout(name)["parameters"].values())
    assert found.count.parameters == total
    checkpoint = sum(layer.weight.checkpoint for layer in found.layers)
    assert checkpoint + sum(part.checkpoint for part in found.parts.values()) == 4 * total


def test_inspect_finds_another_graph(latent, tmp_path, edit_manifest):
    shutil.copytree(latent.bundle(NAME), tmp_path / "b")
    edit_graphs(tmp_path / "b", edit_manifest,
                lambda model: model.graph.node[5].output.append("more"), "decoder.onnx")
    assert "decoder.onnx is not the graph of its network" in disagreements(tmp_path / "b")


@pytest.mark.parametrize("name, part", [
    ("input_blocks.1.0.blocks.1.adaLN_scale_mlp.1.weight", "14"),
    ("vq.decoder.conv_out.weight", "decoder")])
def test_check_finds_one_changed_weight(packed, exported, name, part):
    pytest.importorskip("torch")
    checkpoint = read_checkpoint(packed)
    value = checkpoint.state[name] = checkpoint.state[name].copy()
    value.reshape(-1)[0] += 0.5
    result = check_latent(open_bundle(exported[0]), checkpoint, threads=1, size=(32, 32))
    assert [verdict.name for verdict in result.failures] == [part]
    assert "is below 90.000 dB" in result.failures[0].reason
    assert type(result).from_dict(json.loads(result.to_json())) == result


def test_bench_measures_each_part_and_its_share(exported):
    found = bench_latent(open_bundle(exported[0]), size=(32, 32), threads=1, rounds=1)
    parts = found.parts("packed")
    assert set(parts) == {"encoder", "step", "decoder"} and all(parts.values())
    assert found.image_seconds("packed") == sum(parts.values())
    assert found.agreement == {"onnxruntime": np.inf}  # nothing of it is packed
    text = latent_table(found)
    assert "an image" in text and "(1 run)" in text and "agrees to equal" in text
    json.dumps(found.to_dict(), allow_nan=False)
    for options, sentence in (({"against": ["torch"]}, "'torch' cannot be measured"),
                              ({"size": (30, 32)}, "multiples of 32"),
                              ({"steps": 2}, "steps is 2")):
        with pytest.raises(UsageError, match=sentence):
            bench_latent(open_bundle(exported[0]), **{"size": (32, 32), "threads": 1, **options})


def test_report_shows_pictures_and_parity(packed, shared, tmp_path):
    pytest.importorskip("polygraphy")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with one_examination(shared):
        done = run("report", packed, tmp_path / "a.png", "-o", tmp_path / "r.html", "--size",
                   "128x128", "--threads", "1")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "r.html").read_text()
    for words in ("all in float32", "3 of 3", "Encoder, steps and decoder", "The network",
                  "deterministic", "steps of a latent network are latents"):
        assert words in page, words
    assert "1-bit" not in page and "packed to bits" not in page


# -- plain ONNX -----------------------------------------------------------------------------------
def test_parts_and_steps_equal_the_published_code(latent):
    checkpoint = latent.read(NAME)
    case, coder = latent.arrays("forward_ditsr_tiny"), latent.arrays("forward_vq_f4_tiny")
    step = one_file_model(checkpoint, step=7)
    assert {opset.domain: opset.version for opset in step.opset_import} == {"": 17}
    found = run_once.run(step, {"noisy": case["square_x"], "condition": case["square_lq"]})
    assert snr(case["square_prediction"][1], found) > 110
    found = run_once.run(one_file_model(checkpoint, part=ENCODER), {"image": coder["wide_image"]})
    assert snr(coder["wide_latent"], found) > 105
    found = run_once.run(one_file_model(checkpoint, part=DECODER),
                         {"latent": coder["wide_latent"]})
    assert snr(coder["wide_decoded"], found) > 100


def test_one_file_makes_the_engines_image(packed, exported, tmp_path):
    done = run("export-onnx", packed, "-o", tmp_path / "x.onnx", "--seed", 3, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["timestep"] == 14
    images = np.random.default_rng(0).random((2, 3, 20, 27), np.float32)
    found = run_once.run(tmp_path / "x.onnx", {"input": images})
    noise = gaussian_noise((1, 3, NOISE_SIDE, NOISE_SIDE), 3)[:, :, :32, :32]
    with load_bundle(exported[0], threads=1) as engine:
        expected = engine.sample(images, np.repeat(noise, 2, axis=0))
    assert found.shape == expected.shape == (2, 3, 80, 108)
    assert snr(expected, found) > 100
