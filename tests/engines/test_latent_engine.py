"""The engine of a latent network: its parts against the published code, loops, tiles, refusals."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from bidiff_deploy import EngineError, UsageError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle, open_noise_predictor
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines import open_engine
from bidiff_deploy.errors import BundleError
from bidiff_deploy.export.write import bundle_in_memory, choose_timesteps, schedule_of
from bidiff_deploy.images.resample import enlarge
from bidiff_deploy.sampling.resshift import ancestral_step, first_latent
from support.reference_cases import snr


@pytest.fixture(scope="module")
def engine(latent):
    with load_bundle(latent.bundle("ditsr_tiny"), threads=1) as opened:
        yield opened


@pytest.fixture
def image():
    return np.random.default_rng(0).random((1, 3, 21, 30), np.float32)


def test_each_kept_step_of_the_loop_equals_the_published_code(latent, engine):
    case = latent.arrays("sampler_resshift_15")
    for index, timestep in enumerate(map(int, case["kept_timesteps"])):
        before = case["kept_latent_in"][index][None]
        x0 = engine.predict(before * engine.schedule.input_scale(timestep), case["lq"], timestep)
        assert snr(case["kept_pred_xstart"][index], x0[0]) > 100
        after = ancestral_step(engine.schedule, before, x0, timestep,
                               timestep - 1 if timestep else None,
                               case["kept_step_noise"][index][None])
        assert snr(case["kept_ancestral_out"][index], after[0]) > 100


def test_its_parts_equal_the_published_code(latent, engine):
    case = latent.arrays("forward_vq_f4_tiny")
    assert snr(case["square_latent"], engine.encode(case["square_image"])) > 105
    assert snr(case["square_decoded"], engine.decode(case["square_latent"])) > 100


def test_a_sample_is_padded_encoded_sampled_decoded_and_cropped(engine, image):
    """The same by hand, of an image that is padded on both sides."""
    mirrored = np.pad(image, [(0, 0), (0, 0), (0, 11), (0, 2)], mode="reflect")
    condition = mirrored * 2 - 1
    y = engine.encode(enlarge(condition, 4))
    noise = np.random.default_rng(1).standard_normal((1, 6, 32, 32), np.float32)
    x = first_latent(engine.schedule, y, noise[:, :3], 14)
    x0 = engine.predict(x * engine.schedule.input_scale(14), condition, 14)
    x = ancestral_step(engine.schedule, x, x0, 14, 0, noise[:, 3:])
    x = engine.predict(x * engine.schedule.input_scale(0), condition, 0)
    expected = np.clip(engine.decode(x) / 2 + 0.5, 0, 1)[:, :, :84, :120]
    found = engine.sample(image, noise, steps=2)
    assert found.shape == (1, 3, 84, 120) and found.dtype == np.float32
    assert snr(expected, found) > 90


def test_samplers_and_seeds(engine, image):
    seen = []
    one = engine.sample(image, seed=1, steps=2, on_step=lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)]
    assert np.array_equal(one, engine.sample(image, seed=1, steps=2))
    assert not np.array_equal(one, engine.sample(image, seed=2, steps=2))
    assert not np.array_equal(one, engine.sample(image, seed=1, steps=2, sampler="deterministic"))
    both = [engine.sample(image, seed=1, steps=1, sampler=name)
            for name in ("ancestral", "deterministic")]
    assert snr(*both) > 90


def test_an_image_of_one_tile_equals_its_sample(engine):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    found = engine.upscale(pixels, seed=3, steps=1)
    sample = engine.sample((pixels / np.float32(255)).transpose(2, 0, 1)[None], seed=3, steps=1)
    assert found.shape == (80, 132, 3)
    assert np.array_equal(found, np.rint(sample[0].transpose(1, 2, 0) * 255).astype(np.uint8))


def test_tiles_are_aligned_to_latents_and_nothing_but_a_single_tile_is_padded(engine):
    plan = engine.tile_plan(20, 70, tile=128, overlap=30)
    assert plan.columns.starts == (0, 76, 152) and plan.columns.padded == 280
    assert plan.rows.starts == (0,) and plan.rows.padded == 128
    assert engine.tile_plan(300, 300, tile=1024).overlap == 128  # as published tiles
    pixels = np.random.default_rng(0).integers(0, 256, (20, 70, 3), np.uint8)
    steps, tiles = [], []
    found = engine.upscale(pixels, tile=128, overlap=30, steps=1,
                           on_step=lambda *step: steps.append(step),
                           on_tile=lambda *tile: tiles.append(tile))
    assert found.shape == (80, 280, 3)
    assert steps == tiles == [(1, 3), (2, 3), (3, 3)]
    # What no other tile touches is the tile's own image: one field of noise for all.
    first = engine.upscale(pixels[:, :32], steps=1)
    assert np.array_equal(found[:, :64], first[:, :64])
    matched = engine.upscale(pixels, tile=128, overlap=30, steps=1, match_color=True)
    assert matched.shape == found.shape and not np.array_equal(matched, found)


@pytest.mark.parametrize("call, sentence", [
    (lambda e, x: e.predict(x[:, :, :32, :32], x[:, :, :32, :32], 20), "has no timestep 20"),
    (lambda e, x: e.predict(x[:, :, :30, :32], x[:, :, :30, :32], 14), "multiples of 32"),
    (lambda e, x: e.predict(x[:, :, :32, :32], x, 14), "must be equal"),
    (lambda e, x: e.encode(x[:, :2]), r"image has shape .* it must be \(N, 3, H, W\)"),
    (lambda e, x: e.encode(x[:, :, :20]), "multiples of 16"),
    (lambda e, x: e.decode(x[:, :, :3]), "multiples of 4"),
    (lambda e, x: e.sample(x * np.nan), "not finite"),
    (lambda e, x: e.sample(x, steps=16), "steps is 16"),
    (lambda e, x: e.sample(x, sampler="ddim"), "sampler 'ddim' is not known"),
    (lambda e, x: e.sample(x, noise=x), "noise has shape"),
    (lambda e, x: e.sample(x, seed=-1), "seed"),
    (lambda e, x: e.upscale(np.zeros((4, 4, 3), np.uint8), start=7), "leave start out")])
def test_what_does_not_fit_is_refused(engine, call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call(engine, np.zeros((1, 3, 32, 64), np.float32))


def test_other_backends_are_refused(latent):
    with pytest.raises(EngineError, match="is a network DiT-SR, which backend tensorrt"):
        load_bundle(latent.bundle("ditsr_tiny"), backend="tensorrt")
    with pytest.raises(BundleError, match="of kind 'latent', which predicts no noise"):
        open_noise_predictor(latent.bundle("ditsr_tiny"))


def test_a_bundle_in_memory_and_standard_operators_give_the_same(latent, engine, image):
    checkpoint = read_checkpoint(latent.packed("ditsr_tiny"))
    bundle = bundle_in_memory(checkpoint, timesteps=choose_timesteps(checkpoint, steps=2))
    assert bundle.timesteps == (14, 0) and schedule_of(checkpoint) == engine.schedule
    expected = engine.sample(image, seed=1, steps=2)
    with open_engine(bundle, threads=1, backend="onnxruntime") as opened:
        assert np.array_equal(expected, opened.sample(image, seed=1))
        assert "latent" in opened.description
    with pytest.raises(EngineError, match="closed"):
        opened.sample(image)
    with load_bundle(latent.bundle("ditsr_tiny"), threads=1,
                     backend="onnxruntime-stock") as opened:
        assert opened.kernel == "stock"
        maps = np.random.default_rng(2).random((2, 1, 3, 32, 32), np.float32)
        assert np.array_equal(engine.predict(*maps, 0), opened.predict(*maps, 0))
        assert snr(engine.encode(maps[0]), opened.encode(maps[0])) > 105


def test_a_manifest_that_does_not_fit_is_refused(latent, tmp_path, edit_manifest):
    bundle = tmp_path / "b"
    shutil.copytree(latent.bundle("ditsr_tiny"), bundle)
    assert open_bundle(bundle).sampler == "ancestral"

    def check(change, sentence):
        shutil.copy(latent.bundle("ditsr_tiny") / "manifest.json", bundle)
        edit_manifest(bundle, change)
        with pytest.raises(BundleError, match=sentence):
            load_bundle(bundle, threads=1)

    check(lambda m: m["sampling"].update(sampler="x"), "'x' is not known")
    check(lambda m: m["encoder"].update(file=m["decoder"]["file"]), "the same file")
    check(lambda m: m["encoder"].update(file="../x"), "not allowed")
    check(lambda m: m.pop("decoder"), "decoder is missing")
    check(lambda m: m["encoder"]["tensors"].pop("vq.quant_conv.bias"), "not those of its network")
    check(lambda m: m["schedule"].update(kappa=-1), "kappa")
    check(lambda m: m["decoder"]["tensors"].update({"vq.post_quant_conv.bias": 1 << 40}),
          "not inside its weights file")
    check(lambda m: m.update(kind="diffusion"), "kind 'diffusion' is not that")
