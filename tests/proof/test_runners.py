"""The runners in Polygraphy's own Comparator, and the comparison it is given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from polygraphy import config
from polygraphy.comparator import Comparator, RunResults

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines import library
from bidiff_deploy.proof.check.bundle_layers import BundleLayers
from bidiff_deploy.proof.check.runners import EngineRunner, TorchRunner
from bidiff_deploy.proof.check.statistics import StepComparison, compare_step
from support.reference_cases import snr

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("polygraphy")
pytestmark = [
    pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason()),
    pytest.mark.usefixtures("kept_sessions")]

TIMES = [999, 400, 0]


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """Polygraphy then checks that a runner is, once deactivated, as it was before."""
    monkeypatch.setattr(config, "INTERNAL_CORRECTNESS_CHECKS", True)


@pytest.fixture
def bundle(reference):
    return open_bundle(reference.bundle("tiny", TIMES))


def feeds(batch: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"noisy": rng.standard_normal((batch, 3, 16, 12)).astype(np.float32),
             "condition": rng.random((batch, 3, 16, 12), np.float32),
             "timestep": np.array([t], np.int64)} for t in TIMES]


def test_the_comparator_runs_compares_and_saves_them(reference, bundle, tmp_path):
    checkpoint = reference.read("tiny")
    runners = [TorchRunner(bundle, checkpoint, layers=True),
               TorchRunner(bundle, checkpoint, layers=True, channels_last=True),
               EngineRunner(bundle, "onnxruntime-stock", threads=1, layers=True),
               EngineRunner(bundle, "onnxruntime", threads=1, layers=True)]
    results = Comparator.run(runners, data_loader=feeds(batch=2))
    assert list(results.keys()) == ["torch", "torch-channels-last", "onnxruntime-stock",
                                    "onnxruntime"]
    pairs = [(0, 1), (0, 2), (0, 3)]
    compared = Comparator.compare_accuracy(results, comparisons=pairs,
                                           compare_func=StepComparison())
    assert compared
    (found,) = compared
    assert len(found["torch", "onnxruntime"]) == len(TIMES)
    prediction = found["torch", "onnxruntime"][0]["prediction"]
    assert prediction.statistics.snr > 90 and len(prediction.statistics.layers) == 28

    results.save(str(tmp_path / "results.json"))
    again = RunResults.load(str(tmp_path / "results.json"))
    repeated = Comparator.compare_accuracy(again, comparisons=pairs, compare_func=StepComparison())
    assert repeated[0]["torch", "onnxruntime"][0]["prediction"] == prediction


def test_the_comparator_tells_other_weights_apart(reference, bundle):
    from bidiff_deploy.checkpoint.record import from_latent

    right = reference.read("tiny")
    latent = right.latent()
    latent["encoder.1.conv1.weight"] = -latent["encoder.1.conv1.weight"]
    runners = [TorchRunner(bundle, from_latent(latent, right.config, name="wrong"), layers=True),
               EngineRunner(bundle, threads=1, layers=True)]
    compared = Comparator.compare_accuracy(Comparator.run(runners, data_loader=feeds()[:1]),
                                           compare_func=StepComparison())
    assert not compared
    verdicts = compared[0]["torch", "onnxruntime"][0]
    assert not verdicts["prediction"] and not verdicts["e1.c1"] and verdicts["e1.c2"]
    assert "in e1.c1" in verdicts["prediction"].reason


def test_both_sides_give_the_same_values_by_the_same_names(reference, bundle):
    """Attention, CP-Down, CP-Up and CS-Fusion lie between these layers."""
    feed = feeds()[1]
    with TorchRunner(bundle, reference.read("tiny"), layers=True) as torch_runner, \
            EngineRunner(bundle, threads=1, layers=True) as engine:
        expected, found = torch_runner.infer(feed), engine.infer(feed)
        assert torch_runner.last_inference_time() > 0 < engine.last_inference_time()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        if name.endswith(".sign"):
            assert value.dtype == bool and np.array_equal(found[name], value), name
        else:
            assert snr(value, found[name]) > 90, name
    constants = BundleLayers(bundle).constants(400)
    threshold = constants["e1.c1.threshold"][:, None, None]
    assert np.array_equal(found["e1.c1.sign"], found["e1.c1.x"] + threshold >= 0)


def test_a_layer_of_a_runner_is_the_op_itself(reference, bundle):
    with EngineRunner(bundle, threads=1, layers=True) as engine:
        found = engine.infer(feeds()[0])
    layers = BundleLayers(bundle)
    constants = layers.constants(TIMES[0])
    for layer in layers.layers:
        x = found[f"{layer.key}.x"]
        words, alpha, threshold, rprelu, _, time = (
            np.asarray(constants[name]) if name != layer.inputs[0] else x
            for name in layer.inputs[1:])
        assert np.array_equal(found[layer.key], library.binary_conv(
            x, words, alpha, threshold, rprelu, residual=x, time=time)), layer.name


def test_without_layers_there_is_the_prediction_alone(reference, bundle):
    with EngineRunner(bundle, "onnxruntime-stock", threads=1) as engine:
        outputs = engine.infer(feeds()[0])
    assert list(outputs) == ["prediction"]
    statistics = compare_step(outputs, outputs)
    assert statistics.snr == float("inf") and not statistics.layers


def test_everything_imports_without_polygraphy_and_says_what_to_install():
    code = """
import importlib, pkgutil, sys
sys.modules["polygraphy"] = None
import bidiff_deploy.proof as proof
for module in pkgutil.walk_packages(proof.__path__, "bidiff_deploy.proof."):
    importlib.import_module(module.name)
assert "torch" not in sys.modules
from bidiff_deploy import EngineError
from bidiff_deploy.proof.check.runners import EngineRunner
try:
    EngineRunner(None)
except EngineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bidiff-deploy[proof]" in done.stdout
