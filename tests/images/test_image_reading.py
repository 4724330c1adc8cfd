"""Supported image files are read exactly, and the error for a bad one names the file and reason."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as pillow

from bidiff_deploy.errors import ImageError
from bidiff_deploy.images.convert import from_pil
from bidiff_deploy.images.image import EXTENSIONS
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.write import write_image
from support.image_samples import CHANNELS, HEIGHT, WIDTH, joined, samples
from support.seeds import examples


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
def test_16_bit_png_is_read_exactly(tmp_path: Path, channels: int, interlaced: bool) -> None:
    expected = samples(channels)
    with open(tmp_path / "a.png", "wb") as file:
        png.Writer(WIDTH, HEIGHT, greyscale=channels < 3, alpha=channels in (2, 4), bitdepth=16,
                   interlace=interlaced).write_array(file, expected.ravel().tolist())
    found = read_image(tmp_path / "a.png")
    assert found.bits == 16 and found.grey == (channels < 3)
    np.testing.assert_array_equal(joined(found), expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("options", [
    {}, {"rowsperstrip": 5}, {"tile": (16, 16)}, {"compression": "zlib", "predictor": True}],
    ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_is_read_exactly(tmp_path: Path, channels: int, options: dict,
                                     order: str) -> None:
    expected = samples(channels)
    tifffile.imwrite(tmp_path / "a.tif", expected if channels > 1 else expected[:, :, 0],
                     photometric="rgb" if channels > 1 else "minisblack", byteorder=order,
                     extrasamples=["unassalpha"] if channels == 4 else None, **options)
    found = read_image(tmp_path / "a.tif")
    assert found.bits == 16
    np.testing.assert_array_equal(joined(found), expected)


def test_white_is_zero_in_some_tiffs(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        grey = samples(1, dtype)[:, :, 0]
        tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels[:, :, 0], ~grey)


@pytest.mark.parametrize(("array", "options", "words"), [
    (samples(1)[:, :, 0].astype(np.float32), {}, "not whole numbers of 8 or 16 bits"),
    (samples(1)[:, :, 0].astype(np.int32), {}, "not whole numbers of 8 or 16 bits"),
    (samples(4).transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate",
                                     "extrasamples": ["assocalpha"]}, "straight alpha"),
    (samples(4), {"photometric": "rgb", "extrasamples": ["assocalpha"]}, "straight alpha")])
def test_tiffs_that_are_refused(tmp_path: Path, array, options: dict, words: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(tmp_path / "a.tif")
    assert "a.tif" in str(caught.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("options", [
    {}, {"rowsperstrip": 5}, {"tile": (16, 16)}, {"compression": "zlib", "predictor": True}],
    ids=str)
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_planes_are_read_by_tifffile(tmp_path: Path, monkeypatch, channels: int,
                                            options: dict, order: str) -> None:
    expected = samples(channels)
    tifffile.imwrite(tmp_path / "a.tif", np.rot90(expected).transpose(2, 0, 1), photometric="rgb",
                     planarconfig="separate", byteorder=order, extratags=[(0x0112, 3, 1, 6, True)],
                     extrasamples=["unassalpha"] if channels == 4 else None, **options)
    found = read_image(tmp_path / "a.tif")
    assert found.bits == 16
    np.testing.assert_array_equal(joined(found), expected)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match="a.tif: .* separate planes.* pip install tifffile"):
        read_image(tmp_path / "a.tif")


def test_palettes(tmp_path: Path) -> None:
    picture = pillow.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "plain.png")
    found = read_image(tmp_path / "plain.png")
    assert found.alpha is None and found.pixels.tolist() == [[[255, 0, 0], [0, 255, 0],
                                                              [0, 0, 255]]]
    picture.save(tmp_path / "one.png", transparency=1)
    assert read_image(tmp_path / "one.png").alpha.tolist() == [[255, 0, 255]]
    picture.save(tmp_path / "each.png", transparency=bytes([10, 20, 30]))
    found = read_image(tmp_path / "each.png")
    assert found.alpha.tolist() == [[10, 20, 30]] and found.pixels[0, 2].tolist() == [0, 0, 255]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_few_grey_levels_and_their_transparent_one(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    with open(tmp_path / "a.png", "wb") as file:
        png.Writer(2, 1, greyscale=True, bitdepth=bits, transparent=top).write(file, [[0, top]])
    found = read_image(tmp_path / "a.png")
    full = 65535 if bits == 16 else 255
    assert found.pixels[:, :, 0].tolist() == [[0, full]] and found.alpha.tolist() == [[full, 0]]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    with open(tmp_path / "a.png", "wb") as file:
        png.Writer(2, 1, greyscale=False, bitdepth=bits, transparent=(1, 2, top)).write(
            file, [[1, 2, top, 1, 2, top - 1]])
    found = read_image(tmp_path / "a.png")
    assert found.alpha.tolist() == [[0, top]] and found.bits == bits
    assert found.pixels.tolist() == [[[1, 2, top], [1, 2, top - 1]]]


def test_colour_spaces_become_rgb(tmp_path: Path) -> None:
    picture = pillow.new("CMYK", (4, 3), (0, 255, 255, 0))
    picture.save(tmp_path / "a.jpg", quality=100, icc_profile=b"of CMYK")
    found = read_image(tmp_path / "a.jpg")
    assert np.abs(found.pixels - np.array([255.0, 0, 0])).max() <= 3 and found.icc_profile is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    y, x = np.mgrid[:32, :48]
    upright = np.stack([x * 5, y * 7, np.zeros_like(x)], axis=2).astype(np.uint8)
    # What a camera held that way stores (EXIF 2.32, table of tag 0x0112).
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.swapaxes(0, 1), 6: np.rot90(upright),
              7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1)}[orientation]
    exif = pillow.Exif()
    exif[0x0112] = orientation
    pillow.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, quality=100)
    found = read_image(tmp_path / name)
    assert found.pixels.shape == upright.shape
    assert np.abs(found.pixels.astype(int) - upright).mean() < 3
    again = from_pil(pillow.open(tmp_path / name))
    np.testing.assert_array_equal(again.pixels, found.pixels)


def test_orientation_of_16_bit_colour(tmp_path: Path) -> None:
    upright = samples(3)
    stored = np.rot90(upright)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb",
                     extratags=[(0x0112, 3, 1, 6, True)])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, upright)


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    pillow.new("RGB", (4, 3)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_image(tmp_path / "a.jpg").width == 4


def encoded(name: str) -> bytes:
    file = io.BytesIO()
    if name == "deep.png":
        with io.BytesIO() as buffer:
            png.Writer(WIDTH, HEIGHT, greyscale=False, bitdepth=16).write_array(
                buffer, samples(3).ravel().tolist())
            return buffer.getvalue()
    if name == "deep.tif":
        tifffile.imwrite(file, samples(3), photometric="rgb", compression="zlib")
        return file.getvalue()
    pillow.fromarray(samples(3, np.uint8)).save(file, format=EXTENSIONS[Path(name).suffix])
    return file.getvalue()


NAMES = ["a.png", "a.jpg", "a.webp", "a.tif", "deep.png", "deep.tif"]
DATA = {name: encoded(name) for name in NAMES}


@examples(150)
@given(name=st.sampled_from(NAMES), share=st.floats(0, 0.95))
def test_truncated_files_are_refused(tmp_path_factory, name: str, share: float) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(DATA[name][:int(len(DATA[name]) * share)])
    with pytest.raises(ImageError, match=name.replace(".", r"\.")):
        read_image(path)


@examples(250)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, name: str,
                                           data: st.DataObject) -> None:
    damaged = bytearray(DATA[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(damaged)
    try:
        found = read_image(path, max_pixels=1 << 20)
    except ImageError as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert found.pixels.size


def test_an_image_of_no_width_is_refused(tmp_path: Path) -> None:
    """A TIFF whose tag of its width is damaged, which `make soak` found."""
    damaged = bytearray(DATA["a.tif"])
    damaged[11] = 0
    path = tmp_path / "a.tif"
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match=r"a\.tif: it is damaged: its size is 0x21 pixels"):
        read_image(path)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty"), (b"not an image at all", "is a text file, which is not read"),
    (bytes(range(256)), "not a PNG, JPEG, WebP, TIFF, BMP or GIF image, or is damaged"),
    (b"\x89PNG\r\n\x1a\n", "damaged"), (b"GIF89a" + bytes(50), "damaged"),
    (b"II*\0" + b"\xff" * 20, "damaged")])
def test_files_that_are_no_images(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_places_that_are_no_files(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "missing.png", "does not exist"), (tmp_path, "not a file"),
                        ("/dev/zero", "not a file"), ("a\0b.png", "cannot be read")):
        with pytest.raises(ImageError, match=words):
            read_image(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(
            ">I", zlib.crc32(name + body))

    def bomb(side: int) -> bytes:
        return (b"\x89PNG\r\n\x1a\n"
                + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))

    for side in (12000, 100_000):  # beyond our limit, and beyond Pillow's
        (tmp_path / "a.png").write_bytes(bomb(side))
        with pytest.raises(ImageError, match="pixels"):
            read_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png", samples(3))
    with pytest.raises(ImageError, match=f"{WIDTH}x{HEIGHT} pixels; at most 700"):
        read_image(tmp_path / "b.png", max_pixels=700)
