"""Feed-forward bundles of precision int8: calibrated on images, run, checked, lowered."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.cli import group
from bidiff_deploy.engines import library
from bidiff_deploy.engines.onnxruntime import session as sessions
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.graphs.lowering import lower_for_tensorrt
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from bidiff_deploy.proof.bench.folded import write_folded
from bidiff_deploy.proof.check.one_run import check_one_run
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.quantisation.calibrate import calibrate
from bidiff_deploy.training.bounds import train_bounds
from support.bbcu_networks import SMALL, checkpoint_of, random_network
from support.lowered_graphs import check_form, session
from support.reference_cases import snr

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

CONFIG = BbcuConfig(channels=40, blocks=2, alignment=20.0, tail="direct", float_layers=3)
LAYERS = ("body.0", "body.1", "body.3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint with bounds, its bundle, and the folder of images it was calibrated on."""
    folder = tmp_path_factory.mktemp("int8")
    rng = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).save(folder / f"{index}.png")
    found = checkpoint_of(random_network(CONFIG))
    ranges = calibrate(found, (), folder, threads=1)
    assert tuple(ranges.bounds) == LAYERS and ranges.spread == 1
    found = dataclasses.replace(found, bounds=ranges.bounds)
    export_bundle(found, folder / "b", precision="int8")
    return found, folder / "b", folder


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(5).random((1, 3, 14, 18), np.float32)


def test_every_engine_computes_the_network_within_its_bytes(made, picture, tmp_path, monkeypatch):
    found, path, _ = made
    options = sessions.session_options

    def saving(*arguments, **keywords):
        made = options(*arguments, **keywords)
        made.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        return made

    export_bundle(found, tmp_path / "exact")
    with load_bundle(tmp_path / "exact", threads=1) as engine:
        exact = engine.enlarge(picture)
    monkeypatch.setattr(sessions, "session_options", saving)
    with load_bundle(path, threads=1) as engine:
        whole = engine.enlarge(picture)
        assert ", int8, " in engine.description
    assert 25 < snr(exact, whole) < 70
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx",
                                                load_external_data=False).graph.node]
    assert kinds.count("QLinearConv") == len(LAYERS) and kinds.count("WinogradConv") == 2
    # Its file is a complete graph for other programs, and so are bench's baseline and TensorRT's.
    graph = lower_for_tensorrt(StepGraphs(open_bundle(path)), variant="dense", float16=False,
                               shape=(1, 14, 18))
    model = onnx.load_model_from_string(graph.model)
    check_form(model, static=True)
    for other in (onnx.load(path / "network.onnx"), model,
                  onnx.load(write_folded(open_bundle(path), 0, tmp_path))):
        assert snr(whole, session(other).run(None, {"picture": picture})[0]) > 30


def test_check_passes_and_finds_a_wrong_weight(made):
    found, path, _ = made
    result = check_one_run(open_bundle(path), found, threads=1, size=(14, 18))
    assert result, [verdict.reason for verdict in result.failures]
    assert [part.end for part in result.segments if part.end.endswith(".sum")] == [
        f"{name}.sum" for name in LAYERS]
    weight = found.state["body.1.weight"].copy()
    weight[0] = np.roll(weight[0], 1)
    wrong = dataclasses.replace(found, state={**found.state, "body.1.weight": weight})
    result = check_one_run(open_bundle(path), wrong, threads=1, size=(14, 18))
    assert [part.end for part in result.segments if not part.passed] == ["body.1.sum"]


def test_inspect_lists_them(made):
    found = inspect_bundle(made[1], (32, 32))
    assert found.disagreements == () and found.to_dict()["kinds"]["int8"] == len(LAYERS)


def test_bounds_are_trained_on_the_images(made):
    found = made[0]
    wide = {name: dataclasses.replace(bounds, input=3 * bounds.input, output=3 * bounds.output)
            for name, bounds in found.bounds.items()}
    crops = [np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8)]
    trained = train_bounds(found, wide, (), crops, 4, batch=1, weight_levels=7, map_levels=7)
    assert all(trained[name].input < wide[name].input for name in LAYERS)


def test_the_command_calibrates_and_refuses_a_network_without_such_layers(made, tmp_path):
    def export(checkpoint, *options):
        write_packed(tmp_path / "m.safetensors", checkpoint, overwrite=True)
        return CliRunner().invoke(group, [
            "export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "b"), "--precision",
            "int8", "--calibration", str(made[2]), *options])

    done = export(made[0], "--threads", "1")
    assert done.exit_code == 0, done.stderr
    assert "calibrated on 32 crops of 2 images\n" in done.stderr
    refused = export(checkpoint_of(random_network(SMALL[2])), "--overwrite")
    assert refused.exit_code == 1 and "no full-precision layer that int8 concerns" in refused.stderr
