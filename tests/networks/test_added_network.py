"""A network from outside the package: its record is all that the package needs to know."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.errors import BundleError, CheckpointError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.networks import NETWORKS
from bidiff_deploy.proof.check.one_run import check_one_run
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from support.inspect_setup import check_layers
from support.reference_cases import snr
from support.toy_network import SCALE, Toy, ToyConfig

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """The two lines by which a network is added, each in a table."""
    from bidiff_deploy.training.networks import MODULES
    from support.toy_module import ToyModule

    monkeypatch.setitem(NETWORKS, Toy.name, Toy())
    monkeypatch.setitem(MODULES, Toy.name, ToyModule)


@pytest.fixture
def module():
    from support.toy_module import seeded

    return seeded(ToyConfig())


@pytest.fixture
def file(module, tmp_path):
    path = tmp_path / "toy.pth"
    torch.save({f"toy.{name}": value if value.ndim != 2 else value.reshape(1, -1, 1, 1)
                for name, value in module.state_dict().items()}, path)
    return path


def test_it_is_recognised_packed_and_exported(module, file, tmp_path):
    found = read_checkpoint(file)
    assert (found.config, found.scale, found.assumptions) == (ToyConfig(24), SCALE,
                                                              ("it is a toy",))
    write_packed(tmp_path / "toy.safetensors", found)
    again = read_checkpoint(tmp_path / "toy.safetensors")
    assert again.config == found.config and all(
        np.array_equal(again.state[name], value) for name, value in found.state.items())
    manifest = export_bundle(again, tmp_path / "toy.bundle")
    assert (manifest["model"], manifest["kind"]) == ("toy", "feedforward")
    inspected = inspect_bundle(tmp_path / "toy.bundle")
    assert inspected.disagreements == ()
    check_layers(inspected)


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-stock"])
def test_it_runs_and_passes_check(module, file, tmp_path, backend):
    checkpoint = read_checkpoint(file)
    export_bundle(checkpoint, tmp_path / "toy.bundle")
    image = np.random.default_rng(0).random((2, 3, 21, 34), np.float32)
    with load_bundle(tmp_path / "toy.bundle", threads=1, backend=backend) as engine:
        with torch.inference_mode():
            expected = module(torch.from_numpy(image)).numpy()
        assert snr(expected, engine.enlarge(image)) > 100
        pixels = np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)
        assert np.array_equal(engine.upscale(pixels, tile=64), engine.upscale(pixels, tile=None))
    result = check_one_run(open_bundle(tmp_path / "toy.bundle"), checkpoint, backend=backend,
                           threads=1)
    assert result, result.failures
    assert [layer.layer for layer in result.layers] == ["body"]


def test_check_finds_one_changed_weight(module, file, tmp_path):
    checkpoint = read_checkpoint(file)
    export_bundle(checkpoint, tmp_path / "toy.bundle")
    checkpoint.binary["body.weight"].words[3, 1, 1, 0] ^= 1
    assert not check_one_run(open_bundle(tmp_path / "toy.bundle"), checkpoint, threads=1)


def test_commands_take_it(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save("a.png")
    for command in ("export toy.pth -o toy.bundle", "upscale toy.bundle a.png -o b.png",
                    "check toy.bundle toy.pth --size 9x9", "inspect toy.bundle"):
        result = CliRunner().invoke(group, command.split())
        assert result.exit_code == 0, result.output
    with Image.open("b.png") as image:
        assert image.size == (14, 10)


def test_without_its_record_files_are_refused(file, tmp_path, monkeypatch):
    export_bundle(read_checkpoint(file), tmp_path / "toy.bundle")
    monkeypatch.delitem(NETWORKS, Toy.name)
    with pytest.raises(BundleError, match="'toy' is not known"):
        open_bundle(tmp_path / "toy.bundle")
    with pytest.raises(CheckpointError, match="is a checkpoint of no known network"):
        read_checkpoint(file)


def test_a_kind_that_is_not_the_networks_is_refused(file, tmp_path):
    export_bundle(read_checkpoint(file), tmp_path / "toy.bundle")
    manifest = tmp_path / "toy.bundle" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "kind": "diffusion"}))
    with pytest.raises(BundleError, match="kind 'diffusion' is not that of its network toy"):
        open_bundle(tmp_path / "toy.bundle")
