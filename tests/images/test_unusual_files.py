"""Files that programs rarely write: what they contain is read, named as left out, or refused."""

from __future__ import annotations

import io
import logging
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as pillow

from bidiff_deploy.errors import ImageError
from bidiff_deploy.images.png_chunks import SIGNATURE, png_chunk
from bidiff_deploy.images.read import read_bytes, read_image
from support.image_samples import joined, samples

RGB = samples(3, np.uint8)


def jpeg(progressive: bool = False) -> bytes:
    stream = io.BytesIO()
    pillow.fromarray(RGB).resize((340, 210)).save(stream, "JPEG", progressive=progressive)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("colours", "extra", "kept", "lost"), [
    (3, ["unspecified"], 3, "1 of its channels is"),
    (1, ["unspecified"], 1, "1 of its channels is"),
    (3, ["unassalpha", "unspecified"], 4, "1 of its channels is"),
    (3, ["unspecified", "unspecified"], 3, "2 of its channels are"), (3, ["unassalpha"], 4, "")])
def test_channels_that_are_not_kept_are_named(tmp_path: Path, dtype, colours: int,
                                              extra: list[str], kept: int, lost: str) -> None:
    array = samples(colours + len(extra), dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb" if colours == 3 else "minisblack",
                     planarconfig="contig", extrasamples=extra, metadata=None)
    found = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(joined(found), array[:, :, :kept])
    assert found.metadata.dropped == ((
        f"{lost} not kept: not a colour, nor stated to be alpha",) if lost else ())


def test_signed_samples_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), -3, np.int8), photometric="minisblack")
    with pytest.raises(ImageError, match="a.tif: its samples are signed numbers; convert it first"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("factor", [1, 257])
def test_palettes_of_8_and_16_bits(tmp_path: Path, factor: int) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    index = samples(1, np.uint8)[:, :, 0]
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=palette * factor,
                     metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels,
                                  np.moveaxis(palette[:, index], 0, 2))


def test_grey_planes_of_16_bits(tmp_path: Path) -> None:
    planes = np.moveaxis(samples(2), 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack", planarconfig="separate",
                     metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels[:, :, 0], planes[0])


def test_pillow_and_libtiff_print_nothing(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # without any, messages go to stderr
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", compression="zlib", rowsperstrip=5)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start, samples = file.pages[0].dataoffsets[1], file.pages[0].tags[277].valueoffset
    for place, changed in ((start, bytes(40)), (samples, b"\xff\0")):
        (tmp_path / "a.tif").write_bytes(data[:place] + changed + data[place + len(changed):])
        with pytest.raises(ImageError, match="a.tif"):
            read_image(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_a_critical_chunk_that_is_unknown_is_named(tmp_path: Path) -> None:
    pillow.fromarray(RGB).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + png_chunk(b"QQQQ", b"x") + data[33:])
    found = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(found.pixels, RGB)
    assert "its data in the chunks QQQQ is not kept" in found.metadata.dropped[0]


@pytest.mark.parametrize(("across", "down", "square"), [(1, 2, False), (3, 3, True)])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_pixels_that_are_not_square_are_reported(tmp_path: Path, name: str, across: int, down: int,
                                                 square: bool) -> None:
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, RGB, photometric="rgb", metadata=None,
                         resolution=(across, down), resolutionunit="none")
    else:
        pillow.fromarray(RGB).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        if name == "a.png":
            chunk = png_chunk(b"pHYs", struct.pack(">IIB", across, down, 0))
            data = data[:33] + chunk + data[33:]
        else:
            at = data.index(b"JFIF\0") + 7
            data = data[:at] + struct.pack(">BHH", 0, across, down) + data[at + 5:]
        (tmp_path / name).write_bytes(data)
    dropped = read_image(tmp_path / name).metadata.dropped
    assert dropped == (() if square else ("its pixels are not square (2 wide, 1 high), but are "
                                          "enlarged as if they were",))


@pytest.mark.parametrize(("changes", "words"), [
    ({1: b"\xc3"}, "lossless coding"), ({1: b"\xf7"}, "the coding of JPEG-LS"),
    ({4: b"\x0c"}, "12 bits a sample"), ({5: b"\0\0"}, "no height in its header")])
def test_kinds_of_jpeg_are_named(tmp_path: Path, changes: dict[int, bytes], words: str) -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    for place, value in changes.items():
        data[frame + place:frame + place + len(value)] = value
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=f"a.jpg: it is a JPEG with {words}, which is not read"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_that_are_missing_before_the_end_marker(tmp_path: Path, progressive: bool) -> None:
    data = jpeg(progressive)
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg").metadata.dropped == ()
    (tmp_path / "a.jpg").write_bytes(data[:len(data) * 3 // 4].rstrip(b"\xff") + b"\xff\xd9")
    with pytest.raises(ImageError, match="a.jpg: it is cut off: .* of its 210 rows are missing"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(data[:-6].rstrip(b"\xff") + b"\xff\xd9")
    assert "it is cut off: its last" in read_image(tmp_path / "a.jpg").metadata.dropped[0] or \
        progressive  # its last pass may lack bits that are zero


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (9, 200)])
def test_small_jpegs_are_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    pillow.fromarray(RGB).resize(size).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").metadata.dropped == ()


def bmp(pixels: np.ndarray, masks: tuple[int, ...]) -> bytes:
    """A BMP (BITMAPV5) of 16 or 32 bits a pixel with these masks of red, green, blue, alpha."""
    body = pixels[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII4I", 124, pixels.shape[1], pixels.shape[0], 1,
                       pixels.itemsize * 8, 3, len(body), 0, 0, 0, 0, *masks).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 138 + len(body), 0, 0, 138) + head + body


def test_alpha_of_bmps(tmp_path: Path) -> None:
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    pixels = np.random.default_rng(0).integers(0, 1 << 32, (6, 8)).astype("<u4")
    for stored, alpha in ((pixels, pixels >> 24), (pixels & 0xFFFFFF, None)):
        (tmp_path / "a.bmp").write_bytes(bmp(stored, masks))
        found = read_image(tmp_path / "a.bmp")
        np.testing.assert_array_equal(found.pixels[:, :, 0], pixels >> 16 & 255)
        # Without a visible pixel alpha is unused.
        assert (found.alpha is None) == (alpha is None)
        assert alpha is None or (found.alpha == alpha).all()
    (tmp_path / "b.bmp").write_bytes(bmp(pixels.astype("<u2"), (0x7C00, 0x3E0, 0x1F, 0x8000)))
    assert "its transparency is not kept" in read_image(tmp_path / "b.bmp").metadata.dropped[0]


@pytest.mark.parametrize("place", [(0, 0), (5, 3)])
def test_a_gifs_frame_that_is_smaller_than_its_canvas(tmp_path: Path, place) -> None:
    frame = pillow.new("P", (6, 4), 1)
    frame.putpalette([255, 0, 0, 0, 0, 255])
    frame.save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 13, 9)
    at = data.index(b",\0\0\0\0")
    data[at + 1:at + 5] = struct.pack("<HH", *place)
    (tmp_path / "a.gif").write_bytes(data)
    found = read_image(tmp_path / "a.gif")
    inside = np.zeros((9, 13), bool)
    inside[place[1]:place[1] + 4, place[0]:place[0] + 6] = True
    np.testing.assert_array_equal(found.alpha, np.where(inside, 255, 0))
    np.testing.assert_array_equal(found.pixels[inside], np.tile([0, 0, 255], (24, 1)))


def test_large_files_are_not_read_in_vain(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)  # sparse: it takes no space
    with pytest.raises(ImageError, match="a.png is a file of zeros, which is not read"):
        read_image(path)
    with open(path, "r+b") as stream:
        stream.write(SIGNATURE)
    with pytest.raises(ImageError, match=f"a.png has {1 << 40} bytes; with 100 pixels at most .*"
                                         "--max-pixels"):
        read_bytes(path, 100)
    os.unlink(path)
    pillow.new("L", (3, 2)).save(path)
    assert read_image(path, 10 ** 30).width == 3
