"""A photo on a page: its pictures are the files' pixels, in few enough bytes, as a browser can show
them."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow
from PIL import ImageCms

from bidiff_deploy.errors import ImageError
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.write import write_image
from bidiff_deploy.pages import pictures
from bidiff_deploy.pages.photo import Photo, view_photo
from bidiff_deploy.pages.pictures import part_of
from bidiff_deploy.pages.preview import to_srgb

PLENTY = 1_000_000


def pixels_of(photo: Photo, name: str) -> np.ndarray:
    data = photo.shown.uris[name].partition(";base64,")[2]
    return np.asarray(pillow.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def pair(folder: Path, low: Image, size: tuple[int, int] | None = None) -> tuple[Path, Path]:
    """The file of an image, and of random pixels of ``size`` (width, height), by default twice as
    large."""
    width, height = size or (2 * low.width, 2 * low.height)
    dtype = low.pixels.dtype
    made = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, (
        height, width, low.pixels.shape[2])).astype(dtype)
    alpha = None if low.alpha is None else np.asarray(pillow.fromarray(low.alpha).resize(
        (width, height), pillow.Resampling.NEAREST))
    source, output = folder / "a.png", folder / "a_x2.png"
    write_image(source, low, overwrite=True)
    write_image(output, replace(low, pixels=made, alpha=alpha), overwrite=True)
    return source, output


def noise(height: int, width: int, dtype=np.uint8, channels: int = 3, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, top, (height, width, channels)).astype(dtype)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 7)])
def test_pictures_are_the_files_pixels(tmp_path, size):
    source, output = pair(tmp_path, Image(noise(*size)))
    photo = view_photo(source, output, PLENTY)
    assert photo.shown.quality is None and photo.notes is None
    assert photo.shown.part == (0, 0, 2 * size[1], 2 * size[0])
    before = np.asarray(pillow.open(source))
    assert (pixels_of(photo, "before") == before).all()
    assert (pixels_of(photo, "after") == np.asarray(pillow.open(output))).all()
    lanczos = pillow.open(source).resize((2 * size[1], 2 * size[0]), pillow.Resampling.LANCZOS)
    assert (pixels_of(photo, "lanczos") == np.asarray(lanczos)).all()


@pytest.mark.parametrize("size", [(160, 120), (137, 103)])
def test_a_part_is_cut_from_all_three_alike(tmp_path, monkeypatch, size):
    """137x103 is what a limit of the longest side leaves: no whole multiple of the input."""
    monkeypatch.setattr(pictures, "_PIXELS", (4000,))
    source, output = pair(tmp_path, Image(noise(60, 80)), size)
    photo = view_photo(source, output, PLENTY)
    left, top, width, height = photo.shown.part
    assert width * height <= 4100 and width < size[0] and (photo.before, photo.after) == (
        (80, 60), size)
    rows, columns = slice(top, top + height), slice(left, left + width)
    assert (pixels_of(photo, "after") == np.asarray(pillow.open(output))[rows, columns]).all()
    before = pixels_of(photo, "before")
    across, down = size[0] / 80, size[1] / 60
    at = round(top / down), round(left / across)
    assert (before == np.asarray(pillow.open(source))[
        at[0]:at[0] + before.shape[0], at[1]:at[1] + before.shape[1]]).all()
    if size == (160, 120):
        whole = pillow.open(source).resize(size, pillow.Resampling.LANCZOS)
        assert (pixels_of(photo, "lanczos") == np.asarray(whole)[rows, columns]).all()


def test_an_output_smaller_than_its_input(tmp_path):
    """As --fit makes of a photo that is large already."""
    source, output = pair(tmp_path, Image(noise(60, 80)), (40, 30))
    photo = view_photo(source, output, PLENTY)
    assert {pixels_of(photo, name).shape for name in photo.shown.uris} == {(30, 40, 3)}


def test_quality_is_lost_first_then_a_part_is_shown(tmp_path):
    source, output = pair(tmp_path, Image(noise(200, 150)))
    found = [view_photo(source, output, budget) for budget in (1_500_000, 900_000, 250_000)]
    assert [one.shown.quality for one in found][:2] == [None, 95]
    assert found[1].shown.part[2:] == (300, 400) != found[2].shown.part[2:]
    assert all(one.shown.characters <= budget
               for one, budget in zip(found, (1_500_000, 900_000, 250_000)))
    with pytest.raises(ImageError, match="does not fit the page"):
        view_photo(source, output, 500)


def test_what_a_browser_cannot_show_is_converted_and_said(tmp_path):
    alpha = np.full((40, 40), 255, np.uint8)
    alpha[:, :20] = 0
    photo = view_photo(*pair(tmp_path, Image(noise(40, 40), alpha)), PLENTY)
    assert photo.notes == "transparency as a checkerboard"
    after = pixels_of(photo, "after")[:, :30]
    assert set(np.unique(after)) == {178, 230}
    assert (pixels_of(photo, "lanczos")[:, :30] == after).all()
    assert (pixels_of(photo, "before")[:, :15] == after[::2, ::2]).all()

    deep = noise(4, 5, np.uint16)
    photo = view_photo(*pair(tmp_path, Image(deep)), PLENTY)
    assert photo.notes == "16 bits as 8"
    assert np.abs(pixels_of(photo, "before") - deep / 257).max() <= 0.5

    grey = noise(4, 5, channels=1)
    photo = view_photo(*pair(tmp_path, Image(grey)), PLENTY)
    assert (pixels_of(photo, "before") == grey).all()


def test_colours_are_converted_by_their_profile():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise(6, 6)
    same, _, notes = to_srgb(Image(pixels, icc_profile=profile))
    assert notes == "colours as sRGB" and np.abs(np.asarray(same, int) - pixels).max() <= 2
    kept, _, notes = to_srgb(Image(pixels, icc_profile=b"no profile"))
    assert "cannot be applied" in notes and (np.asarray(kept) == pixels).all()


def test_the_part_has_the_edges_and_few_enough_pixels():
    pixels = np.full((3000, 400, 3), 128, np.uint8)
    pixels[2000:2400:20, 100:300] = 255
    left, top, width, height = part_of(pixels, 300_000)
    assert width * height <= 300_000 and top <= 2000 and top + height >= 2380
    assert part_of(pixels, 1_200_000) == (0, 0, 400, 3000)
    for shape in ((1, 9000, 3), (9000, 1, 3), (9000, 2, 3)):
        left, top, width, height = part_of(np.zeros(shape, np.uint8), 100)
        assert 50 <= width * height <= 100
        assert left + width <= shape[1] and top + height <= shape[0]
