"""Reduction by Lanczos' filter: Pillow's own values, at 16 bits, with alpha, without seams."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as pillow

from bidiff_deploy.images.image import Image
from bidiff_deploy.images.metadata import Metadata
from bidiff_deploy.images.reduce import reduced, size_within


def noise(shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top + 1, shape).astype(dtype)


@pytest.mark.parametrize(("size", "longest", "expected"), [
    ((3000, 2000), 2400, (2400, 1600)), ((2000, 3000), 2400, (1600, 2400)), ((5, 5), 3, (3, 3)),
    ((1000, 1), 16, (16, 1)), ((301, 200), 100, (100, 66))])
def test_the_longest_side(size, longest, expected):
    assert size_within(*size, longest) == expected


@pytest.mark.parametrize("size", [(97, 150), (51, 64), (201, 299), (3, 1)])
def test_the_values_are_those_of_pillow(size):
    """Strips of rows leave no seams: Pillow computes the whole image at once. It does so in 8 bits,
    rounded after each axis, and clipped, which this image gives no reason to."""
    pixels = noise((300, 202, 3)) // 4 + 96
    wanted = np.asarray(pillow.fromarray(pixels).resize(size, pillow.Resampling.LANCZOS))
    found = reduced(Image(pixels), *size).pixels
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_sixteen_bits_are_kept():
    pixels = noise((90, 70, 1), np.uint16)
    plane = pillow.fromarray(pixels[:, :, 0].astype(np.float32))
    wanted = np.asarray(plane.resize((33, 41), pillow.Resampling.LANCZOS)).clip(0, 65535)
    found = reduced(Image(pixels), 33, 41)
    assert found.bits == 16 and found.grey
    assert np.abs(found.pixels[:, :, 0] - wanted).max() < 0.52


def test_transparent_colours_do_not_show():
    """Red next to green that is transparent: every visible pixel stays red."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :31, 0], pixels[:, 31:, 1] = 200, 255
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, :31] = 255
    found = reduced(Image(pixels, alpha), 24, 24)
    assert found.alpha is not None and 0 < found.alpha[12, 11] < 255
    assert np.abs(found.pixels[found.alpha > 0].astype(int) - (200, 0, 0)).max() <= 1
    assert (found.pixels[:, 20] == (200, 0, 0)).all()  # where nothing is visible, as before


def test_opaque_alpha_stays_opaque_and_a_constant_constant():
    found = reduced(Image(np.full((70, 90, 1), 77, np.uint8), np.full((70, 90), 255, np.uint8)),
                    44, 35)
    assert (found.pixels == 77).all() and (found.alpha == 255).all()


def test_what_belongs_to_the_image_is_kept():
    packet = (b'<rdf:RDF xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" '
              b'GPano:FullPanoWidthPixels="3000"/>')
    image = Image(noise((20, 30, 3)), None, b"profile", Metadata(xmp=packet, dpi=(300, 300)))
    found = reduced(image, 24, 16)
    assert found.icc_profile == b"profile" and found.metadata.dpi == (300, 300)
    assert b'FullPanoWidthPixels="2400"' in found.metadata.xmp
    assert reduced(image, 30, 20) is image
