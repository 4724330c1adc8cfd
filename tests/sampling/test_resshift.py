"""ResShift's schedule and samplers against the published diffusion file's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from bidiff_deploy.errors import UsageError
from bidiff_deploy.sampling.resshift import (
    ANCESTRAL,
    DETERMINISTIC,
    ResShiftSchedule,
    ancestral_step,
    deterministic_step,
    draws,
    first_latent,
    sample,
)
from support.reference_cases import snr

REAL = ResShiftSchedule()
FACE = ResShiftSchedule(total_steps=4, min_noise_level=0.2)


@pytest.fixture(scope="module")
def case(latent):
    return latent.arrays("sampler_resshift_15")


@pytest.mark.parametrize("name, schedule", [("realsr", REAL), ("face", FACE)])
def test_the_schedules_are_the_published_ones(case, name, schedule):
    assert np.abs(schedule.sqrt_etas - case[f"{name}_sqrt_etas"]).max() < 1e-15
    with pytest.raises(ValueError, match="read-only"):
        schedule.sqrt_etas[0] = 0


def test_the_first_latent_and_the_networks_input_are_the_published_ones(case):
    begin = first_latent(REAL, case["z_y"], case["prior_noise"], 14)
    assert snr(case["prior_sample"], begin) > 150
    for index, timestep in enumerate(case["kept_timesteps"]):
        scaled = case["kept_latent_in"][index] * REAL.input_scale(timestep)
        assert snr(case["kept_model_input"][index], scaled) > 130


def test_each_step_is_the_published_one(case):
    for index, timestep in enumerate(map(int, case["kept_timesteps"])):
        latent, x0, noise = (case[f"kept_{name}"][index] for name in (
            "latent_in", "pred_xstart", "step_noise"))
        following = timestep - 1 if timestep else None
        found = ancestral_step(REAL, latent, x0, timestep, following, noise)
        assert snr(case["kept_ancestral_out"][index], found) > 130
        found = deterministic_step(REAL, latent, x0, case["z_y"][0], timestep, following)
        assert snr(case["kept_ddim_out"][index], found) > 130


def test_the_forward_process_is_what_a_deterministic_step_inverts(case):
    """Of the true x0, the step from t to s is the forward process at s with the same noise."""
    x0, y, noise = case["q_x0"], case["q_y"], case["q_noise"]
    for timestep in range(1, 15):
        eta = REAL.sqrt_etas[timestep] ** 2
        forward = x0 + eta * (y - x0) + 2 * np.sqrt(eta) * noise
        assert snr(case["q_samples"][timestep], forward) > 120
        before = deterministic_step(REAL, case["q_samples"][timestep][None], x0, y, timestep,
                                    timestep - 1)
        assert snr(case["q_samples"][timestep - 1], before[0]) > 110


@pytest.mark.parametrize("sampler", [ANCESTRAL, DETERMINISTIC])
def test_one_step_returns_the_prediction(case, sampler):
    y, noise = case["z_y"], case["prior_noise"]
    seen = []

    def predict(scaled, timestep):
        seen.append((scaled, timestep))
        return np.tanh(scaled)

    found = sample(predict, y, (14,), REAL, sampler, noise)
    (scaled, timestep), = seen
    assert timestep == 14
    assert np.array_equal(scaled, first_latent(REAL, y, noise, 14) * REAL.input_scale(14))
    assert snr(np.tanh(scaled), found) > 140


def test_a_loop_takes_the_steps_in_order_and_reads_its_noise_once():
    y = np.zeros((1, 2, 4, 4), np.float32)
    timesteps = REAL.spaced_timesteps(3)
    assert timesteps == (14, 7, 0)
    noise = np.arange(6, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 4, 4), np.float32)
    seen, steps = [], []
    sample(lambda x, t: seen.append(t) or np.zeros_like(x), y, timesteps, REAL, ANCESTRAL, noise,
           lambda done, total: steps.append((done, total)))
    assert seen == [14, 7, 0] and steps == [(1, 3), (2, 3), (3, 3)]
    assert (draws(ANCESTRAL, 3), draws(DETERMINISTIC, 3)) == (3, 1)
    with pytest.raises(UsageError, match="noise has shape"):
        sample(lambda x, t: x, y, timesteps, REAL, DETERMINISTIC, noise)


@pytest.mark.parametrize("values, sentence", [
    ({"total_steps": 1}, "from 2 to 1000"), ({"kappa": 0}, "kappa .* above 0"),
    ({"etas_end": 1.5}, "etas_end .* at most 1"), ({"power": float("nan")}, "power .* nan"),
    ({"min_noise_level": "x"}, "min_noise_level"), ({"kappa": True}, "kappa"),
    ({"kappa": 1.0, "min_noise_level": 1.0, "etas_end": 0.9}, "begins above its etas_end")])
def test_other_schedules_are_refused(values, sentence):
    with pytest.raises(UsageError, match=sentence):
        ResShiftSchedule(**values)
    with pytest.raises(UsageError):
        ResShiftSchedule.from_dict(values)


def test_a_schedule_is_read_as_it_was_written():
    assert ResShiftSchedule.from_dict(FACE.to_dict()) == FACE
    with pytest.raises(UsageError, match="not known; use ancestral or deterministic"):
        sample(lambda x, t: x, np.zeros((1, 1, 1, 1), np.float32), (1,), REAL, "ddpm",
               np.zeros((1, 1, 1, 1), np.float32))
