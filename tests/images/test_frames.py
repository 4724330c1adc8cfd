"""Files of several frames or pages say so; thumbnails and masks do not count."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from PIL import Image as pillow

from bidiff_deploy.images.frames import tiff_pages
from bidiff_deploy.images.png_chunks import png_chunk
from bidiff_deploy.images.read import read_image

PIXELS = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def frames(count: int) -> list[pillow.Image]:
    return [pillow.fromarray(PIXELS + 60 * index) for index in range(count)]


@pytest.mark.parametrize(("name", "options"), [
    ("a.tif", {}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.gif", {})])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_frames_are_counted(tmp_path: Path, name: str, options: dict, count: int) -> None:
    first, *others = frames(count)
    first.save(tmp_path / name, save_all=True, append_images=others, **options)
    image = read_image(tmp_path / name)
    if name != "a.gif":
        np.testing.assert_array_equal(image.pixels, PIXELS)
    what = "pages" if name == "a.tif" else "frames"
    assert image.metadata.dropped == (
        () if count == 1 else (f"only the first of its {count} {what} is read",))


def test_an_apngs_default_image_may_be_no_frame(tmp_path: Path) -> None:
    first, *others = frames(3)
    first.save(tmp_path / "a.png", save_all=True, append_images=others, default_image=True)
    assert "its 3 frames" in read_image(tmp_path / "a.png").metadata.dropped[0]


def test_16_bit_apngs(tmp_path: Path) -> None:
    stream = io.BytesIO()
    png.Writer(5, 4, greyscale=True, bitdepth=16).write_array(stream, [700] * 20)
    data = stream.getvalue()
    control = png_chunk(b"fcTL", bytes(26))
    (tmp_path / "a.png").write_bytes(
        data[:33] + png_chunk(b"acTL", struct.pack(">II", 2, 0)) + control + data[33:-12]
        + control + png_chunk(b"fdAT", bytes(9)) + data[-12:])
    image = read_image(tmp_path / "a.png")
    assert (image.pixels == 700).all() and "its 2 frames" in image.metadata.dropped[0]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("types", "pages"), [
    ((0, 1, 1), 1), ((0, 4), 1), ((0, 2), 2), ((2, 2, 2), 3), ((0, 1, 0), 2), ((1, 0), 2)])
def test_thumbnails_and_masks_are_no_pages(tmp_path: Path, types: tuple[int, ...], pages: int,
                                           big: bool, order: str) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=big, byteorder=order) as file:
        for kind in types:
            file.write(PIXELS, photometric="rgb", subfiletype=kind & 3, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as written:
        for page, kind in zip(written.pages, types):
            page.tags[254].overwrite(kind)
    assert tiff_pages((tmp_path / "a.tif").read_bytes()) == (pages, types[0] == 1)
    dropped = read_image(tmp_path / "a.tif").metadata.dropped
    assert [text for text in dropped if "only the first" in text] == (
        [f"only the first of its {pages} pages is read"] if pages > 1 else [])
    assert any("marked as a thumbnail" in text for text in dropped) == (types[0] == 1)


def test_pages_in_a_circle_and_broken_ones(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(2):
            file.write(PIXELS, photometric="rgb", metadata=None)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as opened:
        second = opened.pages[1].offset
    end = second + 2 + 12 * struct.unpack_from("<H", data, second)[0]
    for link, pages in ((second, 2), (struct.unpack_from("<I", data, 4)[0], 2), (1 << 31, 2)):
        struct.pack_into("<I", data, end, link)
        assert tiff_pages(bytes(data)) == (pages, False)
    assert tiff_pages(data[:30]) == (1, False)


@pytest.mark.parametrize(("kind", "size", "told"), [
    (0, (10, 8), True), (0, (5, 4), False), (0x010001, (10, 8), False), (0x020002, (5, 4), True)])
def test_images_of_an_mpo(tmp_path: Path, kind: int, size: tuple[int, int], told: bool) -> None:
    stream = io.BytesIO()
    pillow.new("RGB", (10, 8), (9, 9, 9)).save(stream, "MPO", save_all=True,
                                               append_images=[pillow.new("RGB", size)])
    data = bytearray(stream.getvalue())
    # The second entry of the index starts 16 bytes after the first, the baseline image's.
    first = data.index(struct.pack("<I", 0x030000), data.index(b"\2\xb0"))
    struct.pack_into("<I", data, first + 16, kind)
    (tmp_path / "a.jpg").write_bytes(data)
    image = read_image(tmp_path / "a.jpg")
    assert (image.pixels == 9).all()
    assert image.metadata.dropped == (
        ("only the first of its 2 images is read",) if told else ())
