"""Feed-forward bundles: the graph against torch, the engine, tiles, the commands."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image as Pillow

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle, open_noise_predictor
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.cli import group
from bidiff_deploy.engines import library
from bidiff_deploy.errors import BundleError, EngineError, ImageError, UsageError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig, layers
from bidiff_deploy.proof.bench.folded import write_folded
from bidiff_deploy.proof.check.one_run import check_one_run
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from support import run_once
from support.bbcu_networks import EVERY, bundle_of, checkpoint_of, random_network
from support.inspect_setup import check_layers
from support.reference_cases import snr

# Rounding alone leaves 120 dB and more; one flipped sign would take these networks below 100.
PICTURE_SNR = 110.0


@pytest.fixture(scope="module")
def networks():
    return {name: random_network(config) for name, config in EVERY.items()}


@pytest.fixture(scope="module")
def bundles(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bbcu")
    return {name: bundle_of(network, folder / name) for name, network in networks.items()}


@pytest.fixture(scope="module")
def engine(bundles):
    with load_bundle(bundles["x2"], threads=1) as engine:
        yield engine


@pytest.fixture
def copied(bundles, tmp_path):
    return shutil.copytree(bundles["x2"], tmp_path / "copy.bundle")


def pixels(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype,
                                                endpoint=True)


def run(*arguments: object):
    return CliRunner().invoke(group, [str(a) for a in arguments])


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-stock"])
@pytest.mark.parametrize("name", EVERY)
def test_graph_is_the_network(networks, bundles, name, backend):
    scale = EVERY[name].scale
    with load_bundle(bundles[name], threads=1, backend=backend) as engine:
        for seed, shape in enumerate([(1, 3, 13, 18), (2, 3, 4, 3), (1, 3, 1, 1), (1, 3, 1, 9)]):
            picture = np.random.default_rng(seed).random(shape, np.float32)
            found = engine.enlarge(picture)
            with torch.inference_mode():
                wanted = networks[name](torch.from_numpy(picture)).numpy()
            assert found.shape == wanted.shape == (*shape[:2], shape[2] * scale, shape[3] * scale)
            assert snr(wanted, found) > PICTURE_SNR


@pytest.mark.parametrize("name", EVERY)
def test_check_finds_every_integer_exact(networks, bundles, name):
    result = check_one_run(open_bundle(bundles[name]), checkpoint_of(networks[name]),
                               threads=1, size=(9, 14))
    binary = [layer.name for layer in layers(EVERY[name]) if layer.binary]
    assert result and [layer.layer for layer in result.layers] == binary
    assert all(layer.wrong_sums == 0 and layer.rounding <= 1 for layer in result.layers)


def test_check_of_rounded_factors(networks, tmp_path):
    """Each full-precision layer of the body and the last one may round, and no other."""
    found = checkpoint_of(networks["direct"])
    export_bundle(found, tmp_path / "fast.bundle", precision="fast")
    with load_bundle(tmp_path / "fast.bundle", threads=1) as engine:
        assert engine.precision == "bfloat16"
        assert library.rounded_factors() or "float32 (the bundle allows" in engine.description
    compute = {node.name: attribute.s for node in StepGraphs(open_bundle(
        tmp_path / "fast.bundle")).model().graph.node for attribute in node.attribute
        if attribute.name == "compute"}
    assert compute == {"stem": b"float32", "body.0.sum": b"bfloat16", "head": b"bfloat16"}
    result = check_one_run(open_bundle(tmp_path / "fast.bundle"), found, threads=1, size=(9, 14))
    assert result, [verdict.reason for verdict in result.failures]
    assert {"stem", "body.0.sum"} <= {part.end for part in result.segments}
    for layer, end in (("stem", "stem"), ("body.0", "body.0.sum"), ("head", "prediction")):
        weight = found.state[f"{layer}.weight"] * np.float32(1.0001 if layer == "stem" else 1.3)
        wrong = dataclasses.replace(found, state={**found.state, f"{layer}.weight": weight})
        result = check_one_run(open_bundle(tmp_path / "fast.bundle"), wrong, threads=1,
                               size=(9, 14))
        assert [part.end for part in result.segments if not part.passed] == [end]


def test_check_finds_a_wrong_bit_and_a_wrong_threshold(networks, copied, edit_manifest):
    model = onnx.load_model(copied / "network.onnx", load_external_data=False)
    places = {t.name: {e.key: int(e.value) for e in t.external_data if e.key != "location"}
              for t in model.graph.initializer}
    data = bytearray((copied / "weights.bin").read_bytes())
    data[places["up.0.words"]["offset"] + 8] ^= 1
    threshold = places["body.1.threshold"]["offset"]
    data[threshold:threshold + 4] = np.float32(99).tobytes()
    (copied / "weights.bin").write_bytes(data)
    edit_manifest(copied, lambda m: m["files"]["weights.bin"].update(
        sha256=hashlib.sha256(data).hexdigest()))
    result = check_one_run(open_bundle(copied), checkpoint_of(networks["x2"]), threads=1,
                           size=(9, 9))
    wrong = {layer.layer: layer for layer in result.layers if not layer.passed}
    assert not result and set(wrong) == {"up.0", "body.1"}
    assert wrong["up.0"].differing == {"weight bits": 1} and wrong["up.0"].wrong_sums
    assert wrong["body.1"].differing == {"thresholds": 1} and wrong["body.1"].wrong_sums
    assert not result.steps[0].passed


def test_stock_onnxruntime_runs_the_file_itself(networks, bundles):
    session = run_once.session(bundles["x2"] / "network.onnx")
    picture = np.random.default_rng(5).random((1, 3, 6, 7), np.float32)
    with torch.inference_mode():
        wanted = networks["x2"](torch.from_numpy(picture)).numpy()
    assert snr(wanted, session.run(["enlarged"], {"picture": picture})[0]) > PICTURE_SNR


def test_folded_to_float32_it_is_the_network(networks, bundles, tmp_path):
    """The baseline that its speed is measured against."""
    session = run_once.session(write_folded(open_bundle(bundles["x3"]), 0, tmp_path))
    picture = np.random.default_rng(6).random((1, 3, 6, 7), np.float32)
    with torch.inference_mode():
        wanted = networks["x3"](torch.from_numpy(picture)).numpy()
    assert snr(wanted, session.run(None, {"picture": picture})[0]) > PICTURE_SNR


def test_upscale_keeps_the_form(engine):
    for dtype in (np.uint8, np.uint16):
        for shape in ((6, 5, 3), (6, 5), (6, 5, 4), (1, 1, 3), (1, 1)):
            image = pixels(*shape, dtype=dtype)
            large = engine.upscale(image)
            assert large.dtype == dtype and large.shape == (2 * shape[0], 2 * shape[1], *shape[2:])
    image = pixels(6, 5, 3)
    wanted = engine.enlarge(np.ascontiguousarray(
        image.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32))[0]
    wanted = np.rint(wanted.clip(0, 1).transpose(1, 2, 0) * np.float32(255)).astype(np.uint8)
    assert np.array_equal(engine.upscale(image), wanted)
    assert np.array_equal(engine.upscale(image, seed=9), wanted)  # nothing is drawn
    assert engine.upscale(Pillow.fromarray(image[:, :, 0])).mode == "L"


def test_tiles_give_the_pixels_of_the_whole(engine):
    for image in (pixels(101, 70, 3), pixels(90, 71, seed=1), pixels(64, 80, 4, seed=2)):
        whole = engine.upscale(image, tile=None)
        reach = engine.bundle.config.reach
        plan = engine.tile_plan(*image.shape[:2], tile=64)
        assert plan.count > 4 and plan.overlap == 2 * 2 * reach == 32
        done: list[tuple[int, int]] = []
        for tile, on_tile in ((64, lambda *a, done=done: done.append(a)), (96, None)):
            assert np.array_equal(engine.upscale(image, tile=tile, on_tile=on_tile), whole)
        assert done == [(i + 1, plan.count) for i in range(plan.count)]
        # With less overlap than pixels depend on: close, not equal.
        near = engine.upscale(image, tile=64, overlap=4)
        assert not np.array_equal(near, whole)
        assert (near.astype(int) - whole).std() < 0.1 * whole.std()


def test_tiles_fit_the_memory(engine):
    height, width = 700, 900
    plan = engine.tile_plan(height, width, memory=120 << 20)
    assert 1 < plan.count and plan.peak_bytes <= 120 << 20
    assert plan.overlap == 2 * engine.scale * engine.bundle.config.reach
    assert engine.tile_plan(height, width, memory=64 << 30).whole
    with pytest.raises(UsageError, match="is too little"):
        engine.tile_plan(height, width, memory=1 << 20)
    with pytest.raises(UsageError, match="more than half of tile"):
        engine.tile_plan(height, width, tile=64, overlap=40)


_PEAK = """
import sys, numpy as np
from bidiff_deploy import load_bundle
def kib(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))
engine = load_bundle(sys.argv[1], threads=2)
before = kib("VmRSS")
for _ in range(2):
    engine.enlarge(np.zeros((1, 3, 128, 128), np.float32))
print(1024 * (kib("VmHWM") - before), engine.tile_plan(128, 128, tile=None).peak_bytes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="tells no peak of memory")
def test_memory_is_estimated(tmp_path):
    bundle = bundle_of(random_network(BbcuConfig(blocks=1, scale=4)), tmp_path)
    done = subprocess.run([sys.executable, "-c", _PEAK, str(bundle)], text=True, check=True,
                          capture_output=True)
    peak, estimate = map(int, done.stdout.split())
    assert estimate / 2.5 < peak < 1.1 * estimate


def test_what_diffusion_alone_has_is_refused(engine, bundles):
    assert not hasattr(engine, "predict") and not hasattr(engine, "sample")
    for options in ({"steps": 2}, {"start": None}, {"start": 5}):
        with pytest.raises(UsageError, match="has no time steps, so leave"):
            engine.upscale(pixels(4, 4, 3), **options)
    with pytest.raises(BundleError, match="kind 'feedforward', which has no time steps"):
        open_noise_predictor(bundles["x2"])


@pytest.mark.parametrize("picture, says", [
    (np.zeros((1, 3, 4, 4), np.uint8), "is of type uint8"), ([1], "is of type list"),
    (np.zeros((3, 4, 4), np.float32), r"has shape \(3, 4, 4\)"),
    (np.zeros((1, 1, 4, 4), np.float32), r"must be \(N, 3, H, W\)"),
    (np.zeros((1, 3, 0, 4), np.float32), "none of them 0"),
    (np.full((1, 3, 2, 2), np.nan, np.float32), "not finite")])
def test_pictures_that_are_none(engine, picture, says):
    with pytest.raises(UsageError, match=says):
        engine.enlarge(picture)


def test_other_mistakes(engine, bundles):
    with pytest.raises(ImageError, match="list"):
        engine.upscale([1])
    with pytest.raises(UsageError, match="seed"):
        engine.upscale(pixels(4, 4, 3), seed="x")
    with load_bundle(bundles["x2"], threads=1) as closed:
        assert "feed-forward" in closed.description
    with pytest.raises(EngineError, match="closed"):
        closed.enlarge(np.zeros((1, 3, 4, 4), np.float32))


@pytest.mark.parametrize("change, says", [
    (lambda m: m.update(model="srgan"), "model 'srgan' is not known"),
    (lambda m: m.update(scale=3), "scale 3 is not that of its network, 2"),
    (lambda m: m.update(graph="../network.onnx"), "is not allowed"),
    (lambda m: m.update(graph="other.onnx"), "has no hash"), (lambda m: m.pop("graph"), "garbled"),
    (lambda m: m["network"].pop("alignment"), "not complete"),
    (lambda m: m["network"].update(scale=7), "must be one of 2, 3, 4"),
    (lambda m: m.update(bidiff_opset=99), "newer"), (lambda m: m.update(kind="video"), "'video'"),
    (lambda m: m["network"].update(channels=400), "does not fit its network")])
def test_manifests_that_lie(copied, edit_manifest, change, says):
    edit_manifest(copied, change)
    with pytest.raises(BundleError, match=says) as caught:
        load_bundle(copied)
    assert "copy.bundle" in str(caught.value)


def test_inspect_agrees_and_finds_lies(networks, bundles, copied, edit_manifest):
    found = inspect_bundle(bundles["x4"], (32, 48))
    assert not found.disagreements
    check_layers(found)
    assert found.macs["packed"] == found.count.binary_macs
    assert found.macs["float"] == found.count.float_macs
    assert found.total.checkpoint == 4 * sum(v.numel() for v in networks["x4"].parameters())
    edit_manifest(copied, lambda m: m.update(precision="float16"))
    assert inspect_bundle(copied).disagreements == (
        "the manifest states precision 'float16', but no layer has it",)
    edit_manifest(copied, lambda m: m["network"].update(blocks=3))
    with pytest.raises(BundleError, match="does not fit its network"):
        inspect_bundle(copied)


def test_commands(networks, bundles, tmp_path):
    packed, bundle = tmp_path / "small.safetensors", tmp_path / "small.bundle"
    write_packed(packed, checkpoint_of(networks["x2"]))
    assert "feed-forward" in run("export", packed, "-o", bundle).output
    for name in ("network.onnx", "weights.bin"):
        assert (bundle / name).read_bytes() == (bundles["x2"] / name).read_bytes()
    Pillow.fromarray(pixels(9, 8, 3)).save(tmp_path / "in.png", dpi=(72, 72))
    done = run("upscale", bundle, tmp_path / "in.png", "-o", tmp_path / "out.png", "--threads", 1,
               "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)[0]["width"] == 16
    with Pillow.open(tmp_path / "out.png") as image:
        assert image.size == (16, 18) and round(image.info["dpi"][0]) == 72
    told = json.loads(run("inspect", bundle, "--json").stdout)
    assert told["kind"] == "feedforward" and "steps" not in told
    assert "none: feed-forward" in run("inspect", bundle).output
    checked = run("check", bundle, packed, "--size", "8x8", "--threads", 1)
    assert checked.exit_code == 0 and "6 of 6 pass" in checked.output


@pytest.mark.parametrize("arguments, says", [
    ("export {packed} -o {new} --steps 3", "leave --steps"),
    ("export {packed} -o {new} --precision fast", "no --precision fast, only exact, half"),
    ("export {packed} -o {new} --scale 4", "upscales by 2"),
    ("upscale {bundle} {image} -o {new}.png --steps 3", "so leave steps out"),
    ("upscale {bundle} {image} -o {new}.png --start none", "so leave start out"),
    ("check {bundle} {packed} --timesteps 1", "of the options only --backend"),
    ("check {bundle} {other}", "are of different networks"),
    ("bench {bundle} --steps 2", "leave steps out"),
    ("report {bundle} {image} -o {new}.html", "no time"),
    ("export-triton {bundle} -o {new} --tile 63", "tile is 63")])
def test_commands_refuse_in_a_sentence(networks, bundles, tmp_path, arguments, says):
    for key, name in (("x2", "packed"), ("x3", "other")):
        write_packed(tmp_path / f"{name}.safetensors", checkpoint_of(networks[key]))
    Pillow.fromarray(pixels(4, 4)).save(tmp_path / "in.png")
    done = run(*arguments.format(
        bundle=bundles["x2"], packed=tmp_path / "packed.safetensors", image=tmp_path / "in.png",
        other=tmp_path / "other.safetensors", new=tmp_path / "new").split())
    assert done.exit_code == 1 and says in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("new*"))
