"""Preconditioning: what the network adds to what its inputs tell of the noise."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import CheckpointError, UsageError
from bidiff_deploy.export.one_file import export_one_file
from bidiff_deploy.graphs.lowering import lower_for_cuda
from bidiff_deploy.networks.bi_diffsr.binarizers import NONE, PUBLISHED
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.networks.bi_diffsr.preconditioning import shares
from bidiff_deploy.proof.check.noise_predictor import check_bundle
from bidiff_deploy.sampling.noise import first_noise
from bidiff_deploy.sampling.sampler import sample
from bidiff_deploy.sampling.schedule import Schedule
from bidiff_deploy.training.diffusion import as_predict
from bidiff_deploy.training.losses import NoiseLoss
from bidiff_deploy.training.networks.bi_diffsr import BiDiffSR
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.weights import published_state
from support.binarizer_setup import bundle, checkpoint, inputs, network, predicted, small
from support.reference_cases import snr
from support.training_setup import changed

D = 0.06


def of_noise(*timesteps: int, count: int = 40_000, seed: int = 0):
    """Noise (timesteps, count) and x_t and condition that it comes with, of photos that are D from
    their condition."""
    rng = np.random.default_rng(seed)
    noise, detail = rng.standard_normal((2, len(timesteps), count))
    condition = rng.random((len(timesteps), count))
    alpha = Schedule().alphas_cumprod[list(timesteps)][:, None].astype(np.float64)
    return noise, np.sqrt(alpha) * (condition + D * detail) + np.sqrt(1 - alpha) * noise, condition


def test_the_target_has_unit_variance_and_nothing_of_the_inputs_is_left_in_it():
    timesteps = [0, 5, 100, 700, 1500, 1960]
    noise, noisy, condition = of_noise(*timesteps)
    of_noisy, of_condition, of_output = shares(2000, D)[timesteps].T[:, :, None].astype(np.float64)
    target = (noise - of_noisy * noisy - of_condition * condition) / of_output
    assert np.abs(target.std(axis=1) - 1).max() < 0.02
    for known in (noisy, condition):
        for one, other in zip(target, known):
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def silent(**options) -> BiDiffSR:
    """A network whose output is 0."""
    module = network(NetworkConfig(**{**small(NONE, attn_res=()).to_dict(), "total_step": 2000,
                                      **options}))
    module.head.conv.weight.zero_()
    module.head.conv.bias.zero_()
    return module


def test_without_an_output_sampling_returns_the_condition():
    condition = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    found = {}
    for deviation in (D, 0.0):
        image = sample(as_predict(silent(preconditioning=deviation)), condition,
                       Schedule().leading_timesteps(50), Schedule(),
                       first_noise(condition.shape, 0, False))
        found[deviation] = np.abs(image - condition).mean()
    assert found[D] < 1.5 * D and found[0.0] > 5 * D


def test_the_loss_weighs_all_timesteps_alike():
    noise, noisy, condition = (torch.from_numpy(value.reshape(4, 3, 64, 64)).float() for value in
                               of_noise(50, 400, 1000, 1900, count=3 * 64 * 64))
    loss = NoiseLoss(silent(preconditioning=D), "l2")
    for index, timestep in enumerate((50, 400, 1000, 1900)):
        part = slice(index, index + 1)
        found = loss(noisy[part], condition[part], torch.tensor([float(timestep)]),
                     torch.zeros(1, dtype=torch.long), noise[part])["loss"]
        assert abs(float(found) - 1) < 0.05
    each = torch.tensor([50., 400., 1000., 1900.])
    assert abs(float(loss(noisy, condition, each, torch.zeros(1, dtype=torch.long),
                          noise)["loss"]) - 1) < 0.05


@pytest.mark.parametrize("binarizer", [NONE, PUBLISHED])
def test_a_bundle_computes_it(binarizer, tmp_path):
    module = network(small(binarizer, preconditioning=D, dynamic_group=2))
    path = bundle(module, tmp_path / "x.bundle")
    result = check_bundle(open_bundle(path), checkpoint(module), threads=1, size=(16, 24))
    assert result and not result.failures, result.failures
    noisy, condition = inputs()
    with load_bundle(path, threads=1) as engine:
        steps = [engine.predict(noisy, condition, t) for t in (70, 10)]
    for t, ours in zip((70, 10), steps):
        theirs = predicted(module, noisy, condition, t)
        of_noisy, of_condition, _ = shares(100, D)[t]
        assert snr(theirs, ours) > (90 if binarizer == NONE else 30)
        # The network's own part is no larger than a few deviations.
        assert snr(ours, of_noisy * noisy + of_condition * condition) > -10


def test_float16_maps_leave_the_prediction_in_float32(tmp_path):
    """An error of float16 would be amplified by 124 at the first timestep."""
    path = bundle(network(small(PUBLISHED, preconditioning=D)), tmp_path / "x.bundle")
    graph = lower_for_cuda(StepGraphs(open_bundle(path)), float16=True)
    kinds = {node.output[0]: node for node in graph.model.graph.node}
    casts = [name for name in kinds["prediction"].input if kinds[name].op_type == "Cast"]
    assert [kinds[name].attribute[0].i for name in casts] == [onnx.TensorProto.FLOAT]
    assert not any("half" in name for name in (*kinds["prediction"].input,
                                               *kinds["prediction/known"].input))


def test_one_file_in_standard_operators_computes_it(tmp_path):
    module = network(small(NONE, preconditioning=D, attn_res=()))
    export_one_file(checkpoint(module), tmp_path / "x.onnx", step=10)
    noisy, condition = inputs()
    found, = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(
        None, {"noisy": noisy, "condition": condition})
    assert snr(predicted(module, noisy, condition, 10), found) > 100


def test_a_file_of_a_run_without_its_recipe_tells(tmp_path):
    module, path = network(small(PUBLISHED, preconditioning=D)), tmp_path / "run.pth"
    torch.save(published_state(module, module.config), path)
    given = Options({"norm_groups": 4, "total_step": 100})
    assert read_checkpoint(path, given).config.preconditioning == D
    plain = network(small(PUBLISHED))
    assert "preconditioning" not in published_state(plain, plain.config)


def test_options():
    assert "preconditioning" not in NetworkConfig().to_dict()
    given = NetworkConfig(preconditioning=0.1).to_dict()
    assert given["preconditioning"] == 0.1 and NetworkConfig.from_dict(given).preconditioning == 0.1
    for value in (-1, 2, 1e-4, True, float("nan")):
        with pytest.raises(CheckpointError, match="must be 0 or from 0.001 to 1"):
            NetworkConfig(preconditioning=value)
    with pytest.raises(CheckpointError, match="in_channel of twice out_channel"):
        NetworkConfig(preconditioning=0.1, in_channel=7)
    with pytest.raises(CheckpointError, match="total_step of at most 4000, not 4001"):
        NetworkConfig(preconditioning=0.1, total_step=4001)
    tree = changed(network={"preconditioning": 0.1})
    assert recipe_from_dict(tree).network.preconditioning == 0.1
    with pytest.raises(UsageError, match="is of the published betas; leave betas="):
        recipe_from_dict({**tree, "betas": [1e-4, 2e-2]})
