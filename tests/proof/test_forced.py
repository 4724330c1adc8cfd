"""The verdict does not depend on luck: right engines pass, faults are found where they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines import library
from bidiff_deploy.proof.check import bundle_layers, noise_predictor
from bidiff_deploy.proof.inputs import noise_sample
from bidiff_deploy.proof.reference import in_channels_last
from support import forked
from support.check_setup import SIZE, TIMES, check, damaged
from support.seeds import SEED, SOAK

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("polygraphy")
pytestmark = [
    pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason()),
    pytest.mark.usefixtures("kept_sessions")]

SEEDS = 200 if SOAK else 2
KERNELS = ([one.name for one in library.kernels()
            if one.supported and (SOAK or one.name in ("portable", "avx2", "neondotprod", "neon"))]
           if library.library_path() else [])


@pytest.fixture
def tampered(monkeypatch):
    """A function that has every run of the engine's graph changed: ``change(values)``."""
    def tamper(change) -> None:
        right = bundle_layers.EngineValues.__call__

        def wrong(self, feed, timestep=0):
            run, inside = right(self, feed, timestep)
            run, inside = ({name: value.copy() for name, value in part.items()}
                           for part in (run, inside))
            change(run, inside)
            return run, inside

        monkeypatch.setattr(bundle_layers.EngineValues, "__call__", wrong)
    return tamper


@pytest.fixture
def channels_last(monkeypatch):
    """A function after which the reference runs in that memory layout."""
    def set_layout() -> None:
        right = noise_predictor.ForcedReference.__init__

        def other(self, network, **options):
            right(self, network, **options)
            in_channels_last(self.network)

        monkeypatch.setattr(noise_predictor.ForcedReference, "__init__", other)
    return set_layout


@pytest.mark.soak
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"] if SOAK else ["contiguous"])
@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-stock"])
@pytest.mark.parametrize("name", ["tiny", "small"] if SOAK else ["tiny"])
def test_a_right_engine_passes_whatever_the_input(reference, monkeypatch, channels_last, backend,
                                                  name, layout):
    if layout == "channels_last":
        channels_last()
    bundle, checkpoint = open_bundle(reference.bundle(name, TIMES if name == "tiny" else [0])), \
        reference.read(name)
    seeds = iter(range(SEED, SEED + SEEDS))
    monkeypatch.setattr(noise_predictor, "_samples", lambda bundle, *_: [
        noise_sample(bundle.scale, SIZE if name == "tiny" else (16, 16), seed) for seed in seeds])
    right, drawn = noise_predictor.first_noise, iter(range(SEED, SEED + SEEDS))
    monkeypatch.setattr(noise_predictor, "first_noise",
                        lambda shape, seed, noiseless: right(shape, next(drawn), noiseless))
    result = noise_predictor.check_bundle(bundle, checkpoint, backend=backend, threads=1,
                                          timesteps=[bundle.timesteps[-1]])
    assert result, result.failures[:5]
    assert len(result.steps) == SEEDS
    assert result.undecidable <= 1e-4 * result.signs


@pytest.mark.soak
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_passes_on_every_kernel(reference, kernel):
    done = forked.command(
        "check", reference.bundle("tiny", TIMES), reference.checkpoint("tiny"), "--size", "16x16",
        "--threads", "1", "--timesteps", "400", environment={"BIDIFF_KERNEL": kernel})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "legitimate flip" in done.stdout


def test_both_memory_layouts_of_the_reference_agree(reference, channels_last):
    first = check(reference.bundle("tiny", TIMES), reference.read("tiny"), timesteps=[400])
    channels_last()
    second = check(reference.bundle("tiny", TIMES), reference.read("tiny"), timesteps=[400])
    assert first and second
    for one, two in zip(first.segments, second.segments):
        assert (one.end, one.flips, one.undecidable) == (two.end, two.flips, two.undecidable)
        assert one.rounding == pytest.approx(two.rounding, rel=1e-3)


def found(reference, **options):
    """Failed parts of a check of tiny at t = 400, as (what, name), but not the step's."""
    result = check(options.pop("bundle", None) or reference.bundle("tiny", TIMES),
                   reference.read("tiny"), timesteps=[400], **options)
    assert not result and not result.steps[0].passed
    return {(verdict.what, verdict.name) for verdict in result.failures if verdict.what != "step"}


def test_one_sum_of_a_border_pixel_that_is_off_by_one_is_found(reference, tampered):
    """In the engine's own arithmetic: in the fused operator, and in the single layer."""
    alpha = np.asarray(bundle_layers.BundleLayers(open_bundle(
        reference.bundle("tiny", TIMES))).constants(400)["e3.c1.alpha"])

    def change(run, inside):
        inside["e3.c1"][0, 2, 0, 3] += alpha[2]

    tampered(change)
    names = found(reference)
    assert ("layer", "encoder.3.conv1") in names
    assert not any("encoder.1" in name or "decoder" in name for _, name in names)


def test_a_fused_operator_whose_border_is_off_by_one_is_found(reference, tampered):
    def change(run, inside):
        run["e3"][0, 2, -1, 3] += 0.01

    tampered(change)
    assert {("operator", "e3"), ("segment", "encoder.3")} <= found(reference)


def test_a_sign_that_rounding_cannot_explain_is_found(reference, tampered):
    """The input of a layer moves just over zero, by more than its bound."""
    def change(run, inside):
        (x,) = (value for name, value in inside.items() if name == "e3/h")
        x[0, 1, 4, 4] = -x[0, 1, 4, 4]

    tampered(change)
    assert ("segment", "encoder.3.conv2") in found(reference)


def test_a_run_that_is_not_the_engines_is_found(reference, monkeypatch):
    """What is judged is the run of the engine's own prediction."""
    right = bundle_layers.EngineValues.__call__

    def other(self, feed, timestep=0):
        return right(self, {**feed, "noisy": np.nextafter(feed["noisy"], np.float32(9))}, timestep)

    monkeypatch.setattr(bundle_layers.EngineValues, "__call__", other)
    result = check(reference.bundle("tiny", TIMES), reference.read("tiny"), timesteps=[400])
    assert "not those of the run whose parts were compared" in result.steps[0].reason


@pytest.mark.parametrize("tensor, change, layer, says", [
    ("m1.c1.alpha", lambda a: a.__setitem__(3, a[3] * np.float32(1 + 2.0 ** -10)),
     "middle.1.conv1", "rounding bound"),
    ("d0.c1.threshold", lambda t: t.__setitem__(2, t[2] + np.float32(1e-4)),
     "decoder.0.conv1", "1 thresholds"),
    ("m0.c2.words", lambda w: w.__setitem__((0, 0, 0, 0), w[0, 0, 0, 0] ^ 1),
     "middle.0.conv2", "sums are wrong, by up to 2")])
def test_faults_of_a_bundle_are_found_where_they_are(reference, tmp_path, tensor, change, layer,
                                                     says):
    bundle = damaged(reference.bundle("tiny", TIMES), tmp_path / "b", tensor, change)
    result = check(bundle, reference.read("tiny"), timesteps=[999])
    (wrong,) = (verdict for verdict in result.failures if verdict.what == "layer")
    assert wrong.name == layer and says in wrong.reason
    assert not result.steps[0].passed


def test_many_undecidable_signs_are_a_note():
    from bidiff_deploy.proof.check.forced import SegmentCheck
    from bidiff_deploy.proof.check.result import undecidable_notes

    part = SegmentCheck("e1.c1", 0, 0.5, 120.0, signs=20_000, undecidable=2)
    assert undecidable_notes([part]) == []
    (note,) = undecidable_notes([dataclasses.replace(part, undecidable=3)])
    assert note == ("the signs prove little: rounding decides 3 of 20000, more than 1 in 10,000")
