"""The DDIM update and the loop, against diffusers' own latents and against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.errors import UsageError
from bidiff_deploy.sampling.sampler import add_noise, ddim_update, pick_timesteps, sample
from bidiff_deploy.sampling.schedule import Schedule
from support.seeds import examples


@pytest.mark.parametrize("case", ["ddim_small_50", "ddim_tiny_10"])
def test_the_reference_updates(reference, case: str) -> None:
    stored = reference.arrays(case)
    schedule = Schedule(len(stored["alphas_cumprod"]))
    timesteps = schedule.check(stored["timesteps"])
    table = [*(schedule.alphas_cumprod[t] for t in timesteps), 1.0]
    for kept, step in enumerate(stored["kept_steps"]):
        found = ddim_update(stored["latent_in"][kept], stored["prediction"][kept], table[step],
                            table[step + 1])
        assert found.dtype == np.float32
        # The bound; three float32 operations on values up to 10 stay well below it.
        assert np.abs(found - stored["latent_out"][kept]).max() <= 1e-5


def test_the_reference_loop_chains_the_updates(reference) -> None:
    # Fed the stored predictions, the loop passes through the stored latents of steps 0, 1, 2.
    stored = reference.arrays("ddim_small_50")
    assert list(stored["kept_steps"][:2]) == [0, 1]
    seen = []

    def predict(latent: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        seen.append(latent)
        return stored["prediction"][min(len(seen) - 1, 1)]

    sample(predict, stored["condition"], [int(t) for t in stored["timesteps"][:3]], Schedule(),
           stored["initial_noise"])
    np.testing.assert_array_equal(seen[0], stored["latent_in"][0])
    for index in (0, 1):
        assert np.abs(seen[index + 1] - stored["latent_out"][index]).max() <= 1e-5


def test_clipping_spares_the_second_term() -> None:
    latent, prediction = np.float32([[4.0]]), np.float32([[0.5]])
    alpha, after = np.float32(0.25), np.float32(0.81)
    # The image would be (4 - sqrt(.75) / 2) / .5 = 7.1: clipped to 1, the noise stays 0.5.
    found = ddim_update(latent, prediction, alpha, after)
    np.testing.assert_allclose(found, 0.9 * 1.0 + np.sqrt(0.19) * 0.5, rtol=1e-6)
    found = ddim_update(latent, prediction, alpha, after, clip=None)
    image = (4 - np.sqrt(0.75) * 0.5) / 0.5
    np.testing.assert_allclose(found, 0.9 * image + np.sqrt(0.19) * 0.5, rtol=1e-6)


def test_the_update_changes_no_input() -> None:
    latent, prediction = np.float32([[4.0]]), np.float32([[0.5]])
    ddim_update(latent, prediction, 0.5, 1.0)
    assert latent == 4.0 and prediction == 0.5


@examples(50)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 20), start=st.none() | st.integers(0, 199))
def test_a_perfect_prediction_gives_the_image(seed: int, steps: int, start: int | None) -> None:
    schedule = Schedule(200)
    rng = np.random.default_rng(seed)
    image = rng.random((2, 3, 4, 5), dtype=np.float32)
    noise = rng.standard_normal(image.shape, dtype=np.float32)

    def perfect(latent: np.ndarray, condition: np.ndarray, t: int) -> np.ndarray:
        alpha = schedule.alphas_cumprod[t]
        return (latent - np.sqrt(alpha) * image) / np.sqrt(1 - alpha)

    found = sample(perfect, image, schedule.leading_timesteps(steps), schedule, noise, start)
    # At t = 0 the noise is divided by sqrt(1e-6): 1e-7 of rounding becomes 1e-4 of noise, which
    # is multiplied by it again.
    np.testing.assert_allclose(found, image, atol=1e-5)


def test_the_start_noises_the_condition() -> None:
    schedule = Schedule(200)
    condition, noise = np.full((1, 3, 2, 2), 0.5, np.float32), np.ones((1, 3, 2, 2), np.float32)
    seen, steps = [], []

    def predict(latent: np.ndarray, _: np.ndarray, timestep: int) -> np.ndarray:
        seen.append((timestep, latent))
        return np.zeros_like(latent)

    sample(predict, condition, [150, 100, 50, 0], schedule, noise, start=120,
           on_step=lambda done, total: steps.append((done, total)))
    assert [t for t, _ in seen] == [100, 50, 0] and steps == [(1, 3), (2, 3), (3, 3)]
    alpha = schedule.alphas_cumprod[100]
    np.testing.assert_allclose(seen[0][1], np.sqrt(alpha) * 0.5 + np.sqrt(1 - alpha), rtol=1e-6)
    np.testing.assert_array_equal(seen[0][1], add_noise(condition, noise, alpha))
    seen.clear()
    sample(predict, condition, [150, 100], schedule, noise)
    assert seen[0][0] == 150 and (seen[0][1] == noise).all()


def test_the_result_is_clamped_unless_asked() -> None:
    schedule = Schedule(200)
    noise = np.linspace(-3, 3, 12, dtype=np.float32).reshape(1, 3, 2, 2)

    def nothing(latent, condition, t):
        return np.zeros_like(latent)

    found = sample(nothing, noise, [10], schedule, noise)
    assert found.min() == 0 and found.max() == 1
    assert sample(nothing, noise, [10], schedule, noise, clamp=False).min() == -1


@pytest.mark.parametrize(("arguments", "words"), [
    ({"timesteps": [0, 10]}, "descending"), ({"timesteps": [200]}, "from 0 to 199"),
    ({"start": 4}, "below every timestep.*5"), ({"start": 2.5}, "start is 2.5"),
    ({"noise": np.zeros((1, 3, 2, 3), np.float32)}, "noise has shape")])
def test_bad_arguments(arguments: dict, words: str) -> None:
    whole = {"timesteps": [10, 5], "noise": np.zeros((1, 3, 2, 2), np.float32), **arguments}
    with pytest.raises(UsageError, match=words):
        sample(lambda latent, condition, t: latent, np.zeros((1, 3, 2, 2), np.float32),
               schedule=Schedule(200), **whole)


@examples(100)
@given(count=st.integers(1, 60), data=st.data())
def test_picked_timesteps(count: int, data: st.DataObject) -> None:
    listed = tuple(range((count - 1) * 7, -1, -7))
    steps = data.draw(st.integers(1, count))
    picked = pick_timesteps(listed, steps)
    assert len(picked) == steps and picked[0] == listed[0]
    assert list(picked) == sorted(set(picked), reverse=True) and set(picked) <= set(listed)
    if steps > 1:
        assert picked[-1] == listed[-1]
        gaps = [a - b for a, b in zip(picked, picked[1:])]
        assert max(gaps) - min(gaps) <= 7  # even, as far as the list allows
    assert pick_timesteps(listed, count) == pick_timesteps(listed) == listed


@pytest.mark.parametrize(("steps", "start", "words"), [
    (0, None, "steps is 0"), (5, None, "there are 4"), (3, 60, "2 timesteps at or below start 60"),
    (True, None, "steps is True"), (None, -1, "start is -1; it must be"),
    (2.0, None, "steps is 2.0")])
def test_picks_that_are_refused(steps, start, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pick_timesteps((150, 100, 50, 0), steps, start)
