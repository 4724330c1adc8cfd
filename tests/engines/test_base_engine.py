"""What all engines share: checks, padding, noise, starts, pictures; with an exact predictor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as pillow

from bidiff_deploy.errors import BidiffError, EngineError, ImageError, UsageError
from bidiff_deploy.images.hidden_colours import without_hidden_colours
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.resample import pad_reflect, to_condition
from bidiff_deploy.sampling.noise import gaussian_noise
from bidiff_deploy.sampling.schedule import Schedule
from support.fake_engine import FakeEngine
from support.seeds import examples

# x0 comes back through a division by sqrt(1 - alpha) = 1e-3 at t = 0 and a multiplication by it.
CLOSE = 1e-5


class Rough(FakeEngine):
    """Its prediction depends on its neighbourhood, so padding and noise can be seen."""

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        self.calls.append((timestep, noisy.shape))
        shifted = np.roll(condition, 1, axis=3) + np.roll(noisy, 1, axis=2)
        return np.tanh(noisy - condition + 0.1 * shifted).astype(np.float32)


def planes(height: int, width: int, count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, height, width), np.float32)


def test_predict_passes_checked_arrays_on() -> None:
    engine = FakeEngine()
    noisy, condition = planes(16, 8), planes(16, 8, seed=1)
    found = engine.predict(noisy, condition, np.int64(60))
    alpha = engine.schedule.alphas_cumprod[60]
    np.testing.assert_array_equal(found,
                                  (noisy - np.sqrt(alpha) * condition) / np.sqrt(1 - alpha))
    assert engine.calls == [(60, (1, 3, 16, 8))]
    # Other floats and layouts are converted.
    other = np.asfortranarray(noisy.astype(np.float64))
    np.testing.assert_array_equal(engine.predict(other, condition, 60), found)
    assert engine.predict(noisy.astype(np.float16), condition, 60).dtype == np.float32


@pytest.mark.parametrize(("arguments", "words"), [
    ({"noisy": planes(16, 16)}, "must be equal"),
    ({"noisy": planes(12, 8), "condition": planes(12, 8)}, "multiples of 8"),
    ({"noisy": np.zeros((1, 4, 16, 8), np.float32)}, r"\(N, 3, H, W\)"),
    ({"noisy": np.zeros((3, 16, 8), np.float32)}, r"noisy has shape \(3, 16, 8\)"),
    ({"condition": np.zeros((0, 3, 16, 8), np.float32)}, "condition has shape"),
    ({"noisy": np.zeros((1, 3, 16, 8), np.int32)}, "noisy is of type int32"),
    ({"noisy": np.zeros((1, 3, 16, 8), np.complex64)}, "complex64"),
    ({"condition": [[1.0]]}, "condition is of type list"),
    ({"noisy": np.full((1, 3, 16, 8), np.nan, np.float32)}, "not finite"),
    ({"noisy": np.full((1, 3, 16, 8), 1e300)}, "not finite"),
    ({"condition": np.full((1, 3, 16, 8), np.inf, np.float32)}, "condition contains"),
    ({"timestep": 61}, "no timestep 61; the nearest of its 4 is 60 .180, 120, 60, 0"),
    ({"timestep": -5}, "timestep is -5; it must be"), ({"timestep": 60.0}, "whole number"),
    ({"timestep": True}, "whole number"), ({"timestep": "60"}, "whole number"),
    ({"timestep": None}, "whole number")])
def test_predict_refuses(arguments: dict, words: str) -> None:
    whole = {"noisy": planes(16, 8), "condition": planes(16, 8), "timestep": 60, **arguments}
    engine = FakeEngine()
    with pytest.raises(UsageError, match=words) as caught:
        engine.predict(**whole)
    assert isinstance(caught.value, BidiffError) and engine.calls == []


def test_a_long_list_of_timesteps_is_shortened() -> None:
    engine = FakeEngine(timesteps=Schedule(200).leading_timesteps(50))
    with pytest.raises(UsageError, match=r"of its 50 is 8 \(196, .*, \.\.\. 0\)") as caught:
        engine.predict(planes(8, 8), planes(8, 8), 9)
    assert len(str(caught.value)) < 150


def test_a_bundle_of_unordered_timesteps_is_refused() -> None:
    with pytest.raises(UsageError, match="descending"):
        FakeEngine(timesteps=(0, 10))


def test_results_that_are_not_finite_are_refused() -> None:
    class Broken(FakeEngine):
        def _predict(self, noisy: np.ndarray, *_: object) -> np.ndarray:
            return np.full_like(noisy, np.nan)

    with pytest.raises(EngineError, match="timestep 60.*not finite"):
        Broken().predict(planes(8, 8), planes(8, 8), 60)


@pytest.mark.parametrize("start", [None, 150, "default"])
def test_sampling_reaches_the_image(start) -> None:
    engine = FakeEngine(default_start=70)
    condition = planes(16, 24, count=2) * 1.4 - 0.2  # overshoots, as conditions do
    found = engine.sample(condition, seed=3, start=start)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found, np.clip(condition, 0, 1), atol=CLOSE)
    assert [t for t, _ in engine.calls] == {None: [180, 120, 60, 0], 150: [120, 60, 0],
                                            "default": [60, 0]}[start]


@examples(30)
@given(height=st.integers(1, 20), width=st.integers(1, 20), multiple=st.sampled_from([1, 2, 8, 16]))
def test_any_size_is_padded_and_cropped(height: int, width: int, multiple: int) -> None:
    engine = FakeEngine(size_multiple=multiple)
    condition = planes(height, width)
    np.testing.assert_allclose(engine.sample(condition[0]), condition, atol=CLOSE)
    unit = max(8, multiple)  # the published code pads to 8 whatever the network
    padded = (-(-height // unit) * unit, -(-width // unit) * unit)
    assert {shape for _, shape in engine.calls} == {(1, 3, *padded)}


def test_the_padding_is_reflected_and_has_the_noise_of_the_seed() -> None:
    condition = planes(11, 13)
    padded, _ = pad_reflect(condition, 8)
    # Sampling the padded image by hand gives the same, so padding and noise are as documented.
    by_hand = Rough().sample(padded, noise=gaussian_noise((1, 3, 16, 16), 5))[:, :, :11, :13]
    np.testing.assert_array_equal(Rough().sample(condition, seed=5), by_hand)
    given_noise = gaussian_noise(condition.shape, 5)
    np.testing.assert_array_equal(Rough().sample(condition, noise=given_noise, seed=5), by_hand)
    np.testing.assert_array_equal(Rough().sample(condition[0], noise=given_noise[0], seed=5),
                                  by_hand)
    whole_noise = gaussian_noise(padded.shape, 5)  # as the published code draws it
    np.testing.assert_array_equal(Rough().sample(condition, noise=whole_noise, seed=9), by_hand)


def test_seeds_noise_and_batches() -> None:
    condition = np.repeat(planes(8, 8), 2, axis=0)
    found = Rough().sample(condition, seed=1)
    np.testing.assert_array_equal(found, Rough().sample(condition, seed=1))
    assert (found != Rough().sample(condition, seed=2)).any()
    assert (found[0] != found[1]).any()  # each of a batch has noise of its own
    # The first of a batch is what it is alone: same noise, and arithmetic element by element.
    np.testing.assert_array_equal(found[:1], Rough().sample(condition[:1], seed=1))
    noise = planes(8, 8, count=2, seed=9)
    np.testing.assert_array_equal(Rough().sample(condition, noise=noise),
                                  Rough().sample(condition, noise=noise, seed=7))


def test_inputs_are_not_changed() -> None:
    condition, noise = planes(9, 9), planes(9, 9, seed=1)
    before = condition.copy(), noise.copy()
    Rough().sample(condition, noise=noise, start=100)
    np.testing.assert_array_equal((condition, noise), before)


def test_steps_start_and_progress_together() -> None:
    engine = FakeEngine(timesteps=Schedule(200).leading_timesteps(50))
    seen: list[tuple[int, int]] = []
    engine.sample(planes(8, 8), steps=3, start=40, on_step=lambda *step: seen.append(step))
    assert [t for t, _ in engine.calls] == [40, 20, 0] and seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("arguments", "words"), [
    ({"steps": 5}, "there are 4"), ({"steps": 0}, "steps is 0"), ({"start": -1}, "start is -1"),
    ({"start": "later"}, "start is 'later'"), ({"seed": -1}, "seed is -1"),
    ({"seed": 1.5}, "seed is 1.5"), ({"noise": planes(8, 9)}, "noise has shape"),
    ({"noise": np.zeros((1, 3, 8, 8), int)}, "noise is of type int"),
    ({"condition": planes(8, 8).astype(np.uint8)}, "condition is of type uint8"),
    ({"condition": np.zeros((8, 8), np.float32)}, "condition has shape")])
def test_sample_refuses(arguments: dict, words: str) -> None:
    engine = FakeEngine()
    with pytest.raises(UsageError, match=words):
        engine.sample(**{"condition": planes(8, 8), **arguments})
    assert engine.calls == []


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (5, 7, 4), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_come_back_in_their_form(shape: tuple[int, ...], dtype) -> None:
    top = np.iinfo(dtype).max
    array = np.random.default_rng(0).integers(0, top + 1, shape).astype(dtype)
    found = FakeEngine(scale=3).upscale(array)
    assert found.shape == (shape[0] * 3, shape[1] * 3, *shape[2:]) and found.dtype == dtype
    colour = array[:, :, :3] if array.ndim == 3 else array
    if array.shape[2:] == (4,):
        colour = without_hidden_colours(Image(colour, array[:, :, 3])).pixels
    expected = np.clip(to_condition(colour, 3), 0, 1).transpose(1, 2, 0) * top
    expected = expected if array.ndim == 3 else expected.mean(axis=2)
    image = found[:, :, :3] if found.ndim == 3 else found
    assert np.abs(image - expected).max() <= 0.5 + CLOSE * top


@pytest.mark.parametrize("tile", [None, 64])
def test_hidden_colours_never_reach_the_network(tile: int | None) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (60, 50, 4), np.uint8)
    array[:, :, 3] *= rng.random((60, 50)) < 0.5
    hidden = array[:, :, 3] == 0
    other = array.copy()
    other[hidden, :3] ^= 255
    found, again = (FakeEngine(scale=2).upscale(image, tile=tile) for image in (array, other))
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize(("mode", "back"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "L"),
                                            ("P", "RGB"), ("LA", "LA"), ("I;16", "I;16")])
def test_pictures_come_back_as_pictures(mode: str, back: str) -> None:
    picture = pillow.new(mode, (6, 4))
    found = FakeEngine().upscale(picture)
    assert isinstance(found, pillow.Image) and found.mode == back and found.size == (12, 8)


def test_pictures_are_turned_upright() -> None:
    picture = pillow.fromarray(np.zeros((4, 6, 3), np.uint8))
    picture.getexif()[0x0112] = 6
    assert FakeEngine().upscale(picture).size == (8, 12)


def test_seed_and_options_reach_the_loop() -> None:
    array = np.full((8, 8, 3), 99, np.uint8)
    engine = Rough()
    first = engine.upscale(array, 4, steps=2, start=None)
    assert [t for t, _ in engine.calls] == [180, 0]
    assert (first != engine.upscale(array, seed=5, steps=2, start=None)).any()


@pytest.mark.parametrize("image", ["photo.png", None, [[1, 2]], np.zeros((4, 4, 3)), 3,
                                   np.zeros((4, 4, 2), np.uint8)])
def test_other_pictures_are_refused(image) -> None:
    with pytest.raises(ImageError, match="not supported; give"):
        FakeEngine().upscale(image)


def test_a_closed_engine_refuses() -> None:
    with FakeEngine() as engine:
        engine.predict(planes(8, 8), planes(8, 8), 0)
    engine.close()
    assert engine.closed and engine.closings == 1
    for use in (lambda: engine.predict(planes(8, 8), planes(8, 8), 0),
                lambda: engine.sample(planes(8, 8)),
                lambda: engine.upscale(np.zeros((4, 4), np.uint8)), engine.__enter__):
        with pytest.raises(EngineError, match="closed"):
            use()
