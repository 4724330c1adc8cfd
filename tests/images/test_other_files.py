"""Files of other kinds are named as what they are; whole but unusual ones are read."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as pillow

from bidiff_deploy.errors import ImageError, OutputError
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.read import MAX_PIXELS, read_image
from bidiff_deploy.images.write import check_output, write_image
from support.image_samples import joined, make, samples


def brand(name: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + name + bytes(4) + b"".join(others)
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(40)


@pytest.mark.parametrize(("content", "words"), [
    (brand(b"heic"), "a HEIC image, which is not read; convert it to PNG"),
    (brand(b"mif1", b"heic"), "a HEIC image"), (brand(b"mif1", b"miaf", b"avif"), "an AVIF image"),
    (brand(b"avif"), "an AVIF image"), (brand(b"crx "), "a CR3 raw photo"),
    (brand(b"isom"), "an MP4 or QuickTime video, which is not read; name an image"),
    (b"<!DOCTYPE html><p>Not found", "an HTML page, which is not read; download the image itself"),
    (b"\xef\xbb\xbf\n <html>", "an HTML page"), (b"<?xml version='1.0'?>\n<svg>", "an SVG drawing"),
    (b"<?xml version='1.0'?>\n<rss>", "an XML document"), (b"<svg xmlns=''>", "an SVG drawing"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull"),
    (b"%PDF-1.7", "a PDF document"), (b"8BPS\0\1", "a Photoshop document"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"), (b"\xff\x0a\xfa", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"), (b"PK\3\4", "a ZIP archive"),
    (b"RIFF\0\0\0\0AVI LIST", "an AVI video"), (bytes(1000), "a file of zeros"),
    (b'{"error": "quota"}', "a text file"), ("für später".encode(), "a text file"),
    (b"P6\n4 3\n255\n" + bytes(36), "a Netpbm image"), (b"\xfe\xed\xfa\xce" * 9, "is not a PNG"),
])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_other_kinds_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"{name} is {words.removeprefix('is ')}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("form", ["BMP", "GIF", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_content_counts_not_the_name(tmp_path: Path, form: str, mode: str) -> None:
    picture = pillow.fromarray(np.arange(0, 240, 12, dtype=np.uint8).reshape(4, 5)).convert(mode)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    picture.save(tmp_path / "a.jpg", format=form, **options)
    found = read_image(tmp_path / "a.jpg")
    with pillow.open(tmp_path / "a.jpg") as opened:
        np.testing.assert_array_equal(
            np.broadcast_to(found.pixels, (4, 5, 3)), np.asarray(opened.convert("RGB")))
    assert found.metadata.dropped == ()


def test_the_resolution_of_a_bmp(tmp_path: Path) -> None:
    pillow.new("RGB", (5, 4)).save(tmp_path / "a.bmp", dpi=(300, 300))
    assert read_image(tmp_path / "a.bmp").metadata.dpi == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_the_limit_of_pixels_is_ours(tmp_path: Path, form: str, monkeypatch) -> None:
    pillow.new("L", (50, 40)).save(tmp_path / "a", format=form)
    with pytest.raises(ImageError, match="a: it has 50x40 pixels; at most 1999 are read, so make "
                                         "it smaller, or allow more with --max-pixels of upscale "
                                         "or app"):
        read_image(tmp_path / "a", 1999)
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice that
    assert read_image(tmp_path / "a", 2000).width == 50
    assert pillow.MAX_IMAGE_PIXELS == 100
    with pytest.raises(ImageError, match="a: it has 2000 pixels; at most 50 are read"):
        read_image(tmp_path / "a", 50)


def test_more_pixels_than_pillow_allows(tmp_path: Path) -> None:
    size = 14_000
    header = struct.pack(">IIBBBBB", size, size, 1, 0, 0, 0, 0)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(
            ">I", zlib.crc32(name + body))

    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(
        b"IDAT", zlib.compress(bytes((size // 8 + 1) * size), 1)) + chunk(b"IEND", b""))
    with pytest.raises(ImageError, match=f"14000x14000 pixels; at most {MAX_PIXELS}"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint16), (2, np.uint8), (3, np.uint8),
                                                (4, np.uint16), (4, np.uint8),
                                                (1, np.uint16)])
def test_whole_tiffs_are_read(tmp_path: Path, channels: int, dtype, planar: str, order: str,
                              big: bool, compression: str | None) -> None:
    array = samples(channels, dtype)
    options: dict[str, object] = (
        {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {})
    if channels > 1:
        options["planarconfig"] = planar
    stored = np.moveaxis(array, 2, 0) if planar == "separate" and channels > 1 else \
        array if channels > 1 else array[:, :, 0]
    tifffile.imwrite(tmp_path / "a.tif", stored, bigtiff=big, byteorder=order,
                     photometric="rgb" if channels > 2 else "minisblack", metadata=None,
                     compression=compression, rowsperstrip=5, description="A roof", **options)
    found = read_image(tmp_path / "a.tif")
    assert found.pixels.dtype == dtype and b"A roof" in found.metadata.exif
    np.testing.assert_array_equal(joined(found), array)


def test_a_big_endian_bigtiff_is_turned_upright(tmp_path: Path) -> None:
    array = samples(2)
    tifffile.imwrite(tmp_path / "a.tif", np.rot90(array), bigtiff=True, byteorder=">",
                     photometric="minisblack", planarconfig="contig", metadata=None,
                     extrasamples=["unassalpha"], extratags=[(0x0112, 3, 1, 6, True)])
    np.testing.assert_array_equal(joined(read_image(tmp_path / "a.tif")), array)


@pytest.mark.parametrize(("array", "options", "words"), [
    (np.zeros((4, 5, 3), np.float32), {"photometric": "rgb"}, "float32 samples"),
    (np.zeros((4, 5, 3), np.float16), {"photometric": "rgb"}, "float16 samples"),
    (np.zeros((4, 5, 2), np.uint16), {"extrasamples": ["assocalpha"]}, "premultiplied alpha"),
    (np.zeros((4, 5, 2), np.int16), {"extrasamples": ["unassalpha"]}, "int16 samples"),
    (np.zeros((4, 5, 3), np.uint32), {"photometric": "rgb"}, "uint32 samples"),
])
def test_tiffs_of_other_kinds_are_named(tmp_path: Path, array, options: dict, words: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", array, planarconfig="contig", **(
        {"photometric": "minisblack"} | options))
    with pytest.raises(ImageError, match=f"a.tif: it is a TIFF with {words}.*; convert it"):
        read_image(tmp_path / "a.tif")


def test_tiffs_without_pixels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", samples(3, np.uint8), bigtiff=True, byteorder=">",
                     photometric="rgb", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["ImageWidth"].overwrite(0)
    with pytest.raises(ImageError, match="a.tif: it is damaged: its size is 0x21 pixels"):
        read_image(tmp_path / "a.tif")


def test_tiffs_that_need_tifffile_say_so(tmp_path: Path, monkeypatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", samples(2), photometric="minisblack",
                     planarconfig="contig", extrasamples=["unassalpha"])
    with pytest.raises(ImageError, match=f"{samples(2).shape[1]}x{samples(2).shape[0]} pixels"):
        read_image(tmp_path / "a.tif", 100)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match="a.tif: it is a TIFF .* pip install tifffile"):
        read_image(tmp_path / "a.tif")


def test_strips_that_inflate_too_far_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64, 2), np.uint16), compression="zlib",
                     photometric="minisblack", planarconfig="contig", metadata=None,
                     extrasamples=["unassalpha"])
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        counts = file.pages[0].tags[279]
        offsets = file.pages[0].tags[273]
    bomb = zlib.compress(bytes(1 << 24))
    struct.pack_into("<I", data, counts.valueoffset, len(bomb))
    struct.pack_into("<I", data, offsets.valueoffset, len(data))
    struct.pack_into("<H", data, counts.offset + 2, 4)
    struct.pack_into("<H", data, offsets.offset + 2, 4)
    (tmp_path / "a.tif").write_bytes(data + bomb)
    with pytest.raises(ImageError, match="inflated to more than its pixels"):
        read_image(tmp_path / "a.tif")


def jpeg(progressive: bool = False, size: tuple[int, int] = (96, 640), **options) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    pillow.fromarray(noise.repeat(8, axis=0).repeat(8, axis=1)).save(
        stream, "JPEG", progressive=progressive, **options)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("end", [b"", b"\xff", b"\0\0\0"])
def test_jpegs_without_end_marker(tmp_path: Path, progressive: bool, options: dict,
                                  end: bytes) -> None:
    data = jpeg(progressive, **options)
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "a.jpg").write_bytes(data[:-2] + end)
    found = read_image(tmp_path / "a.jpg")
    np.testing.assert_array_equal(found.pixels, read_image(tmp_path / "whole.jpg").pixels)
    assert found.metadata.dropped == ("it has no end marker, but its pixels are complete",)


def test_jpegs_that_are_cut_off(tmp_path: Path) -> None:
    data = jpeg(size=(96, 1280))
    for share, read_to in ((0.5, None), (0.9, None), (0.999, 1264)):
        (tmp_path / "a.jpg").write_bytes(data[:int(len(data) * share)])
        if read_to is None:
            with pytest.raises(ImageError, match="a.jpg: it is cut off: .* of its 1280 rows"):
                read_image(tmp_path / "a.jpg")
            continue
        found = read_image(tmp_path / "a.jpg")
        (tmp_path / "whole.jpg").write_bytes(data)
        whole = read_image(tmp_path / "whole.jpg")
        np.testing.assert_array_equal(found.pixels[:read_to - 2], whole.pixels[:read_to - 2])
        assert "it is cut off: its last" in found.metadata.dropped[0]
    with pytest.raises(ImageError, match="a.jpg: it has 96x1280 pixels"):
        read_image(tmp_path / "a.jpg", 100_000)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_opaque_alpha_becomes_jpeg(tmp_path: Path, channels: int, dtype) -> None:
    image = make(channels, dtype)
    opaque = Image(image.pixels, np.full_like(image.alpha, np.iinfo(dtype).max))
    assert check_output(tmp_path / "a.jpg", image=opaque) == "JPEG"
    assert write_image(tmp_path / "a.jpg", opaque) == ()
    with pillow.open(tmp_path / "a.jpg") as opened:
        assert opened.mode == ("L" if channels == 2 else "RGB")
    write_image(tmp_path / "a.png", opaque)
    assert (read_image(tmp_path / "a.png").alpha == np.iinfo(dtype).max).all()
    almost = opaque.alpha.copy()
    almost[3, 4] -= 1
    with pytest.raises(OutputError, match="transparent"):
        check_output(tmp_path / "b.jpg", image=Image(image.pixels, almost))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_lossless_webp_stays_lossless(tmp_path: Path, mode: str) -> None:
    array = samples({"RGB": 3, "RGBA": 4, "L": 1}[mode], np.uint8)
    picture = pillow.fromarray(np.squeeze(array), mode)
    for lossless in (True, False):
        picture.save(tmp_path / "a.webp", lossless=lossless)
        image = read_image(tmp_path / "a.webp")
        assert image.lossless == lossless
        larger = image.enlarged(np.random.default_rng(0).random(
            (3, image.height * 2, image.width * 2), np.float32), 2)
        write_image(tmp_path / "b.webp", larger, overwrite=True)
        found = read_image(tmp_path / "b.webp")
        visible = np.full(found.pixels.shape[:2], True) if found.alpha is None else found.alpha > 0
        assert (found.pixels[visible] == larger.pixels[visible]).all() == lossless
        write_image(tmp_path / "b.webp", larger, overwrite=True, quality=50)
        assert not read_image(tmp_path / "b.webp").lossless


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.jfif"])
def test_quality(tmp_path: Path, name: str) -> None:
    image, sizes = make(3, np.uint8), []
    for quality in (1, 60, 100, None, 95):
        write_image(tmp_path / name, image, overwrite=True, quality=quality)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2] and sizes[3] == sizes[4]
