"""Hi-Mamba from a checkpoint to an image, against its torch module."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.networks import network_of
from bidiff_deploy.networks.hi_mamba.architecture import HiMambaConfig, parameters
from bidiff_deploy.proof.check.one_run import check_one_run
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from support.inspect_setup import check_layers
from support.reference_cases import snr

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("kept_sessions")

CONFIG = HiMambaConfig(channels=12, groups=2, blocks=4, inner=20, states=3, rank=2, hidden=10,
                       region=3, scale=3)


@pytest.fixture(scope="module")
def network():
    from bidiff_deploy.training.networks import make_module

    torch.manual_seed(0)
    module = make_module(CONFIG)
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim == 1:  # norms, biases, shares: off their initial values
                value += 0.2 * torch.randn_like(value)
    return module.eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    from bidiff_deploy.training.weights import published_state

    path = tmp_path_factory.mktemp("hi_mamba") / "net.pth"
    torch.save(published_state(network, CONFIG), path)
    return path


@pytest.fixture(scope="module")
def bundle(file):
    export_bundle(read_checkpoint(file), file.parent / "net.bundle")
    return file.parent / "net.bundle"


def test_parameters_are_those_of_the_module(network):
    assert {name: tuple(value.shape) for name, value in network.named_parameters()} == {
        name: parameter.shape for name, parameter in parameters(CONFIG).items()}


def test_its_options_are_recognised(network, file, tmp_path):
    assert read_checkpoint(file).config == CONFIG
    state = torch.load(file, weights_only=True)
    del state["region"]
    torch.save(state, tmp_path / "foreign.pth")
    found = read_checkpoint(tmp_path / "foreign.pth")
    assert found.config.region == 4 and "region = 4" in found.assumptions[0]


@pytest.mark.parametrize("remove, sentence", [
    ("head.weight", "no known network"),
    ("groups.0.blocks.0.project.weight", "groups.0.blocks.0.project.weight is missing"),
    ("groups.1.blocks.3.local.scan.log_a", "do not have the same number of blocks"),
    ("groups.1.blocks.2.region.read.weight", "groups.1.blocks.2.region.read.weight")])
def test_an_incomplete_checkpoint_is_refused(file, tmp_path, remove, sentence):
    state = torch.load(file, weights_only=True)
    del state[remove]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(tmp_path / "part.pth")


@pytest.mark.parametrize("options", [{"scale": 5}, {"states": 65}, {"region": 0}, {"depth": 2}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(CheckpointError, match=next(iter(options))):
        HiMambaConfig.from_dict(options)


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-stock"])
def test_engines_equal_torch(network, file, bundle, backend):
    """Two images, sides that regions do not divide, every direction."""
    image = np.random.default_rng(0).random((2, 3, 8, 10), np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    with load_bundle(bundle, threads=1, backend=backend) as engine:
        found = engine.enlarge(image)
        assert found.shape == (2, 3, 24, 30) and snr(expected, found) > 110
    result = check_one_run(open_bundle(bundle), read_checkpoint(file), backend=backend, threads=1,
                           size=(8, 10))
    assert result, result.failures
    assert {"groups.1.blocks.3.region.scan", "groups.0", "shallow"} <= {
        segment.end for segment in result.segments}


@pytest.mark.parametrize("name, change", [
    ("groups.0.blocks.1.local.scan.log_a", 0.02),  # of a decay of 0.98 or so, to a power
    ("groups.1.blocks.0.region.depthwise.weight", 1e-3), ("groups.0.blocks.2.share", 1e-3)])
def test_check_finds_one_changed_weight(file, bundle, name, change):
    checkpoint = read_checkpoint(file)
    checkpoint.state[name].flat[3] += change
    assert not check_one_run(open_bundle(bundle), checkpoint, threads=1, size=(14, 19))


def test_inspect_counts_what_the_record_counts(bundle):
    inspected = inspect_bundle(bundle)
    assert inspected.disagreements == ()
    check_layers(inspected)
    count = network_of(CONFIG).count(CONFIG, 9, 10)
    scans = [layer for layer in count.layers if layer.product]
    assert len(scans) == 16
    assert [layer.macs for layer in scans[:2]] == [3 * 20 * 3 * 9 * 10, 3 * 20 * 3 * 3 * 4]


@pytest.mark.parametrize("command, sentence", [
    ("export {} -o x.bundle --precision half", "precision"),
    ("export {} -o x.bundle --precision fast", "precision"),
    ("export-onnx {} -o x.onnx", "is Hi-Mamba, which export-onnx does not write; make a bundle")])
def test_what_it_has_not_is_refused(file, tmp_path, monkeypatch, command, sentence):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(group, command.format(file).split())
    assert result.exit_code != 0 and sentence in result.output and not list(tmp_path.iterdir())


def test_tiles_are_close_to_the_whole(bundle):
    """Every pixel depends on all before it in a scan, so tiles differ a little."""
    pixels = np.random.default_rng(1).integers(0, 256, (60, 60, 3), np.uint8)
    with load_bundle(bundle, threads=1) as engine:
        whole, tiled = (engine.upscale(pixels, tile=tile) for tile in (None, 96))
    assert whole.shape == tiled.shape == (180, 180, 3)
    assert snr(whole.astype(float), tiled.astype(float)) > 15


def test_it_trains_packs_and_runs_in_commands(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    tmp_path.joinpath("recipe.yaml").write_text(
        "scale: 2\nmodel: hi-mamba\nnetwork: {channels: 8, groups: 1, blocks: 2, inner: 8, "
        "states: 2, rank: 1, hidden: 8}\ndata: {train: [photo.png], validate: [photo.png], "
        "crop: 16}\noptimizer: {learning_rate: 1e-3}\nrun: {batch: 2, iterations: 3, "
        "validate_every: 3, threads: 1}\n")
    for command in ("train recipe.yaml -o run --pack packed.safetensors",
                    "export run/checkpoint.pt -o net.bundle",
                    "check net.bundle run/checkpoint.pt --size 9x10",
                    "upscale net.bundle photo.png -o large.png"):
        result = CliRunner().invoke(group, command.split())
        assert result.exit_code == 0, (command, result.output)
    assert read_checkpoint(tmp_path / "packed.safetensors").config.blocks == 2
    with Image.open("large.png") as image:
        assert image.size == (80, 80)
