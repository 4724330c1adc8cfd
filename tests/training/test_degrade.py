"""Low-resolution images with other kernels, JPEG and noise, drawn for each crop."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy.errors import UsageError
from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.resample import to_unit
from bidiff_deploy.training.crops import LOW
from bidiff_deploy.training.degrade import degraded
from bidiff_deploy.training.recipe import Photo, recipe_from_dict
from bidiff_deploy.training.recipe_parts import Degrade, Kernel
from support.training_photos import crops_of, save
from support.training_setup import changed, picture

PHOTO = picture(64, 96)


def low(*kernels: str, seed: int = 0, **options: object) -> np.ndarray:
    given = Degrade(tuple(Kernel(name) for name in kernels), **options)
    return degraded(PHOTO, 2, given, np.random.default_rng(seed))


def test_each_kernel_is_what_its_name_says():
    image = Image.fromarray(PHOTO)
    assert np.array_equal(low("bicubic"), make_low(PHOTO, 2))
    assert np.array_equal(low("area"), np.asarray(image.reduce(2)))
    assert np.array_equal(low("lanczos"),
                          np.asarray(image.resize((48, 32), Image.Resampling.LANCZOS)))
    edges = {name: float(np.abs(np.diff(low(name).astype(int), axis=1)).mean())
             for name in ("blur", "area", "lanczos")}
    assert edges["blur"] < edges["area"] < edges["lanczos"]


def test_kernels_are_drawn_by_their_shares():
    given = Degrade((Kernel("area", 3.0), Kernel("bicubic")))
    areas = sum(np.array_equal(degraded(PHOTO, 2, given, np.random.default_rng(seed)),
                               low("area")) for seed in range(200))
    assert areas == pytest.approx(150, abs=20)  # three standard deviations


def test_noise_has_up_to_its_levels_on_its_share_of_crops():
    clean = low("area").astype(int)
    spreads = np.array([(low("area", seed=seed, noisy=0.5, noise=4.0) - clean).std()
                        for seed in range(100)])
    assert np.count_nonzero(spreads) == pytest.approx(50, abs=15)
    assert 3 < spreads.max() < 4.2 and spreads[spreads > 0].min() < 1


def test_blur_always_has_noise_of_at_least_half_the_highest_level():
    spreads = [(low("blur", noise=8.0, seed=seed) - low("blur", noise=0.0, seed=seed).astype(int)
                ).std() for seed in range(20)]
    assert 3 < min(spreads) < 5 < max(spreads) < 8.4


def test_jpeg_is_of_its_qualities_and_both_samplings():
    clean = low("area").astype(int)

    def error(seed: int, *quality: int) -> float:
        return float(np.abs(low("area", seed=seed, jpeg=1.0, quality=quality) - clean).mean())

    assert all(error(seed, 60, 60) > 1.3 * error(seed, 95, 95) > 0 for seed in range(4))
    # Chroma at half the size is lost more, so results of one quality are of two kinds.
    assert len({low("area", seed=seed, jpeg=1.0, quality=(80, 80)).tobytes()
                for seed in range(12)}) == 2
    assert len({low("area", seed=seed, jpeg=1.0).tobytes() for seed in range(12)}) > 6


def test_a_degraded_crop_is_at_its_place_and_a_function_of_its_number(tmp_path):
    # Every pixel of a block of 2x2 is equal, so that area finds the pixels back.
    small = np.random.default_rng(0).integers(0, 256, (40, 44, 3), np.uint8)
    save(tmp_path / "photo.png", small.repeat(2, 0).repeat(2, 1))

    def crops(**options):
        made = crops_of(tmp_path, [Photo("photo.png")], candidates=2, shuffle_colors=True,
                        degrade=Degrade((Kernel("area"),), **options))
        made.given = LOW
        return made

    clean = crops()
    for index in range(40):
        photo, found = clean.crop(index)
        assert found.shape == (3, 8, 8)
        assert np.array_equal(found, to_unit(photo[:, ::2, ::2]))
    noisy = crops(noisy=1.0, jpeg=0.5)
    batch = noisy.batch(0, 6)[1]
    assert np.array_equal(batch, crops(noisy=1.0, jpeg=0.5).batch(0, 6)[1])
    assert 0 < np.abs(batch.numpy() - clean.batch(0, 6)[1].numpy()).max() < 0.5
    assert all(np.array_equal(noisy.crop(index)[0], clean.crop(index)[0]) for index in range(6))


@pytest.mark.parametrize("degrade, says", [
    ({"kernels": ["nearest"]}, "kernel's name must be one of bicubic, area, lanczos, blur"),
    ({"kernels": [{"name": "area", "share": 0}]}, "share of kernel area must be above 0"),
    ({"jpeg": 0.5}, "needs kernels"), ({"kernels": ["area"], "jpeg": 2}, "shares from 0 to 1"),
    ({"kernels": ["area"], "noise": 300}, "noise must be from 0 to 64"),
    ({"kernels": ["area"], "quality": [95, 60]}, "two ascending numbers from 1 to 100")])
def test_degradations_that_are_refused(degrade, says):
    with pytest.raises(UsageError, match=says):
        recipe_from_dict(changed(data={"degrade": degrade}))


def test_low_resolution_images_that_exist_are_not_degraded():
    tree = changed(data={"train": [{"path": "HR", "low": "LR"}], "degrade": {"kernels": ["area"]}})
    with pytest.raises(UsageError, match="leave low out of data.train"):
        recipe_from_dict(tree)
