"""The full-precision counterpart: no binary layer, the same way through files and engines."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines import library
from bidiff_deploy.networks.bi_diffsr.architecture import blocks, parameters
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.networks.bi_diffsr.costs import count
from bidiff_deploy.networks.bi_diffsr.step_constants import pair_of_convolutions
from bidiff_deploy.proof.bench.folded import folded_network, write_folded
from bidiff_deploy.proof.check.noise_predictor import check_bundle
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.training.weights import published_state
from support import run_once
from support.binarizer_setup import bundle, checkpoint, inputs, least_snr, network, predicted, small
from support.inspect_setup import check_layers
from support.reference_cases import snr

pytest.importorskip("onnxruntime")

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    module = network(small("none"))
    return module, bundle(module, tmp_path_factory.mktemp("full") / "b")


def test_it_is_the_same_network_with_plain_convolutions(made):
    module, _ = made
    config = module.config
    assert not any(block.binary for block in blocks(config))
    assert [(b.kind, b.name, b.channels, b.attention) for b in blocks(config)] \
        == [(b.kind, b.name, b.channels, b.attention) for b in blocks(small("bi-diffsr"))]
    for block in blocks(config):
        if block.kind in ("residual", "down", "up", "fusion"):
            for half in (1, 2):
                conv = module.get_submodule(f"{block.name}.conv{half}")
                assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                assert conv.kernel_size[0] == block.kernel_size
    # Each binary layer had C x C x k x k latents and 4 vectors a group; now a bias.
    full, binary = (sum(np.prod(p.shape) for p in parameters(c).values())
                    for c in (NetworkConfig(binarizer="none"), NetworkConfig()))
    layers = [b for b in blocks(NetworkConfig()) if b.binary]
    assert binary - full == sum(outputs * (4 * 5 - 1) for b in layers
                                for _, _, outputs in b.convolutions)


@pytest.mark.parametrize("kind", ["fusion", "down", "up"])
def test_two_convolutions_are_one(made, kind):
    module, _ = made
    block = next(b for b in blocks(module.config) if b.kind == kind)
    state = {name: value.numpy() for name, value in module.named_parameters()}
    pair = {part: torch.from_numpy(value)
            for part, value in pair_of_convolutions(state, block).items()}
    x, skip = torch.randn(2, 1, block.channels, 6, 8, generator=torch.Generator().manual_seed(1))
    one = module.get_submodule(block.name)
    group = torch.zeros(1, dtype=torch.int64)
    if kind == "fusion":
        expected = one(x, skip, group)
        found = nn.functional.conv2d(torch.cat([x, skip], 1), pair["weight"], pair["bias"])
    else:
        expected = one(x, group)
        found = nn.functional.conv2d(x, pair["weight"], pair["bias"], padding=1)
        found = (nn.functional.pixel_unshuffle if kind == "down"
                 else nn.functional.pixel_shuffle)(found, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("backend", [pytest.param("onnxruntime", marks=packed),
                                     "onnxruntime-stock"])
def test_the_engine_computes_the_network(made, backend):
    module, path = made
    _, condition = inputs()
    assert least_snr(module, path, backend) > 105
    with load_bundle(path, threads=1, backend=backend) as engine:
        image = engine.sample(condition, seed=1, start=None)
        assert image.shape == condition.shape and 0 <= image.min() and image.max() <= 1


@packed
def test_rounded_products_where_they_are_allowed(made, tmp_path):
    module, _ = made
    noisy, condition = inputs()
    path = bundle(module, tmp_path / "fast", precision="fast")
    with load_bundle(path, threads=1) as engine:
        assert engine.bundle.precision == "bfloat16"
        assert snr(predicted(module, noisy, condition, 70),
                   engine.predict(noisy, condition, 70)) > 36


@packed
def test_check_passes_and_finds_another_weight(made):
    module, path = made
    found = checkpoint(module)
    result = check_bundle(open_bundle(path), found, threads=1, timesteps=[70], size=(16, 16))
    assert result, [verdict.reason for verdict in result.failures]
    assert not result.layers and result.segments and result.operators
    found.state["encoder.2.conv2.weight"] *= np.float32(1.01)
    assert not check_bundle(open_bundle(path), found, threads=1, timesteps=[70], size=(16, 16))


def test_the_graph_is_fused_or_standard_operators(made):
    module, path = made
    StepGraphs(open_bundle(path)).require_equal()
    for step in open_bundle(path).steps:
        model = onnx.load(path / step.file, load_external_data=False)
        onnx.checker.check_model(str(path / step.file), full_check=True)
        assert {node.op_type for node in model.graph.node if node.domain} == {
            "Conv3x3", "NormConv", "PairConv", "Attention"}
    found = inspect_bundle(path, (32, 32))
    assert found.disagreements == ()
    check_layers(found)
    assert set(found.to_dict()["kinds"]) == {"float"}
    assert {layer.why for layer in found.layers if layer.name.startswith("encoder.2")} == {
        "full precision: the network has no binary layers"}
    # count's layers, the pairs as one, cost as much as two convolutions each.
    counted = count(module.config, 32, 32)
    binary = count(small("bi-diffsr"), 32, 32)
    assert counted.binary_macs == 0 == counted.binary_parameters
    assert counted.float_macs == binary.float_macs + binary.binary_macs
    assert counted.parameters == sum(p.numel() for p in module.parameters())


def test_the_baselines_of_bench_compute_the_network(made, tmp_path):
    module, path = made
    bundled = open_bundle(path)
    noisy, condition = inputs()
    session = run_once.session(write_folded(bundled, 10, tmp_path))
    expected = predicted(module, noisy, condition, 10)
    assert snr(expected, session.run(None, {"noisy": noisy, "condition": condition})[0]) > 105
    assert snr(expected, predicted(folded_network(bundled, 10), noisy, condition, 10)) > 105


def test_files(made, tmp_path):
    """Packed and torch checkpoints; the keys tell that nothing is binary."""
    module, path = made
    config = module.config
    write_packed(tmp_path / "p.safetensors", checkpoint(module))
    found = read_checkpoint(tmp_path / "p.safetensors")
    assert found.config == config and not found.binary
    torch.save({"params": published_state(module, config)}, tmp_path / "run.pt")
    stated = {name: getattr(config, name)
              for name in ("norm_groups", "total_step", "image_size", "dropout")}
    read = read_checkpoint(tmp_path / "run.pt", Options(stated))
    assert read.config == config
    for name, value in checkpoint(module).state.items():
        assert np.array_equal(found.state[name], value)
        assert np.array_equal(read.state[name], value)


def test_one_batch_may_have_any_timesteps(made):
    """There are no groups of timesteps that would choose parameters."""
    module, _ = made
    noisy, condition = (torch.from_numpy(np.repeat(a, 2, axis=0)) for a in inputs())
    with torch.no_grad():
        both = module(noisy, condition, torch.tensor([99, 0]))
        assert torch.allclose(both[:1], module(noisy[:1], condition[:1], 99), atol=1e-5)
        assert torch.allclose(both[1:], module(noisy[1:], condition[1:], 0), atol=1e-5)
