"""Self-ensemble: the mean over turned and mirrored copies of an image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy import UsageError, load_bundle
from bidiff_deploy.cli import group
from bidiff_deploy.engines.ensemble import COUNTS, enlarge_copies
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.write import write_image
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from bidiff_deploy.upscale.options import UpscaleOptions
from support.seeds import examples
from support.small_bbcu import small_bbcu


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("ensemble") / "net.bundle"
    export_bundle(small_bbcu(BbcuConfig(channels=16, blocks=1, tail="direct", float_layers=2,
                                        alignment=20.0)), path)
    return path


def picture(height: int = 23, width: int = 37) -> Image:
    return Image(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@examples(25)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(COUNTS), st.integers(1, 3))
def test_every_copy_is_brought_back(height, width, count, scale):
    """Of a network that treats all directions alike, the mean is each of the results."""
    image = np.random.default_rng(height * 10 + width).integers(
        0, 256, (1, 3, height, width)).astype(np.float32)

    def repeated(planes):
        return planes.repeat(scale, 2).repeat(scale, 3)

    assert np.array_equal(enlarge_copies(repeated, count, image), repeated(image))


def test_the_copies_are_the_symmetries_of_a_square():
    """Each is another one, and the first 2 and 4 are groups: applied to a turned or mirrored
    image, they give the turned or mirrored result."""
    image = np.random.default_rng(0).integers(0, 99, (1, 3, 5, 5)).astype(np.float32)
    weights = np.random.default_rng(1).integers(0, 99, (5, 5)).astype(np.float32)
    copies = []

    def crooked(planes):
        copies.append(planes)
        return planes * weights

    def moved(planes, turn, mirror):
        turned = np.rot90(planes, turn, (2, 3))
        return np.ascontiguousarray(turned[..., ::-1] if mirror else turned)

    groups = {2: [(0, False), (2, False)], 4: [(0, False), (2, False), (0, True), (2, True)],
              8: [(turn, mirror) for turn in range(4) for mirror in (False, True)]}
    for count, members in groups.items():
        copies.clear()
        mean = enlarge_copies(crooked, count, image)
        assert {one.tobytes() for one in copies} == {moved(image, *one).tobytes()
                                                     for one in members}
        for one in members:
            assert np.array_equal(enlarge_copies(crooked, count, moved(image, *one)),
                                  moved(mean, *one))


def test_the_engine_enlarges_copies_whole_and_in_tiles(bundle):
    image = picture(70, 90)
    with load_bundle(bundle, threads=1) as engine:
        plain = engine.upscale_image(image)
        for count in COUNTS:
            whole = engine.upscale_image(image, ensemble=count)
            unit = image.pixels.transpose(2, 0, 1)[None] / np.float32(255)
            expected = enlarge_copies(engine.enlarge, count, np.ascontiguousarray(unit))
            assert np.array_equal(whole.pixels, image.enlarged(expected[0], engine.scale).pixels)
            assert np.array_equal(whole.pixels, plain.pixels) == (count == 1)
            tiled = engine.upscale_image(image, tile=64, ensemble=count).pixels.astype(int)
            assert np.abs(tiled - whole.pixels).max() <= (count > 1)
            assert (tiled != whole.pixels).mean() < 1e-3


def test_the_command(bundle, tmp_path):
    write_image(tmp_path / "in.png", picture().pixels)

    def upscaled(*more):
        done = CliRunner().invoke(group, ["upscale", "--model", str(bundle),
                                          str(tmp_path / "in.png"), "-o", str(tmp_path / "out/"),
                                          "--json", "--quiet", "--resume", *more])
        return done.exit_code, done.output

    assert upscaled("--ensemble", "4")[0] == 0
    with load_bundle(bundle, threads=1) as engine:
        expected = engine.upscale(picture().pixels, ensemble=4)
    written = next((tmp_path / "out").glob("*.png"))
    assert np.array_equal(read_image(written).pixels, expected)
    code, text = upscaled("--ensemble", "4")
    assert code == 0 and json.loads(text)[0]["skipped"]
    code, text = upscaled("--ensemble", "2")
    assert code == 1 and "--resume cannot skip it" in text
    assert upscaled("--ensemble", "3")[0] == 2


def test_journals_of_before_stay_valid():
    assert "ensemble" not in UpscaleOptions().to_dict()
    assert UpscaleOptions(ensemble=2).to_dict()["ensemble"] == 2


@pytest.mark.parametrize("count", [0, 3, 16, True, "2", 2.0, None])
def test_other_counts_are_refused(bundle, count):
    with load_bundle(bundle, threads=1) as engine, \
            pytest.raises(UsageError, match=r"ensemble is .*; it must be"):
        engine.upscale_image(picture(), ensemble=count)


def test_diffusion_refuses_it(reference, latent):
    for path in (reference.bundle("tiny", [500, 0]), latent.bundle("ditsr_tiny")):
        with load_bundle(path, threads=1) as engine:
            with pytest.raises(UsageError, match="ensemble 2 is for feed-forward bundles"):
                engine.upscale_image(picture(), ensemble=2)
            with pytest.raises(UsageError, match="ensemble is 3; it must be 1, 2, 4 or 8 copies"):
                UpscaleOptions(ensemble=3).check(engine)
