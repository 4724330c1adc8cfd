"""CMYK is converted by its profile; without one, and for other colour spaces, that is reported."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image as pillow
from PIL import ImageCms

from bidiff_deploy.images.convert import from_pil
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.read import read_image
from support.cmyk import bars, cmyk_profile, expected
from support.image_samples import profile


def colours(image: Image) -> np.ndarray:
    return image.pixels[12, 8::16].astype(int)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_converted_by_its_profile(tmp_path: Path, name: str) -> None:
    bars().save(tmp_path / name, quality=100, subsampling=0, icc_profile=cmyk_profile())
    image = read_image(tmp_path / name)
    assert image.icc_profile is None and image.metadata.dropped == ()
    assert expected()[0].tolist() == [0, 149, 217]
    assert np.abs(colours(image) - expected()).max() <= (3 if name == "a.jpg" else 0)


def test_cmyk_from_pillow_is_converted_by_its_profile() -> None:
    picture = bars()
    picture.info["icc_profile"] = cmyk_profile()
    np.testing.assert_array_equal(colours(from_pil(picture)), expected())


def test_deep_cmyk_is_converted_and_its_rounding_reported(tmp_path: Path) -> None:
    deep = np.asarray(bars()).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="separated",
                     extratags=[(34675, 7, len(cmyk_profile()), cmyk_profile(), True)])
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(colours(image), expected())
    assert image.metadata.dropped == ("its samples of more than 8 bits are rounded to 8 bits",)


@pytest.mark.parametrize(("icc", "reason"), [
    (None, "has no colour profile"), (b"broken", "broken or not for CMYK"),
    (profile(), "broken or not for CMYK")])
def test_cmyk_without_a_usable_profile_is_reported(tmp_path: Path, icc, reason: str) -> None:
    bars().save(tmp_path / "a.jpg", quality=100, icc_profile=icc)
    image = read_image(tmp_path / "a.jpg")
    assert np.abs(colours(image)[0] - [0, 255, 255]).max() <= 8
    (note,) = image.metadata.dropped
    assert "colours are approximate" in note and reason in note


def test_cmyk_is_read_without_lcms(tmp_path: Path, monkeypatch) -> None:
    bars().save(tmp_path / "a.jpg", icc_profile=cmyk_profile())
    original = builtins.__import__

    def without_lcms(name, *rest):
        if "ImageCms" in (rest[2] or () if len(rest) > 2 else ()):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_lcms)
    assert "approximate" in read_image(tmp_path / "a.jpg").metadata.dropped[0]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_rgb_profiles_of_ycbcr_tiffs_are_kept(tmp_path: Path, compression: str | None) -> None:
    if compression is None and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow below 13 does not read uncompressed YCbCr")
    pillow.new("YCbCr", (5, 4)).save(tmp_path / "a.tif", icc_profile=profile(),
                                     compression=compression)
    image = read_image(tmp_path / "a.tif")
    assert image.icc_profile == profile() and image.metadata.dropped == ()


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    rgb = pillow.new("RGB", (5, 4), (200, 30, 90))
    lab = ImageCms.profileToProfile(rgb, ImageCms.createProfile("sRGB"),
                                    ImageCms.createProfile("LAB"), outputMode="LAB")
    lab.save(tmp_path / "a.tif", icc_profile=profile())
    image = read_image(tmp_path / "a.tif")
    assert np.abs(image.pixels.astype(int) - [200, 30, 90]).max() <= 4
    assert image.icc_profile is None and "from LAB" in image.metadata.dropped[0]
