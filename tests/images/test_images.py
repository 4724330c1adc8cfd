"""Images become the condition, arrays and files; unsupported ones are refused with the reason."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as pillow

from bidiff_deploy.errors import ImageError, OutputError, UsageError
from bidiff_deploy.images.convert import from_array, from_pil, to_array, to_pil
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.metadata import Metadata
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.resample import pad_reflect, to_condition
from bidiff_deploy.images.write import check_output, write_image
from support.image_samples import CHANNELS, HEIGHT, WIDTH, joined, make, profile, samples
from support.seeds import examples


def test_the_reference_conditions(reference) -> None:
    stored = reference.arrays("condition")
    for name in ("photo", "noise", "one"):
        for scale in (2, 4):
            found = to_condition(stored[f"{name}_lr"], scale)
            assert found.dtype == np.float32
            # float32 sums in another order than OpenCV's: 2.4e-7 is two units in the last place.
            assert np.abs(found - stored[f"{name}_x{scale}"]).max() <= 3e-7, (name, scale)
    assert to_condition(stored["noise_lr"], 4).max() > 1.1  # overshoot is not clipped


def test_condition_of_other_forms() -> None:
    wide = samples(3)
    np.testing.assert_array_equal(to_condition(wide, 3),
                                  to_condition(wide.astype(np.float32) / np.float32(65535), 3))
    grey = samples(1, np.uint8)
    found = to_condition(grey, 2)
    np.testing.assert_array_equal(found, to_condition(np.repeat(grey, 3, 2), 2))
    np.testing.assert_array_equal(found, to_condition(grey[:, :, 0], 2))
    np.testing.assert_array_equal(to_condition(wide, 1),
                                  wide.transpose(2, 0, 1).astype(np.float32) / 65535)


@examples(40)
@given(scale=st.integers(1, 8), size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
       seed=st.integers(0, 1000))
def test_condition_against_torch(scale: int, size: tuple[int, int], seed: int) -> None:
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    planes = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float64) / 255)
    expected = torch.nn.functional.interpolate(planes, scale_factor=scale, mode="bicubic",
                                               align_corners=False)[0].numpy()
    assert np.abs(to_condition(pixels, scale) - expected).max() < 1e-6


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2, 3), np.uint8),
                                    np.zeros((2, 2, 3), np.int32), np.zeros(3, np.uint8)])
def test_condition_refuses_other_arrays(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError):
        to_condition(pixels, 2)


@pytest.mark.parametrize("scale", [0, -2, 1.5, True, "2"])
def test_condition_refuses_other_scales(scale) -> None:
    with pytest.raises(UsageError, match="scale"):
        to_condition(np.zeros((2, 2, 3), np.uint8), scale)


@examples(60)
@given(height=st.integers(1, 20), width=st.integers(1, 20), multiple=st.integers(1, 32))
def test_padding_is_numpys_reflection(height: int, width: int, multiple: int) -> None:
    x = np.random.default_rng(0).random((2, 3, height, width), np.float32)
    padded, size = pad_reflect(x, multiple)
    assert size == (height, width)
    extra = [-n % multiple for n in size]
    # numpy repeats an axis of one pixel as well.
    expected = np.pad(x, [(0, 0), (0, 0), (0, extra[0]), (0, extra[1])], mode="reflect")
    np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
def test_lossless_formats_keep_everything(tmp_path: Path, channels: int, dtype) -> None:
    image = make(channels, dtype, profile(channels < 3))
    for name in ("a.png", "a.TIF"):
        dropped = write_image(tmp_path / name, image)
        found = read_image(tmp_path / name)
        if (name, channels) == ("a.TIF", 2):  # written as RGB
            assert "the profile is for grey" in dropped[0] and found.icc_profile is None
        else:
            assert dropped == () and found.icc_profile == image.icc_profile
        assert found.pixels.dtype == dtype and found.metadata == Metadata()
        np.testing.assert_array_equal(found.alpha, image.alpha)
        np.testing.assert_array_equal(found.pixels, np.broadcast_to(image.pixels,
                                                                    found.pixels.shape))
    # As others see them.
    width, height, rows, info = png.Reader(str(tmp_path / "a.png")).read()
    pixels = np.array([list(row) for row in rows]).reshape(height, width, -1)
    np.testing.assert_array_equal(pixels, joined(image))
    assert info["bitdepth"] == 8 * np.dtype(dtype).itemsize
    pixels = tifffile.imread(tmp_path / "a.TIF").reshape(HEIGHT, WIDTH, -1)
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels[..., -1], joined(image)[..., -1])
    np.testing.assert_array_equal(pixels[..., 0], joined(image)[..., 0])


def test_16_bit_png_rows_use_every_filter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 65536, (300, 64, 3))
    ramp = np.broadcast_to(np.arange(64)[None, :, None] * 300, noise.shape)
    steps = np.broadcast_to(np.cumsum(rng.integers(0, 200, 64))[None, :, None] * 37, noise.shape)
    plane = np.arange(300)[:, None, None] * 100 + np.cumsum(rng.integers(0, 90, 64))[:, None]
    array = np.concatenate([noise, np.zeros_like(noise), ramp, steps,
                            np.broadcast_to(plane, noise.shape)]).astype(np.uint16)
    write_image(tmp_path / "a.png", array)
    data = (tmp_path / "a.png").read_bytes()
    start, content = 8, b""
    while start < len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        content += data[start + 8:start + 8 + length] if name == b"IDAT" else b""
        start += length + 12
    filters = set(zlib.decompress(content)[::64 * 6 + 1])
    assert len(filters) >= 3 and filters <= {0, 1, 2, 4}
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, array)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp"])
def test_lossy_formats_are_close(tmp_path: Path, name: str) -> None:
    y, x = np.mgrid[:64, :80]
    smooth = np.stack([x * 3, y * 3, 255 - x * 2], axis=2).astype(np.uint8)
    for image in (Image(smooth, None, profile()), Image(smooth.astype(np.uint16) * 257)):
        write_image(tmp_path / name, image, overwrite=True)
        found = read_image(tmp_path / name)
        assert found.bits == 8 and found.icc_profile == image.icc_profile
        assert np.abs(found.pixels.astype(int) - smooth).mean() < 1.5


def test_webp_keeps_alpha_and_jpeg_refuses_it(tmp_path: Path) -> None:
    image = make(4, np.uint8)
    write_image(tmp_path / "a.webp", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp").alpha, image.alpha)
    with pytest.raises(OutputError, match="the image is transparent, which JPEG cannot"):
        write_image(tmp_path / "a.jpg", image)
    assert not (tmp_path / "a.jpg").exists()


def test_16_bits_are_rounded_to_8_evenly(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(to_pil(Image(ramp[:, :, None], ramp)).getchannel(0))
    np.testing.assert_array_equal(found, np.rint(ramp / 257).astype(np.uint8))


def test_a_real_profile_is_kept(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", make(3, np.uint16, profile()))
    with pillow.open(tmp_path / "a.png") as opened:
        assert opened.info["icc_profile"] == profile()


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_unknown_extensions(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="is not supported; choose one of .png"):
        write_image(tmp_path / name, samples(3))
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs_and_bad_folders(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        write_image(path, samples(3))
    assert path.read_text() == "precious"
    write_image(path, samples(3), overwrite=True)
    assert read_image(path).width == WIDTH
    with pytest.raises(OutputError, match="folder does not exist"):
        write_image(tmp_path / "missing" / "a.png", samples(3))


def test_images_that_a_format_cannot_hold(tmp_path: Path) -> None:
    wide = Image(np.zeros((1, 9000, 3), np.uint8))
    assert check_output(tmp_path / "a.webp", image=wide) == "WEBP"
    with pytest.raises(OutputError, match="18000x2 pixels are more than WEBP can store"):
        check_output(tmp_path / "a.webp", image=wide, size=(18000, 2))
    with pytest.raises(OutputError, match="JPEG"):
        check_output(tmp_path / "a.jpg", image=wide, size=(72000, 8))


def test_a_failing_encoder_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(pillow.Image, "save", fail)
    with pytest.raises(OutputError, match="a.png as PNG: no"):
        write_image(tmp_path / "a.png", samples(3, np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_a_file_that_cannot_grow_leaves_nothing(tmp_path: Path, name: str, dtype) -> None:
    image = samples(3, dtype)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard[1]))
    try:
        with pytest.raises(OutputError, match="too large for this file system"):
            write_image(tmp_path / name, image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, hard)
    assert list(tmp_path.iterdir()) == []


def test_arrays() -> None:
    for shape in ((4, 5), (4, 5, 3), (4, 5, 4)):
        for dtype in (np.uint8, np.uint16, ">u2"):
            array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
            np.testing.assert_array_equal(to_array(from_array(array)), array)
    for array in (np.zeros((4, 5, 2), np.uint8), np.zeros((4, 0), np.uint8),
                  np.zeros((4, 5), np.float32), np.zeros((4, 5), bool), np.zeros(4, np.uint8)):
        with pytest.raises(ImageError, match="image array"):
            from_array(array)


@pytest.mark.parametrize(("mode", "back"), [
    ("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGBA"),
    ("CMYK", "RGB"), ("YCbCr", "RGB"), ("I;16", "I;16"), ("I;16B", "I;16"), ("RGBX", "RGB"),
    ("PA", "RGBA"), ("RGBa", "RGBA"), ("La", "LA")])
def test_pillow_modes(mode: str, back: str) -> None:
    found = to_pil(from_pil(pillow.new(mode, (5, 4))))
    assert found.mode == back and found.size == (5, 4)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pillow_modes_that_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode {mode}"):
        from_pil(pillow.new(mode, (5, 4)))


def test_enlarged_keeps_the_form() -> None:
    sample = np.linspace(-0.1, 1.1, 3 * 8 * 10, dtype=np.float32).reshape(3, 8, 10)
    grey = Image(np.zeros((4, 5, 1), np.uint16), np.full((4, 5), 65535, np.uint16), b"p")
    found = grey.enlarged(sample, 2)
    assert found.pixels.dtype == np.uint16 and found.icc_profile == b"p"
    np.testing.assert_array_equal(
        found.pixels[:, :, 0], np.rint(np.clip(sample.mean(axis=0), 0, 1) * 65535))
    assert (found.alpha == 65535).all() and found.alpha.shape == (8, 10)
    edge = np.zeros((4, 5), np.uint8)
    edge[:, 2:] = 255  # bicubic overshoots here, which must not wrap around
    found = Image(np.zeros((4, 5, 3), np.uint8), edge).enlarged(sample, 2)
    assert (np.diff(found.alpha.astype(int), axis=1) >= 0).all()
    np.testing.assert_array_equal(found.pixels, np.rint(
        np.clip(sample, 0, 1).transpose(1, 2, 0) * np.float32(255)))
