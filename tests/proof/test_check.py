"""The check passes what is equal, and names the layer where something is not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines import library
from bidiff_deploy.errors import UsageError
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.operators.value_names import short
from bidiff_deploy.proof.check.loops import LoopCheck
from bidiff_deploy.proof.check.noise_predictor import check_bundle
from bidiff_deploy.proof.check.result import CheckResult
from bidiff_deploy.proof.check.statistics import LayerStatistics, StepStatistics, judge_step
from support.check_setup import SIZE, TIMES, changed, check, damaged

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("polygraphy")
pytestmark = [
    pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason()),
    pytest.mark.usefixtures("kept_sessions")]


def at(index: tuple[int, ...], operation):
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = operation(array[index])
        return array
    return change


@pytest.mark.parametrize("name, times, size, layers", [
    ("tiny", TIMES, SIZE, 28), ("small", [1000], (32, 32), 34)])
@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-stock"])
def test_what_is_equal_passes(reference, name, times, size, layers, backend):
    bundle = reference.bundle(name, TIMES if name == "tiny" else [1960, 1000, 0])
    result = check(bundle, reference.read(name), backend=backend, size=size, timesteps=times)
    assert result and not result.failures, result.failures
    assert [step.timestep for step in result.steps] == times
    assert len(result.layers) == layers * len(times)
    assert len([part for part in result.segments if part.signs]) == layers * len(times)
    assert max(part.rounding for part in result.segments) > 0.5  # an addition has one rounding
    assert min(part.snr for part in result.segments) > 110
    assert 0 < result.signs and result.undecidable <= 1e-4 * result.signs
    operators = [one for one in result.operators if one.timestep == times[0]]
    assert len(result.operators) == len(times) * len(operators)
    kinds = {kind: len([one for one in operators if one.kind == kind])
             for kind in ("NormBinaryConv", "BinaryFusion", "BinaryDown", "BinaryUp")}
    # Of every binary layer there is one operator, or two share one.
    assert sum(number * (1 if kind == "NormBinaryConv" else 2)
               for kind, number in kinds.items()) == layers
    for one in result.operators:
        assert one.exact == (one.kind in kinds)
        assert one.snr == math.inf if one.exact else one.snr > 110, one
    assert sum(layer.sums for layer in result.layers) > 100_000
    assert max(layer.rounding for layer in result.layers) > 0  # it is float32, so not exact
    for step in result.steps:
        assert len(step.engine.layers) == layers and step.engine.snr > 20
        assert step.engine.layers[0].layer == "encoder.1.conv1"
        assert step.differing == 0 and step.reason.startswith("equal up to ")
    again = CheckResult.from_dict(json.loads(result.to_json()))
    assert again == result and again.verdicts == result.verdicts


def test_one_flipped_weight_bit_of_the_bundle_is_found(reference, tmp_path):
    def flip(words):
        words[3, 1, 2, 0] ^= 1 << 5

    bundle = damaged(reference.bundle("tiny", TIMES), tmp_path / "b", "e3.c2.words", flip)
    for backend in ("onnxruntime", "onnxruntime-stock"):
        result = check(bundle, reference.read("tiny"), backend=backend, timesteps=[400])
        assert not result
        layers = [verdict for verdict in result.failures if verdict.what == "layer"]
        assert [verdict.name for verdict in layers] == ["encoder.3.conv2"]
        assert "sums are wrong, by up to 2" in layers[0].reason
        assert "1 weight bits" in layers[0].reason
        assert result.steps[0].wrong == "encoder.3.conv2" and not result.steps[0].passed


@pytest.mark.parametrize("tensor, operator, reason", [
    ("d3.c1.words", "d3.h", "must be equal to the bit"), ("d5.c2.alpha", "d5", "to the bit"),
    ("e1.n2.weight", "e1", "to the bit"), ("d8.a.out.weight", "d8.a", "below 100.000 dB"),
    ("head.c.weight", "prediction", "below 100.000 dB")])
def test_a_fused_operator_that_computes_something_else_is_found(reference, monkeypatch, tensor,
                                                                operator, reason):
    """One tensor differs in the graph of fused operators alone, as if its kernel were wrong."""
    from bidiff_deploy.proof.check import bundle_layers as module

    right = module.open_session

    def wrong(model, constants, **options):
        graph = onnx.load_model_from_string(model).graph
        definitions = any(value.name.endswith("/given") for value in graph.input)
        if not definitions and graph.name != "layer" and tensor in constants:
            value = np.array(constants[tensor])
            value.reshape(-1)[0] = (value.reshape(-1)[0] ^ 1 if value.dtype == np.int32
                                    else value.reshape(-1)[0] * np.float32(1.01))
            constants = {**constants, tensor: value}
        return right(model, constants, **options)

    monkeypatch.setattr(module, "open_session", wrong)
    result = check(reference.bundle("tiny", TIMES), reference.read("tiny"), timesteps=[400])
    assert not result
    (verdict,) = (verdict for verdict in result.failures if verdict.what == "operator")
    assert verdict.name == operator and reason in verdict.reason
    assert "not those of the run whose parts" in result.failures[-1].reason
    if operator != "d8.a":  # attention's bound is that of its definition
        (part,) = (verdict for verdict in result.failures if verdict.what == "segment")
        assert short(part.name) == operator
    again = CheckResult.from_dict(json.loads(result.to_json()))
    assert again == result and not again
    from bidiff_deploy.cli.check import table
    assert f"FAIL {operator}: " in table(result)


def test_a_bundle_that_may_round_to_bfloat16_is_held_to_less(reference, tmp_path):
    small = reference.read("small")
    export_bundle(small, tmp_path / "b", timesteps=[1960, 1000, 0], precision="fast")
    result = check(tmp_path / "b", small, size=(32, 32), timesteps=[1000])
    assert result, result.failures
    assert any("precision bfloat16: the bound is 36 dB per operator" in note
               for note in result.notes)
    assert {one.bound for one in result.operators if one.kind == "NormConv"} == {36.0}
    # What is binary is binary still, and the first layer is float32.
    assert all(one.snr == math.inf for one in result.operators if one.exact)
    assert all(one.bound == 100.0 for one in result.operators if one.kind == "Conv3x3")
    again = CheckResult.from_dict(json.loads(result.to_json()))
    assert again == result


def test_a_wrong_threshold_of_the_bundle_is_found_in_its_group(reference, tmp_path):
    def move(threshold):
        threshold[2] += 0.25

    bundle = damaged(reference.bundle("tiny", TIMES), tmp_path / "b", "d0.c1.threshold", move)
    result = check(bundle, reference.read("tiny"))
    wrong = [layer for layer in result.layers if not layer.passed]
    # The first step's graph was edited, so the group of t = 999 it is.
    assert [(layer.layer, layer.timestep) for layer in wrong] == [("decoder.0.conv1", 999)]
    assert wrong[0].wrong_sums and wrong[0].differing == {"thresholds": 1}


@pytest.mark.parametrize("part, says", [
    ("alpha", "1 alphas"), ("rprelu", "1 shift_ins")])
def test_wrong_constants_after_the_sum_are_found(reference, tmp_path, part, says):
    def scale(values):
        values.reshape(-1)[1] *= 1.001

    bundle = damaged(reference.bundle("tiny", TIMES), tmp_path / "b", f"m1.c1.{part}", scale)
    result = check(bundle, reference.read("tiny"), timesteps=[999])
    (wrong,) = (layer for layer in result.layers if not layer.passed)
    assert wrong.layer == "middle.1.conv1" and wrong.wrong_sums == 0 and wrong.rounding > 1
    assert "rounding bound" in wrong.reason and says in wrong.reason


def test_a_kernel_that_miscounts_is_found(reference, monkeypatch):
    right = library.binary_conv_sums

    def miscount(x, words, threshold=None, kernel=None):
        sums = right(x, words, threshold, kernel)
        if words.shape[:2] == (32, 1):  # the 1x1 convolutions of the inner level
            sums[0, -1, -1, -1] += 2
        return sums

    monkeypatch.setattr(library, "binary_conv_sums", miscount)
    result = check(reference.bundle("tiny", TIMES), reference.read("tiny"), timesteps=[400])
    wrong = [verdict for verdict in result.failures if verdict.what == "layer"]
    names = {verdict.name for verdict in wrong}
    assert names == {f"decoder.{block}.conv{half}" for block in (0, 2) for half in (1, 2)}
    assert all("1 of" in verdict.reason for verdict in wrong)
    assert result.failures[-1].what == "step" and "decoder.0.conv1" in result.failures[-1].reason


def test_other_weights_fail_from_the_first_layer_on(reference, tmp_path):
    from safetensors.numpy import save_file

    from bidiff_deploy.checkpoint.options import read_options

    save_file(reference.state("tiny", seed=1), tmp_path / "other.safetensors")
    other = read_checkpoint(tmp_path / "other.safetensors", read_options(reference.options("tiny")))
    result = check(reference.bundle("tiny", TIMES), other, timesteps=[400])
    names = [verdict.name for verdict in result.failures if verdict.what == "layer"]
    assert not result and len(names) == 28 and names[0] == "encoder.1.conv1"
    assert result.steps[0].wrong == "stem"
    assert any("made of another file" in note for note in result.notes)


@pytest.mark.parametrize("parameter, index, place", [
    ("encoder.1.norm2.weight", (0,), "encoder.1.conv2"),
    ("middle.0.attention.out.bias", (3,), "middle.0.attention"),
    ("head.conv.bias", (1,), "prediction")])
def test_a_wrong_full_precision_part_is_found_where_it_is(reference, parameter, index, place):
    wrong = changed(reference.read("tiny"), parameter, at(index, lambda value: value * 1.2 + 0.1))
    result = check(reference.bundle("tiny", TIMES), wrong, timesteps=[0])
    segment, *_, step = result.failures
    assert (segment.what, segment.name) == ("segment", place)
    assert {verdict.what for verdict in result.failures[:-1]} <= {"segment", "layer"}
    assert step.what == "step" and len(result.failures) <= 4
    assert result.steps[0].wrong == place and place in step.reason


def test_a_wrong_time_vector_is_found(reference):
    wrong = changed(reference.read("tiny"), "middle.0.time.bias", at((0,), lambda b: b + 0.01))
    result = check(reference.bundle("tiny", TIMES), wrong, timesteps=[0])
    (layer,) = (verdict for verdict in result.failures if verdict.what == "layer")
    assert layer.name == "middle.0.conv1" and "time vector" in layer.reason
    assert not result.steps[0].passed


def test_how_steps_are_judged():
    def step(value, *layers):
        return StepStatistics(value, 0.0, tuple(
            LayerStatistics(f"l{i}", *numbers) for i, numbers in enumerate(layers)))

    clean, flipped = (0, 100, 120.0, 120.0), (1, 100, 120.0, 60.0)
    later = (9, 100, 55.0, 50.0)
    assert judge_step(step(120.0, clean, clean))[0]
    # Flips explain what follows them, down to the bound; nothing explains what precedes them.
    assert judge_step(step(46.0, clean, flipped, later))[0]
    assert not judge_step(step(39.0, clean, flipped, later))[0]
    assert step(46.0, clean, flipped, later).first_flip == "l1"
    assert step(46.0, (0, 100, 120.0, 60.0), later).divergence == "l0"
    assert step(46.0, clean, later).divergence == "before l1"
    assert step(60.0, clean).divergence == "after the last binary layer"
    # Where the reference itself is coarser than the bound, the bound gives way.
    assert judge_step(step(25.0, flipped), step(30.0, flipped)) == (
        True, "1 signs flip, the first in l0", 24.0)
    assert not judge_step(step(25.0, flipped), step(90.0, flipped))[0]
    assert not judge_step(step(-math.inf))[0]
    # A bundle that may round has another bound; where it is opened, it is judged by that.
    assert judge_step(step(25.0, flipped), step(90.0, flipped), "bfloat16") == (
        True, "precision bfloat16: the bound is 20.0 dB", 20.0)
    assert not judge_step(step(19.0, flipped), step(90.0, flipped), "bfloat16")[0]


def test_how_loops_are_judged():
    def loop(**values):
        return LoopCheck("x.png", **{"sanity": 30.0, "floor": 80.0, "psnr": 60.0, **values})

    assert loop().passed and not loop(psnr=40.0).passed
    assert loop(psnr=41.0, precision="bfloat16").passed
    assert not loop(psnr=39.0, precision="bfloat16").passed
    assert loop(floor=44.0, psnr=40.0).passed and not loop(floor=44.0, psnr=37.0).passed
    assert not loop(truth={"bicubic": 29.0, "reference": 31.0, "engine": 30.8}).passed
    assert loop(truth={"bicubic": 29.0, "reference": 31.0, "engine": 30.95}).passed
    assert loop(psnr=20.0, judged=True).passed  # its steps were judged
    untrained = LoopCheck("x.png", sanity=6.0)
    assert untrained.passed and "not trained" in untrained.reason


def test_nothing_compared_is_no_pass_and_foreign_json_is_refused():
    assert not CheckResult("b", "c", "e", "r", (8, 8))
    for values in ({}, *({"format": "bidiff-check", "schema": schema} for schema in (1, 2, 3))):
        with pytest.raises(UsageError):
            CheckResult.from_dict(values)


def test_another_network_is_refused(reference):
    with pytest.raises(UsageError, match="different networks"):
        check(reference.bundle("tiny", TIMES), reference.read("small"))


def test_the_shipped_model_passes(tmp_path):
    """Trained weights flip signs by the hundred on rounding alone, so that a step's SNR proves
    nothing; each flip is judged where it happens."""
    training = Path(__file__).parents[2] / "training"
    checkpoint = read_checkpoint(training.parent / "bidiff_deploy/models/diffusion_x2.safetensors")
    export_bundle(checkpoint, tmp_path / "b", timesteps=choose_timesteps(checkpoint))
    result = check_bundle(open_bundle(tmp_path / "b"), checkpoint, size=(128, 128),
                          images=[str(training / "photos" / "chelsea.png")])
    assert result, result.failures
    assert result.undecidable <= 1e-4 * result.signs
    assert result.loops and result.loops[0].psnr > 40
