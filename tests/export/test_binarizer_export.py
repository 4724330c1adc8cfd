"""Networks of every binarizer: options, files, graphs, and that the engine computes the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines import library
from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.networks.bi_diffsr.architecture import parameters
from bidiff_deploy.networks.bi_diffsr.binarizers import (
    BINARIZERS,
    CFB,
    IDENTITY,
    PUBLISHED,
    alignment_factor,
)
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.networks.bi_diffsr.step_constants import layer_constants
from bidiff_deploy.proof.bench.folded import folded_network, write_folded
from bidiff_deploy.proof.check.noise_predictor import check_bundle
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from bidiff_deploy.training.batches import batches
from bidiff_deploy.training.checkpoints import write_run
from bidiff_deploy.training.networks.plain_layers import IrNetConv2d
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.trainer import Trainer
from bidiff_deploy.training.weights import load_network, published_state
from support import run_once
from support.binarizer_setup import bundle, checkpoint, inputs, least_snr, network, predicted, small
from support.inspect_setup import check_layers
from support.reference_cases import snr
from support.training_setup import TWO_LEVELS, changed, write_recipe

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("kept_sessions")

OTHERS = [name for name in BINARIZERS if name not in (PUBLISHED, "none")]
# A bypass in a fused and in a plain binarizer, and both kinds of blocks.
NETWORKS = {**{name: small(name) for name in OTHERS},
            **{f"{name}, bypass": small(name, shortcut="cfb") for name in (PUBLISHED, "dab")},
            "dorefa of 2 and 3 bits": small("dorefa", weight_bits=2, activation_bits=3,
                                            shortcut="cfb")}
packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())


@pytest.fixture(scope="module", params=NETWORKS)
def made(request, tmp_path_factory):
    module = network(NETWORKS[request.param])
    return module, bundle(module, tmp_path_factory.mktemp("made") / "b")


@pytest.mark.parametrize("backend", [pytest.param("onnxruntime", marks=packed),
                                     "onnxruntime-stock"])
def test_the_engine_computes_the_network(made, backend):
    # No sign flips: what rounding leaves, as of the published binarizer.
    steps = (70, 10) if backend == "onnxruntime" else (70,)
    assert least_snr(*made, backend, steps) > 110


@packed
def test_each_layers_integers_are_exact(made):
    """`check` feeds every BinaryConv what the torch layer reads: integers and constants equal."""
    module, path = made
    found = checkpoint(module)
    result = check_bundle(open_bundle(path), found, threads=1, timesteps=[70], size=(16, 16))
    assert result, [verdict.reason for verdict in result.failures]
    assert len(result.layers) == binary_count(module)
    assert len(result.layers) == len(found.binary) * module.config.binary_layers.products
    assert all(layer.sums and not layer.wrong_sums and not layer.differing
               for layer in result.layers)


def binary_count(module) -> int:
    """Two layers in each of six residual blocks, and one or two in each of CP-Down, two CS-Fusions
    and CP-Up; of each as many binary convolutions as it has pairs of bits."""
    layers = 12 + 4 * (2 if module.config.shortcut == IDENTITY else 1)
    return layers * module.config.binary_layers.products


@packed
def test_check_finds_a_wrong_constant(made):
    """The expected constants are torch's own, so that a fault of folding shows. Networks whose
    scale follows from the signs, or is none, get a wrong sign."""
    module, path = made
    found = checkpoint(module)
    name = "encoder.1.conv2.weight"
    weight = found.binary[name]
    words, alpha = weight.words.copy(), weight.alpha * np.float32(1.01)
    derived = module.config.binarizer in ("bnn", "irnet") or module.config.weight_bits > 1
    if derived:
        words[0, 0, 0, 0] ^= 1
    found.binary[name] = replace(weight, words=words, alpha=alpha)
    result = check_bundle(open_bundle(path), found, threads=1, timesteps=[70], size=(16, 16))
    wrong = [layer for layer in result.layers if not layer.passed]
    assert [layer.layer for layer in wrong] == [
        node for index, node in enumerate(module.config.binary_layers.nodes("encoder.1.conv2"))
        if index % module.config.weight_bits == 0]  # those of the plane with the wrong sign
    assert ("weight bits" if derived else "alphas") in wrong[0].differing


def test_guard_and_inspect_accept_the_graphs(made):
    module, path = made
    StepGraphs(open_bundle(path)).require_equal()
    for step in open_bundle(path).steps:
        onnx.checker.check_model(str(path / step.file), full_check=True)
    found = inspect_bundle(path, (32, 32))
    assert found.disagreements == ()
    check_layers(found)
    kinds = found.to_dict()["kinds"]
    layers = binary_count(module) // module.config.binary_layers.products
    assert kinds["packed"] == layers and set(kinds) == {"packed", "float"}
    operators = found.operators
    fused = {"bidiff.NormBinaryConv", "bidiff.BinaryFusion", "bidiff.BinaryDown",
             "bidiff.BinaryUp"}
    if not BINARIZERS[module.config.binarizer].fused:
        assert not fused & set(operators)
        assert operators["bidiff.BinaryConv"] == binary_count(module)
    elif module.config.shortcut == CFB:
        assert fused & set(operators) == {"bidiff.NormBinaryConv"}
        assert operators["bidiff.BinaryConv"] == 4
    else:
        assert fused <= set(operators) and "bidiff.BinaryConv" not in operators


def test_only_time_differs_from_step_to_step(made):
    _, path = made
    bundled = open_bundle(path)
    assert bundled.step_initializers
    if not BINARIZERS[bundled.config.binarizer].grouped:
        assert all(name.endswith(".time") for name in bundled.step_initializers)
        assert {step.group for step in bundled.steps} == {0}


def test_the_baselines_of_bench_compute_the_network(made, tmp_path):
    module, path = made
    bundled = open_bundle(path)
    noisy, condition = inputs()
    expected = predicted(module, noisy, condition, 70)
    session = run_once.session(write_folded(bundled, 70, tmp_path))
    assert snr(expected, session.run(None, {"noisy": noisy, "condition": condition})[0]) > 100
    assert snr(expected, predicted(folded_network(bundled, 70), noisy, condition, 70)) > 100


def test_packed_checkpoints_hold_all_of_it(made, tmp_path):
    module, path = made
    original = checkpoint(module)
    write_packed(tmp_path / "p.safetensors", original)
    found = read_checkpoint(tmp_path / "p.safetensors")
    assert found.config == module.config
    assert {name: value.tobytes() for name, value in found.state.items()} \
        == {name: value.tobytes() for name, value in original.state.items()}
    again = bundle(module, tmp_path / "again")
    assert (again / "weights.bin").read_bytes() == (path / "weights.bin").read_bytes()
    read = load_network(tmp_path / "p.safetensors").eval()
    noisy, condition = inputs()
    assert snr(predicted(module, noisy, condition, 10),
               predicted(read, noisy, condition, 10)) > 110


def test_keys_tell_the_binarizer(made, tmp_path):
    """A state dict without options: published keys, with the binarizer's name in them."""
    module, _ = made
    config = module.config
    torch.save({"params": published_state(module, config)}, tmp_path / "run.pt")
    stated = {name: getattr(config, name) for name in ("norm_groups", "total_step", "image_size",
                                                       "dropout", "alignment")}
    found = read_checkpoint(tmp_path / "run.pt", Options(stated))
    assert found.config == config
    if config.binarizer == "bbcu":
        del stated["alignment"]
        assumed = read_checkpoint(tmp_path / "run.pt", Options(stated))
        assert assumed.config.alignment == 1.0
        assert any("alignment" in line for line in assumed.assumptions)
    if config.weight_bits > 1:
        with pytest.raises(CheckpointError, match="the options say activation_bits=2, but"):
            read_checkpoint(tmp_path / "run.pt", Options({**stated, "activation_bits": 2}))
    other = {"binarizer": PUBLISHED} if config.shortcut == IDENTITY else {"shortcut": IDENTITY}
    (name, value), = other.items()
    with pytest.raises(CheckpointError, match=f"the options say {name}={value}"):
        read_checkpoint(tmp_path / "run.pt", Options({**stated, **other}))


def test_a_runs_checkpoint_states_its_network(made, tmp_path):
    module, _ = made
    recipe = {"scale": 2, "network": module.config.to_dict(), "betas": [1e-6, 1e-2],
              "steps": [{"timestep": 40, "origin": "condition"}, {"timestep": 5}]}
    torch.save({"params_ema": published_state(module, module.config), "recipe": recipe},
               tmp_path / "checkpoint.pt")
    found = read_checkpoint(tmp_path / "checkpoint.pt")
    assert found.config == module.config and found.scale == 2 and not found.assumptions
    assert found.sampling == {"timesteps": [40, 5], "start": 40}
    assert found.schedule == {"total_steps": 100, "beta_start": 1e-6, "beta_end": 1e-2}


def test_the_published_binarizer_is_written_as_ever():
    config = NetworkConfig()
    assert config.binarizer == PUBLISHED
    assert not {"binarizer", "alignment"} & set(config.to_dict())
    assert parameters(config)["encoder.1.conv1.threshold"].shape == (5, 64)
    assert parameters(config)["encoder.1.conv1.weight"].published == (
        "downs.1.res_block.block1.conv.binary_conv.weight",)


def test_options_without_a_meaning_are_set_to_one_value():
    assert small("xnor", dynamic_group=5) == small("xnor", dynamic_group=1)
    assert small("dab", alignment=5.0).alignment == 1.0
    assert small("none", shortcut="cfb").shortcut == IDENTITY
    assert small("none", fp_res=(32, 16)) == small("none", fp_res=())
    assert small("bbcu", alignment=2).to_dict()["alignment"] == 2.0


@pytest.mark.parametrize("options, words", [
    ({"binarizer": "adabin"}, r"binarizer='adabin' is not known; it is one of bi-diffsr, bnn, d"),
    ({"binarizer": "dorefa-w1a2"}, "its bits are the options weight_bits and activation_bits"),
    ({"binarizer": "xnor", "weight_bits": 2}, "need binarizer dorefa: a layer of xnor multiplies"),
    ({"binarizer": "dorefa", "activation_bits": 5}, "activation_bits=5 must be a whole number from "
                                                    "1 to 4: a layer has a binary convol"),
    ({"binarizer": "dorefa", "weight_bits": True}, "weight_bits=True must be a whole number"),
    ({"binarizer": "bidense"}, "has no packed form: its scale of each input channel"),
    ({"shortcut": "concat"}, "shortcut='concat' is not known; it is identity or cfb"),
    ({"binarizer": ["xnor"]}, "is not known"), ({"binarizer": None}, "is not known"),
    ({"binarizer": "bbcu", "alignment": 0}, "alignment=0 must be from 0.001"),
    ({"binarizer": "bbcu", "alignment": True}, "alignment=True must be"),
    ({"binarizer": "bbcu", "alignment": float("nan")}, "alignment=nan must be"),
    ({"binarizer": "bbcu", "alignment": "big"}, "could not convert")])
def test_unknown_binarizers_are_refused(options, words):
    with pytest.raises(CheckpointError, match=words):
        NetworkConfig.from_dict(options)


def test_files_of_unknown_binarizers_are_refused(tmp_path, edit_manifest):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    module = network(small("xnor"))
    write_packed(tmp_path / "p.safetensors", checkpoint(module))
    with safe_open(str(tmp_path / "p.safetensors"), "numpy") as file:
        header = json.loads(file.metadata()["bidiff"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    header["network"]["binarizer"] = "adabin"
    save_file(tensors, tmp_path / "q.safetensors", {"bidiff": json.dumps(header)})
    with pytest.raises(CheckpointError, match="q.safetensors.*adabin"):
        read_checkpoint(tmp_path / "q.safetensors")

    state = published_state(module, module.config)
    for name, edit in (("unknown", lambda key: key.replace(".xnor.", ".adabin.")),
                       ("mixed", lambda key: key.replace("downs.1.res_block.block1.conv.xnor",
                                                         "downs.1.res_block.block1.conv.dab"))):
        torch.save({edit(key): value for key, value in state.items()}, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match="binary layers are of .*not of one of the bin"):
            read_checkpoint(tmp_path / f"{name}.pt")

    path = bundle(module, tmp_path / "b", timesteps=[5])
    edit_manifest(path, lambda manifest: manifest["network"].update(binarizer="adabin"))
    from bidiff_deploy.errors import BundleError

    with pytest.raises(BundleError, match="manifest.json.*adabin"):
        open_bundle(path)


def test_bbcus_alignment_is_folded_exactly():
    """A power of two for k: the constants are the module's own to the bit, and so is the sign."""
    module = network(small("bbcu", alignment=32.0))
    found, layer = checkpoint(module), module.get_submodule("encoder.1.conv1")
    k = alignment_factor(32.0, 8)
    assert k == layer.factor == 4.0
    folded = layer_constants(found, "encoder.1.conv1")
    held = {part: value.numpy() for part, value in layer.constants(0).items()}
    np.testing.assert_array_equal(folded["alpha"], held["alpha"])
    np.testing.assert_array_equal(folded["threshold"], held["threshold"])
    np.testing.assert_array_equal(folded["rprelu"], [held["shift_in"], held["slope"],
                                                     held["shift_out"]])
    x = np.random.default_rng(0).standard_normal((1, 8, 9, 9)).astype(np.float32)
    b = layer.threshold.numpy()[:, None, None]
    np.testing.assert_array_equal(4 * x + b >= 0, x + folded["threshold"][:, None, None] >= 0)


@pytest.mark.parametrize("binarizer, bits", [
    *((name, {}) for name in (*OTHERS, "none")),
    ("dorefa", {"weight_bits": 2, "activation_bits": 2}), ("dorefa", {"activation_bits": 4})])
def test_the_trainer_trains_and_packs_them(tmp_path, binarizer, bits):
    recipe = recipe_from_dict(changed(network={
        **TWO_LEVELS, "binarizer": binarizer, "dropout": 0.0, **bits}, steps=[{"timestep": 12}]))
    folder = write_recipe(tmp_path)
    trainer = Trainer(recipe, folder)
    high, given = next(batches(trainer.crops, recipe.run.batch))
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    told = [trainer.train_on(high, given)["loss"] for _ in range(5)]
    assert min(told[-3:]) < told[0]
    for layer in trainer.network.modules():
        if isinstance(layer, IrNetConv2d):  # the share at the begin of the last iteration
            assert layer.progress.item() == pytest.approx(4 / recipe.run.iterations)
    assert all(not torch.equal(value, before[name])
               for name, value in trainer.network.named_parameters())
    trainer.task.pack(trainer.state()["params"], folder / "run.pt", folder / "p.safetensors")
    found = read_checkpoint(folder / "p.safetensors")
    assert found.config == recipe.network and found.config.binarizer == binarizer
    write_run(folder / "run.pt", trainer.state())
    read = read_checkpoint(folder / "run.pt")
    assert read.config == recipe.network and read.sampling == {"timesteps": [12]}
    trainer.close()
