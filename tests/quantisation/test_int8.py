"""Bundles of precision int8: calibrated, exported, run, checked, and on a CPU without VNNI."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines import library
from bidiff_deploy.engines.onnxruntime import session as sessions
from bidiff_deploy.errors import UsageError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.graphs.lowering import lower_for_tensorrt
from bidiff_deploy.networks.quantised import MAP_LEVELS, WEIGHT_LEVELS
from bidiff_deploy.operators.value_names import short
from bidiff_deploy.proof.bench.folded import write_folded
from bidiff_deploy.proof.check.noise_predictor import check_bundle
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.quantisation.calibrate import calibrate
from bidiff_deploy.training.bounds import loop_samples, train_bounds
from support import run_once
from support.binarizer_setup import checkpoint, inputs, network, predicted, small
from support.inspect_setup import check_layers
from support.reference_cases import snr

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

TIMESTEPS = (70, 10)  # of two groups
CONVOLUTIONS = 4  # of the two full-precision residual blocks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A network, its checkpoint with bounds, and its bundle."""
    folder = tmp_path_factory.mktemp("int8")
    rng = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).save(folder / f"{index}.png")
    module = network(small("bi-diffsr"))
    found = checkpoint(module)
    told = []
    ranges = calibrate(found, TIMESTEPS, folder, threads=1,
                       on_crop=lambda done, total: told.append((done, total)))
    assert told[-1] == (32, 32) and ranges.images == 2 and ranges.spread > 1
    found = dataclasses.replace(found, bounds=ranges.bounds)
    export_bundle(found, folder / "b", timesteps=TIMESTEPS, precision="int8")
    return module, found, folder / "b"


def test_every_engine_computes_the_network_within_its_bytes(made, tmp_path):
    module, _, path = made
    noisy, condition = inputs()
    with load_bundle(path, threads=1) as engine:
        images = {timestep: engine.predict(noisy, condition, timestep) for timestep in TIMESTEPS}
        assert ", int8, " in engine.description
    for timestep, found in images.items():
        assert 25 < snr(predicted(module, noisy, condition, timestep), found) < 60
        # Its files are complete graphs for other programs, and so is bench's baseline.
        for file in (path / f"step_{timestep:04d}.onnx",
                     write_folded(open_bundle(path), timestep, tmp_path)):
            same = run_once.run(file, {"noisy": noisy, "condition": condition}, fuse=False)
            assert snr(found, same) > 30  # rounding decides few values, and signs after them


def test_onnxruntime_multiplies_bytes(made, tmp_path, monkeypatch):
    options = sessions.session_options

    def saving(*arguments, **keywords):
        found = options(*arguments, **keywords)
        found.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        return found

    monkeypatch.setattr(sessions, "session_options", saving)
    load_bundle(made[2], threads=1).close()
    model = onnx.load(tmp_path / "optimised.onnx", load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QLinearConv") == CONVOLUTIONS and "Conv" not in kinds


def test_weights_are_the_checkpoints_in_7_bits(made):
    _, found, path = made
    graphs = StepGraphs(open_bundle(path))
    values = {**graphs.shared(), **graphs.constants(TIMESTEPS[0])}
    layers = found.network.int8_layers(found.config)
    assert len(layers) == CONVOLUTIONS
    for name in layers:
        whole, scale = (values[f"{short(name)}.{part}"] for part in ("weight", "weight_scale"))
        assert whole.dtype == np.int8 and np.abs(whole).max() <= WEIGHT_LEVELS
        exact, step = found.state[f"{name}.weight"], scale[:, None, None, None]
        limit = WEIGHT_LEVELS * step
        assert (np.abs(whole * step - np.clip(exact, -limit, limit)) <= step * 0.501).all()
        assert values[f"{short(name)}.input_scale"] == np.float32(
            found.bounds[name].input / MAP_LEVELS)


def test_check_passes_and_finds_a_wrong_weight(made):
    _, found, path = made
    result = check_bundle(open_bundle(path), found, threads=1, timesteps=[70], size=(16, 16))
    assert result, [verdict.reason for verdict in result.failures]
    name = "decoder.6.conv1.weight"
    weight = found.state[name].copy()
    weight[0] = np.roll(weight[0], 1)
    wrong = dataclasses.replace(found, state={**found.state, name: weight})
    result = check_bundle(open_bundle(path), wrong, threads=1, timesteps=[70], size=(16, 16))
    assert [part.end for part in result.segments if not part.passed] == ["decoder.6.h"]


def test_inspect_lists_them(made):
    found = inspect_bundle(made[2], (32, 32))
    assert found.disagreements == () and found.to_dict()["kinds"]["int8"] == CONVOLUTIONS
    check_layers(found)
    sizes = [layer.weight for layer in found.layers if layer.found.kind == "int8"]
    assert all(size.disk < 0.45 * size.checkpoint for size in sizes)


def test_graphs_for_tensorrt_have_the_same_bytes(made):
    """What its builder makes of them is seen where it runs; here that they compute the same."""
    from support.lowered_graphs import check_form, contract, session, step_inputs

    graphs = StepGraphs(open_bundle(made[2]))
    noisy, condition = inputs()
    lowered = lower_for_tensorrt(graphs, variant="dense", float16=False,
                                 shape=(1, *noisy.shape[2:]))
    model = onnx.load_model_from_string(lowered.model)
    check_form(model, static=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 3 * CONVOLUTIONS
    from bidiff_deploy.graphs.update import FACTORS

    feeds = {"noisy": noisy, "condition": condition,
             **step_inputs("dense", graphs.constants(70)),
             **dict.fromkeys(FACTORS, np.ones(1, np.float32))}
    with load_bundle(made[2], threads=1) as engine:
        expected = engine.predict(noisy, condition, 70)
    assert snr(expected, session(contract(model)).run(["prediction"], feeds)[0]) > 30


def test_trained_bounds_bring_the_network_closer(made):
    """4 bits, simulated: ranges of the whole maps are too wide for 15 values."""
    _, found, _ = made
    wide = {name: dataclasses.replace(bounds, input=3 * bounds.input, output=3 * bounds.output)
            for name, bounds in found.bounds.items()}
    crops = [np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8)]
    done = []
    trained = train_bounds(found, wide, TIMESTEPS, crops, 6, batch=2, weight_levels=7,
                           map_levels=7, on_iteration=done.append)
    assert done == list(range(1, 7)) and set(trained) == set(wide)
    for name, bounds in trained.items():
        assert bounds.input < wide[name].input and bounds.output < wide[name].output
        assert not np.array_equal(bounds.weight, wide[name].weight)


def test_only_groups_that_the_loop_visits_are_calibrated(made):
    """A loop that starts from the noised input at 20 never sees the group of 70."""
    found = dataclasses.replace(made[1], sampling={"start": 20}, bounds={})
    ranges = calibrate(found, TIMESTEPS, made[2].parent, threads=1)
    assert {tuple(groups) for groups in ranges.by_group.values()} == {(0,)} and ranges.spread == 1
    samples = loop_samples(made[0], found, TIMESTEPS, [np.zeros((9, 7, 3), np.uint8)])
    assert [sample.timestep for sample in samples] == [10]


def test_the_command_calibrates_and_says_on_what(made, tmp_path):
    from click.testing import CliRunner

    from bidiff_deploy.checkpoint.packed import write_packed
    from bidiff_deploy.cli import group

    def run(*arguments):
        return CliRunner().invoke(group, ["export", str(tmp_path / "m.safetensors"), "-o",
                                          str(tmp_path / "b"), "--timesteps", "10", *arguments])

    write_packed(tmp_path / "m.safetensors", made[1])
    images = str(made[2].parent)
    for arguments in (("--precision", "int8"), ("--calibration", images)):
        refused = run(*arguments)
        assert refused.exit_code == 1
        assert "--precision int8 and --calibration belong together" in refused.stderr
    done = run("--precision", "int8", "--calibration", images, "--threads", "1", "--train-bounds",
               "1", "--quiet", "--json")
    told = json.loads(done.stdout)
    assert told["precision"] == "int8"
    assert told["calibration"] == {"images": 2, "crops": 32, "spread": 1.0, "trained": 1}
    assert open_bundle(tmp_path / "b").precision == "int8"


def test_networks_without_such_layers_are_refused(tmp_path, made):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    binary = checkpoint(network(small("bi-diffsr", fp_res=())))
    with pytest.raises(UsageError, match="no full-precision layer that int8 concerns"):
        calibrate(binary, (70,), tmp_path)
    with pytest.raises(UsageError, match="has no bounds of decoder.6.conv1, which int8 needs"):
        export_bundle(dataclasses.replace(made[1], bounds={}), tmp_path / "b", timesteps=(70,),
                      precision="int8")
    with pytest.raises(UsageError, match="contains no images"):
        calibrate(made[1], (70,), Path(__file__).parent)


SATURATION = """
import numpy as np, onnxruntime, sys
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path, options)
    print(session.run(None, {"x": np.full((1, 64, 4, 4), 127, np.float32)})[0].flat[0])
"""


def products_of(level: int) -> onnx.ModelProto:
    """A convolution in int8 whose 64 x 64 weights are all ``level`` thousandths."""
    helper, f = onnx.helper, np.float32

    def value(name, array):
        return onnx.numpy_helper.from_array(np.asarray(array), name)

    nodes = [helper.make_node(kind, inputs.split(), [output], **options)
             for kind, inputs, output, options in (
        ("QuantizeLinear", "x s z", "q", {}), ("DequantizeLinear", "q s z", "d", {}),
        ("DequantizeLinear", "w ws wz", "t", {"axis": 0}), ("Conv", "d t", "c", {}),
        ("QuantizeLinear", "c e z", "r", {}), ("DequantizeLinear", "r e z", "y", {}))]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [1, 64, 4, 4])],
        [helper.make_tensor_value_info("y", 1, None)], [
            value("s", f(1)), value("z", np.int8(0)),
            value("w", np.full((64, 64, 1, 1), level, np.int8)),
            value("ws", np.full(64, 0.001, f)), value("wz", np.zeros(64, np.int8)),
            value("e", f(8))])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.skipif(not shutil.which("qemu-x86_64-static") or platform.machine() != "x86_64",
                    reason="qemu-x86_64-static is not installed, or this is no x86-64")
def test_products_of_7_bits_do_not_saturate_on_avx2(tmp_path):
    """A Haswell, emulated: 64 products of 127 by the level, times 0.001, in steps of 8. With 8 bits
    the sum of two products leaves 16 bits."""
    files = [str(tmp_path / f"{level}.onnx") for level in (63, 127)]
    for level, file in zip((63, 127), files):
        onnx.save(products_of(level), file)
    run = subprocess.run(
        ["qemu-x86_64-static", "-cpu", "Haswell", sys.executable, "-c", SATURATION, *files],
        capture_output=True, text=True, timeout=300, env={"OMP_NUM_THREADS": "1"})
    seven, eight = map(float, run.stdout.split())
    assert seven == 8 * round(64 * 127 * 63 * 0.001 / 8)
    assert eight < 0.1 * 64 * 127 * 127 * 0.001
