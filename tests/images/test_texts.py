"""Texts, comments, IPTC and colour chunks are kept where the output has a place, else reported."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from PIL import ExifTags, PngImagePlugin
from PIL import Image as pillow

from bidiff_deploy.errors import ImageError
from bidiff_deploy.images.exif import MAX_BYTES, Entry, Exif
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.png_chunks import png_chunk, split
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.write import write_image
from support.image_samples import profile

TEXTS = {"parameters": "a café, 35mm\nSteps: 20", "Copyright": "© Someone",
         "Comment": "plain", "workflow": '{"nodes": []}'}
RESOURCES = (b"8BIM\x04\x04\0\0\0\0\0\x0a" + b"\x1c\x02\x78\0\5a cap"
             + b"8BIM\x04\x0a\0\0\0\0\0\1\1\0")
THUMBNAIL = b"8BIM\x04\x0c\5thumb\0\0\0\3abc\0"


def png_file(path: Path, bits: int = 8, chunks: bytes = b"", after: bytes = b"",
             channels: int = 3) -> Path:
    """A PNG with chunks before and after its pixels."""
    stream = io.BytesIO()
    png.Writer(5, 4, greyscale=channels == 1, bitdepth=bits).write_array(
        stream, list(range(20 * channels)))
    data = stream.getvalue()
    path.write_bytes(data[:33] + chunks + data[33:-12] + after + data[-12:])
    return path


def text_chunks() -> bytes:
    return (png_chunk(b"iTXt", b"parameters\0\0\0en\0\0" + TEXTS["parameters"].encode())
            + png_chunk(b"tEXt", b"Copyright\0" + TEXTS["Copyright"].encode("latin-1"))
            + png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(TEXTS["Comment"].encode()))
            + png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(TEXTS["workflow"].encode())))


def twice(path: Path) -> Image:
    image = read_image(path)
    return image.enlarged(np.zeros((3, image.height * 2, image.width * 2), np.float32), 2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("place", ["chunks", "after"])
def test_texts_stay_in_png(tmp_path: Path, bits: int, place: str) -> None:
    path = png_file(tmp_path / "a.png", bits, **{place: text_chunks()})
    assert write_image(tmp_path / "b.png", twice(path)) == ()
    with pillow.open(tmp_path / "b.png") as opened:
        opened.load()
        assert isinstance(opened, PngImagePlugin.PngImageFile) and opened.text == TEXTS
    with pillow.open(path) as original:
        original.load()
        assert split((tmp_path / "b.png").read_bytes()).texts == split(path.read_bytes()).texts


@pytest.mark.parametrize("name", ["b.jpg", "b.webp", "b.tif"])
def test_texts_of_png_elsewhere(tmp_path: Path, name: str) -> None:
    path = png_file(tmp_path / "a.png", chunks=text_chunks())
    dropped = write_image(tmp_path / name, twice(path))
    lost = "workflow" if name == "b.jpg" else "Comment, workflow"
    assert len(dropped) == 1 and f"its text ({lost}) is not kept" in dropped[0]
    with pillow.open(tmp_path / name) as opened:
        exif = opened.getexif()
        assert exif[ExifTags.Base.Copyright].encode("latin-1").decode() == TEXTS["Copyright"]
        comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert comment == b"UNICODE\0" + TEXTS["parameters"].encode("utf-16-be")
        assert opened.info.get("comment") == (b"plain" if name == "b.jpg" else None)


def test_texts_do_not_replace_exif(tmp_path: Path) -> None:
    exif = pillow.Exif()
    exif[ExifTags.Base.Copyright] = "The camera's"
    path = png_file(tmp_path / "a.png", chunks=png_chunk(b"eXIf", exif.tobytes()[6:])
                    + png_chunk(b"tEXt", b"Copyright\0Another's"))
    assert "(Copyright)" in write_image(tmp_path / "b.jpg", twice(path))[0]
    with pillow.open(tmp_path / "b.jpg") as opened:
        assert opened.getexif()[ExifTags.Base.Copyright] == "The camera's"


def test_texts_that_fit_no_jpeg_are_reported(tmp_path: Path) -> None:
    long = b"x" * 70_000
    path = png_file(tmp_path / "a.png", chunks=png_chunk(b"tEXt", b"parameters\0" + long)
                    + png_chunk(b"tEXt", b"Comment\0" + long))
    assert "(parameters, Comment)" in write_image(tmp_path / "b.jpg", twice(path))[0]


@pytest.mark.parametrize(("comment", "kind", "text"), [
    (b"by hand", b"tEXt", "by hand"), ("café".encode(), b"iTXt", "café"),
    ("café".encode("latin-1"), b"tEXt", "café"), (b"end\0", b"tEXt", "end")])
def test_comments_of_jpeg_and_gif(tmp_path: Path, comment: bytes, kind: bytes, text: str) -> None:
    for name in ("a.jpg", "a.gif"):
        pillow.new("L", (5, 4)).save(tmp_path / name, comment=comment)
        image = twice(tmp_path / name)
        assert image.metadata.texts[0].name == kind
        for other in ("b.png", "b.jpg"):
            assert write_image(tmp_path / other, image, overwrite=True) == ()
        with pillow.open(tmp_path / "b.png") as opened:
            opened.load()
            assert opened.info["Comment"] == text
        with pillow.open(tmp_path / "b.jpg") as opened:
            assert opened.info["comment"] == text.encode()
        assert "(Comment)" in write_image(tmp_path / "b.webp", image, overwrite=True)[0]


def test_every_comment_of_a_jpeg(tmp_path: Path) -> None:
    pillow.new("L", (5, 4)).save(tmp_path / "a.jpg", comment=b"one")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xfe\0\5two" + data[2:])
    assert write_image(tmp_path / "b.jpg", twice(tmp_path / "a.jpg")) == ()
    found = read_image(tmp_path / "b.jpg").metadata.texts
    assert [text.value() for text in found] == [b"two", b"one"]


def test_descriptions_of_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb",
                     description="A roof", software="A scanner", metadata=None)
    for name in ("b.tif", "b.jpg", "b.png", "b.webp"):
        assert write_image(tmp_path / name, twice(tmp_path / "a.tif")) == ()
        with pillow.open(tmp_path / name) as opened:
            exif = opened.getexif()
            assert exif[ExifTags.Base.ImageDescription] == "A roof"
            assert exif[ExifTags.Base.Software] == "A scanner"


def jpeg_with(path: Path, *segments: tuple[int, bytes], trailing: bytes = b"") -> Path:
    pillow.new("RGB", (5, 4)).save(path)
    data = path.read_bytes()
    added = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
                     for marker, body in segments)
    path.write_bytes(data[:20] + added + data[20:] + trailing)  # after JFIF's segment
    return path


def test_iptc_is_kept_but_in_webp(tmp_path: Path) -> None:
    head = b"Photoshop 3.0\0"
    paths = [jpeg_with(tmp_path / "a.jpg", (0xED, head + RESOURCES[:9]),
                       (0xED, head + RESOURCES[9:] + THUMBNAIL))]
    for name, tag, body in (("a.tif", 34377, RESOURCES + THUMBNAIL),
                            ("iptc.tif", 33723, b"\x1c\x02\x78\0\5a cap")):
        tifffile.imwrite(tmp_path / name, np.zeros((4, 5, 3), np.uint8), photometric="rgb",
                         extratags=[(tag, 7, len(body), body, True)])
        paths.append(tmp_path / name)
    for path in paths:
        resources = RESOURCES[:22] if path.name == "iptc.tif" else RESOURCES
        image = twice(path)
        assert image.metadata.photoshop == resources and image.metadata.dropped == ()
        for other in ("b.png", "b.jpg", "b.tif"):
            assert write_image(tmp_path / other, image, overwrite=True) == ()
            assert read_image(tmp_path / other).metadata.photoshop == resources
            assert read_image(tmp_path / other).metadata.texts == ()
        assert "IPTC" in write_image(tmp_path / "b.webp", image, overwrite=True)[0]


def test_other_data_of_a_jpeg_is_named(tmp_path: Path) -> None:
    path = jpeg_with(tmp_path / "a.jpg", (0xEB, b"JP\0\1 credentials"), (0xE5, b"a\x1b[31m\0"),
                     (0xEC, b"Ducky\0"), (0xEE, b"Adobe\0d\0\0\0\0\1"), (0xE0, b"JFXX\0"))
    (note,) = read_image(path).metadata.dropped
    assert "APP11 (JP), APP5 (a[31m)" in note
    data = jpeg_with(tmp_path / "a.jpg", trailing=b"a video" + bytes(9)).read_bytes()
    assert "after the image's end (7 bytes)" in read_image(tmp_path / "a.jpg").metadata.dropped[0]
    (tmp_path / "a.jpg").write_bytes(data[:-16] + bytes(9))
    assert read_image(tmp_path / "a.jpg").metadata.dropped == ()


def test_too_many_segments_are_refused(tmp_path: Path) -> None:
    path = jpeg_with(tmp_path / "a.jpg", *[(0xFE, b"c")] * 9_999)
    assert len(read_image(path).metadata.texts) == 9_999  # after JFIF's segment
    path = jpeg_with(tmp_path / "a.jpg", *[(0xFE, b"c")] * 10_000)
    with pytest.raises(ImageError, match="a.jpg: it has more than 10000 segments of metadata"):
        read_image(path)


def test_other_chunks_of_a_png_are_named(tmp_path: Path) -> None:
    path = png_file(tmp_path / "a.png", chunks=png_chunk(b"bKGD", bytes(6))
                    + png_chunk(b"sBIT", bytes(3)) + png_chunk(b"caBX", b"credentials"),
                    after=png_chunk(b"tIME", bytes(7)))
    (note,) = read_image(path).metadata.dropped
    assert "chunks bKGD, caBX" in note
    path.write_bytes(path.read_bytes() + b"more")
    assert "(4 bytes)" in read_image(path).metadata.dropped[1]


def test_too_many_texts_are_reported(tmp_path: Path) -> None:
    path = png_file(tmp_path / "a.png", chunks=png_chunk(b"tEXt", b"a\0b") * 1001)
    metadata = read_image(path).metadata
    assert len(metadata.texts) == 1000 and "its tEXt chunk is not kept" in metadata.dropped[0]
    large = png_chunk(b"tEXt", b"a\0" + bytes(MAX_BYTES // 2))
    metadata = read_image(png_file(tmp_path / "a.png", chunks=large * 2)).metadata
    assert len(metadata.texts) == 1 and "too large" in metadata.dropped[0]


def test_packed_texts_are_not_unpacked_without_limit(tmp_path: Path) -> None:
    bomb = png_chunk(b"zTXt", b"Copyright\0\0" + zlib.compress(bytes(MAX_BYTES + 1)))
    dropped = write_image(tmp_path / "b.jpg", twice(png_file(tmp_path / "a.png", chunks=bomb)))
    assert "(Copyright)" in dropped[0]


COLOURS = {b"cICP": bytes([9, 16, 0, 1]), b"mDCV": bytes(range(24)), b"cLLI": bytes(8),
           b"gAMA": struct.pack(">I", 100_000),
           b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_chunks_stay_in_png(tmp_path: Path, bits: int, channels: int) -> None:
    path = png_file(tmp_path / "a.png", bits, b"".join(
        png_chunk(name, body) for name, body in COLOURS.items()), channels=channels)
    assert write_image(tmp_path / "b.png", twice(path)) == ()
    data = (tmp_path / "b.png").read_bytes()
    found = split(data).known
    assert {name: found[name] for name in COLOURS} == COLOURS
    assert all(data.index(name) < data.index(b"IDAT") for name in COLOURS)
    for name in ("b.jpg", "b.webp", "b.tif"):
        (note,) = write_image(tmp_path / name, twice(path))
        assert all(name.decode() in note for name in COLOURS)


def test_srgb_is_what_other_formats_mean(tmp_path: Path) -> None:
    path = png_file(tmp_path / "a.png", chunks=png_chunk(b"sRGB", b"\0")
                    + png_chunk(b"gAMA", struct.pack(">I", 45455)))
    assert write_image(tmp_path / "b.jpg", twice(path)) == ()
    write_image(tmp_path / "b.png", twice(path))
    assert split((tmp_path / "b.png").read_bytes()).known == {
        b"sRGB": b"\0", b"gAMA": struct.pack(">I", 45455)}


def test_a_profile_replaces_gamma(tmp_path: Path) -> None:
    path = png_file(tmp_path / "a.png", chunks=png_chunk(b"gAMA", COLOURS[b"gAMA"])
                    + png_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile())))
    assert write_image(tmp_path / "b.jpg", twice(path)) == ()


def test_colour_chunks_of_wrong_length_are_reported(tmp_path: Path) -> None:
    path = png_file(tmp_path / "a.png", chunks=png_chunk(b"gAMA", b"123"))
    assert "gAMA chunk is not kept" in read_image(path).metadata.dropped[0]


def test_private_tags_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.uint8), extratags=[
        (33550, 12, 3, (1.0, 1.0, 0.0), True), (318, 5, 2, (3127, 10000, 3290, 10000), True),
        (65000, 2, 0, "x", True)])
    (note,) = read_image(tmp_path / "a.tif").metadata.dropped
    assert "(WhitePoint, ModelPixelScale, tag 65000)" in note
    block = Exif("<", {"image": {0x010F: Entry(2, 2, b"a\0"), 0xEA60: Entry(2, 2, b"b\0")}})
    pillow.new("L", (5, 4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block.to_bytes())
    assert "tag 60000" in read_image(tmp_path / "a.jpg").metadata.dropped[0]


def test_the_resolution_goes_to_webps_exif(tmp_path: Path) -> None:
    pillow.new("L", (5, 4)).save(tmp_path / "a.png", dpi=(300, 300))
    write_image(tmp_path / "b.webp", twice(tmp_path / "a.png"))
    with pillow.open(tmp_path / "b.webp") as opened:
        assert float(opened.getexif()[ExifTags.Base.XResolution]) == pytest.approx(300, abs=0.01)
