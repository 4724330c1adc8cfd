"""EXIF, XMP, resolution and colour profiles are kept from any file in any format; broken ones are
dropped."""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags
from PIL import Image as pillow

from bidiff_deploy.images import exif as exif_block
from bidiff_deploy.images.convert import from_pil, to_pil
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.metadata import Metadata
from bidiff_deploy.images.png_chunks import png_chunk
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.write import write_image
from support.image_samples import CHANNELS, make, profile
from support.seeds import examples

NAMES = ["a.png", "a.jpg", "a.webp", "a.tif"]
XMP = (b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>'
       b'<rdf:Description tiff:Orientation="6" exif:PixelXDimension="34" dc:title="A roof">'
       b"<xmp:Thumbnails>AAAA</xmp:Thumbnails><tiff:ImageLength>21</tiff:ImageLength>"
       b"</rdf:Description></rdf:RDF></x:xmpmeta>")
NOTE = b"a maker's note, with offsets of its own"
THUMBNAIL = b"\xff\xd8 the thumbnail \xff\xd9"


def exif(orientation: int = 1, order: str = "<", size: tuple[int, int] = (34, 21)) -> bytes:
    """A block as a camera writes it, made by Pillow, with a thumbnail behind it."""
    block = pillow.Exif()
    block.endian = order
    block[0x010F], block[0x0112], block[0x8298] = "A maker", orientation, "Someone"
    block[0x011A], block[0x011B], block[0x0128] = 300.0, 300.0, 2
    block[0x8769] = {0x9003: "2024:02:29 12:00:00", 0x829A: 0.005, 0x927C: NOTE, 0xA002: size[0],
                     0xA003: size[1], 0x9214: (10, 11)}
    block[0x8825] = {1: "N", 2: (50.0, 27.0, 1.5)}
    data = bytearray(block.tobytes()[6:])
    start, = struct.unpack_from(order + "I", data, 4)
    entries, = struct.unpack_from(order + "H", data, start)
    data += bytes(len(data) % 2)
    struct.pack_into(order + "I", data, start + 2 + 12 * entries, len(data))
    data += struct.pack(order + "HHHIIHHIII", 2, 0x0201, 4, 1, len(data) + 30, 0x0202, 4, 1,
                        len(THUMBNAIL), 0) + THUMBNAIL
    return bytes(data)


def check_exif(data: bytes, width: int, height: int) -> None:
    """What Pillow finds in a block that goes with an image of that size."""
    block = pillow.Exif()
    block.load(b"Exif\0\0" + data)
    assert (block[0x010F], block.get(0x0112, 1), block[0x8298]) == ("A maker", 1, "Someone")
    photo, gps = block.get_ifd(ExifTags.IFD.Exif), block.get_ifd(ExifTags.IFD.GPSInfo)
    assert photo[0x9003] == "2024:02:29 12:00:00" and photo[0x829A] == pytest.approx(0.005)
    assert (photo[0xA002], photo[0xA003]) == (width, height)
    assert photo[0x927C] == NOTE and 0x9214 not in photo
    assert gps[1] == "N" and gps[2] == (50.0, 27.0, 1.5)
    assert not block.get_ifd(ExifTags.IFD.IFD1) and b"the thumbnail" not in data


def source(path: Path, channels: int, dtype, *, orientation: int = 1, order: str = "<") -> Image:
    """Write a file with everything by programs other than ours; its upright pixels."""
    image = make(channels, dtype, profile(channels < 3))
    turns = {1: lambda a: a, 6: np.rot90}
    array = turns[orientation](np.squeeze(np.concatenate(
        [image.pixels] + ([image.alpha[:, :, None]] if channels in (2, 4) else []), axis=2)))
    block, icc = exif(orientation, order, array.shape[1::-1]), image.icc_profile
    if path.suffix == ".tif":
        main = exif_block.parse(block).little_endian()
        tags = [(0x010F, 2, 0, "A maker", True), (0x0112, 3, 1, orientation, True),
                (0x8298, 2, 0, "Someone", True), (700, 1, len(XMP), XMP, True),
                (34675, 7, len(icc), icc, True)]
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, photometric="rgb" if channels > 2 else "minisblack",
                         extrasamples=["unassalpha"] if channels in (2, 4) else None,
                         extratags=tags, resolution=(300, 300), resolutionunit="INCH",
                         metadata=None, software=False)
        path.write_bytes(with_directories(stream.getvalue(), main))
    elif dtype == np.uint16:
        stream = io.BytesIO()
        png.Writer(*array.shape[1::-1], greyscale=channels < 3, alpha=channels in (2, 4),
                   bitdepth=16).write_array(stream, array.ravel().tolist())
        chunks = (png_chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))
                  + png_chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))
                  + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
        data = stream.getvalue()
        tail = data.index(b"IEND") - 4  # EXIF may follow the pixels
        path.write_bytes(data[:33] + chunks + data[33:tail]
                         + png_chunk(b"eXIf", block) + data[tail:])
    else:
        picture = to_pil(Image(array if array.ndim == 3 else array[:, :, None])) if \
            channels in (1, 3) else pillow.fromarray(array, "LA" if channels == 2 else "RGBA")
        options = {"quality": 100, "dpi": (300, 300)} if path.suffix == ".jpg" else {
            "lossless": True, "exact": True, "xmp": XMP}
        picture.save(path, exif=b"Exif\0\0" + block, icc_profile=icc, **options)
        if path.suffix == ".jpg":
            data, body = path.read_bytes(), b"http://ns.adobe.com/xap/1.0/\0" + XMP
            path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
                             + data[2:])
    return image


def with_directories(data: bytes, block: exif_block.Exif) -> bytes:
    """A little-endian TIFF with the EXIF and GPS directories of ``block`` at its end."""
    start, = struct.unpack_from("<I", data, 4)
    count, = struct.unpack_from("<H", data, start)
    entries = {struct.unpack_from("<H", data, start + 2 + 12 * i)[0]:
               data[start + 2 + 12 * i:start + 14 + 12 * i] for i in range(count)}
    out = bytearray(data)
    for tag, name in ((0x8769, "photo"), (0x8825, "gps")):
        table = b""
        for number, entry in sorted(block.directories[name].items()):
            value = entry.value
            if len(value) > 4:
                out += bytes(len(out) % 2)
                value = struct.pack("<I", len(out))
                out += entry.value
            table += struct.pack("<HHI", number, entry.kind, entry.count) + value.ljust(4, b"\0")
        out += bytes(len(out) % 2)
        entries[tag] = struct.pack("<HHII", tag, 4, 1, len(out))
        out += struct.pack("<H", len(block.directories[name])) + table + bytes(4)
    out += bytes(len(out) % 2)
    struct.pack_into("<I", out, 4, len(out))
    out += struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    return bytes(out + bytes(4))


KINDS = [("a.png", n, np.uint16) for n in CHANNELS.values()] + [
    ("a.tif", n, t) for n in (1, 3, 4) for t in (np.uint8, np.uint16)] + [
    ("a.jpg", 1, np.uint8), ("a.jpg", 3, np.uint8), ("a.webp", 3, np.uint8),
    ("a.webp", 4, np.uint8)]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("name", "channels", "dtype"), KINDS,
                         ids=lambda value: getattr(value, "__name__", str(value)))
def test_everything_goes_to_every_format(tmp_path: Path, name: str, channels: int, dtype,
                                         orientation: int, order: str) -> None:
    expected = source(tmp_path / name, channels, dtype, orientation=orientation, order=order)
    image = read_image(tmp_path / name)
    grey = image.grey  # a WebP has no grey
    assert image.metadata.dropped == ()
    assert image.icc_profile == (expected.icc_profile if grey == (channels < 3) else None)
    assert image.bits == np.dtype(dtype).itemsize * 8
    if name not in ("a.jpg",):
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        np.testing.assert_array_equal(image.alpha, expected.alpha)
    if name != "a.webp":
        assert image.metadata.dpi == pytest.approx((300, 300), abs=0.01)
    twice = image.enlarged(np.zeros((3, image.height * 2, image.width * 2), np.float32), 2)
    for other in NAMES:
        if other == "a.jpg" and image.alpha is not None:
            continue
        out = tmp_path / f"out{Path(other).suffix}"
        dropped = write_image(out, twice)
        found = read_image(out)
        assert found.metadata.dropped == ()
        check_exif(found.metadata.exif, twice.width, twice.height)
        if grey and other == "a.webp" or channels == 2 and other == "a.tif":
            assert found.icc_profile is None
            assert "profile" in dropped[0]
        else:
            assert found.icc_profile == image.icc_profile and dropped == ()
        assert (found.alpha is None) == (image.alpha is None)
        xmp = found.metadata.xmp
        assert b'tiff:Orientation="1"' in xmp and b'PixelXDimension="%d"' % twice.width in xmp
        assert b"<tiff:ImageLength>%d<" % twice.height in xmp and b"Thumbnails" not in xmp
        assert b'dc:title="A roof"' in xmp
        if image.metadata.dpi and other != "a.webp":
            assert found.metadata.dpi == pytest.approx((300, 300), abs=0.02)
        # As others see them; Pillow's EXIF of a TIFF is the file's own directories.
        with pillow.open(out) as opened:
            assert opened.getexif()[0x010F] == "A maker"
            assert opened.getexif().get(0x0112, 1) == 1
            assert opened.getexif().get_ifd(ExifTags.IFD.Exif)[0xA002] == twice.width
            assert opened.info.get("icc_profile") == found.icc_profile


def test_a_makers_note_stays_where_it_was() -> None:
    for order in "<>":
        block = exif(order=order)
        upright = exif_block.parse(block).upright().to_bytes()
        assert upright.index(NOTE) == block.index(NOTE)
        assert exif_block.parse(upright).resized(1, 2).to_bytes().index(NOTE) == block.index(NOTE)
        assert len(upright) <= len(block)


def test_pillow_pictures_keep_exif() -> None:
    picture = pillow.new("RGB", (21, 34))
    picture.info["exif"] = b"Exif\0\0" + exif(6)
    found = to_pil(from_pil(picture))
    assert found.size == (34, 21)
    check_exif(found.info["exif"][6:], 34, 21)


def test_interoperability_is_kept() -> None:
    block = exif_block.Exif(">", {"image": {}, "photo": {}, "interop": {
        1: exif_block.Entry(2, 4, b"R98\0")}})
    assert block.to_bytes() != b""
    block.directories["photo"][0x9000] = exif_block.Entry(7, 4, b"0232")
    found = exif_block.parse(block.to_bytes())
    assert found.directories["interop"] == block.directories["interop"] and not found.damaged
    assert found.directories["photo"] == block.directories["photo"]


def test_exif_of_old_pngs(tmp_path: Path) -> None:
    digits = exif(6).hex().encode()
    body = b"\nexif\n%8d\n" % (len(digits) // 2) + b"\n".join(
        digits[i:i + 72] for i in range(0, len(digits), 72))
    for name, text in ((b"tEXt", body), (b"zTXt", b"\0" + zlib.compress(body))):
        png_with(tmp_path / "a.png", png_chunk(
            name, b"Raw profile type exif\0" + text))
        found = read_image(tmp_path / "a.png")
        assert (found.width, found.height) == (21, 34) and found.metadata.dropped == ()
        check_exif(found.metadata.sized(34, 21).exif, 34, 21)


def test_orientation_of_xmp_alone(tmp_path: Path) -> None:
    png_with(tmp_path / "a.png", png_chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(XMP)))
    found = read_image(tmp_path / "a.png")
    assert found.height == 34 and b'tiff:Orientation="1"' in found.metadata.xmp


def png_with(path: Path, chunks: bytes) -> None:
    stream = io.BytesIO()
    pillow.new("RGB", (34, 21), (1, 2, 3)).save(stream, "PNG")
    path.write_bytes(stream.getvalue()[:33] + chunks + stream.getvalue()[33:])


LARGE = exif_block.MAX_BYTES + 1


def chunk(name: bytes, body: bytes, damaged: bool = False) -> bytes:
    made = png_chunk(name, body)
    return made[:-1] + bytes([made[-1] ^ 1]) if damaged else made


@pytest.mark.parametrize(("chunks", "words"), [
    (lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(LARGE))), "profile .*more than 16 MiB"),
    (lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(profile())[:-9]), "profile .*broken"),
    (lambda: chunk(b"iCCP", b"x\0\0no zlib"), "profile .*broken"),
    (lambda: chunk(b"iCCP", b""), "profile .*broken"),
    (lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(b"none" * 50)), "profile .*broken"),
    (lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(profile(grey=True))), "not for RGB samples"),
    (lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(profile()), damaged=True), "iCCP chunk"),
    (lambda: chunk(b"eXIf", exif(), damaged=True), "eXIf chunk"),
    (lambda: chunk(b"eXIf", bytes(LARGE)), "eXIf chunk .*too large"),
    (lambda: chunk(b"eXIf", b"nothing of the kind"), "its EXIF .*not an EXIF block"),
    (lambda: chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f" + bytes(9)), "its EXIF .*broken"),
    (lambda: chunk(b"eXIf", exif()[:-len(THUMBNAIL) - 100]), "a part of its EXIF"),
    (lambda: chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 3\nxyz")),
     "its EXIF .*broken"),
    (lambda: chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(LARGE))),
     "its EXIF .*more than 16 MiB"),
    (lambda: chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(LARGE))),
     "its XMP .*more than 16 MiB"),
    (lambda: chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0nothing"), "its XMP .*broken"),
])
def test_broken_metadata_is_dropped_and_reported(tmp_path: Path, chunks, words: str) -> None:
    png_with(tmp_path / "a.png", chunks())
    found = read_image(tmp_path / "a.png")
    assert found.pixels.shape == (21, 34, 3) and (found.pixels == (1, 2, 3)).all()
    assert found.icc_profile is None and found.metadata.xmp is None
    assert len(found.metadata.dropped) == 1
    assert re.search(words, found.metadata.dropped[0])


def test_entries_that_share_bytes_do_not_multiply_them() -> None:
    count, size = 1000, 1 << 20
    table = b"".join(struct.pack("<HHII", 0x9C9B if i == 0 else i, 1, size, 20000)
                     for i in range(count))
    data = b"II*\0" + struct.pack("<IH", 8, count) + table
    data = data.ljust(20000, b"\0") + bytes(size)
    with pytest.raises(ValueError, match="more than 16 MiB"):
        exif_block.parse(data)


def test_what_jpeg_cannot_hold_is_reported(tmp_path: Path) -> None:
    block = exif_block.parse(exif())
    block.directories["photo"][0x9286] = exif_block.Entry(7, 70000, bytes(70000))
    image = make(3, np.uint8)
    image = Image(image.pixels, metadata=Metadata(block.to_bytes(), XMP + bytes(70000)))
    dropped = write_image(tmp_path / "a.jpg", image)
    assert [text.split(" is")[0] for text in dropped] == ["its EXIF", "its XMP"]
    assert read_image(tmp_path / "a.jpg").metadata == Metadata()
    assert write_image(tmp_path / "a.png", image) == ()
    assert len(read_image(tmp_path / "a.png").metadata.exif) > 70000


def test_broken_profiles_of_jpegs_are_reported(tmp_path: Path) -> None:
    pillow.new("RGB", (4, 3)).save(tmp_path / "a.jpg", icc_profile=profile() * 40)
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[data.index(b"ICC_PROFILE\0") + 13] = 9  # of how many segments
    (tmp_path / "a.jpg").write_bytes(data)
    found = read_image(tmp_path / "a.jpg")
    assert found.icc_profile is None and "profile" in found.metadata.dropped[0]


BLOCKS = {"little": exif(), "big": exif(order=">"),
          "upright": exif_block.parse(exif()).upright().to_bytes()}


@examples(400)
@given(name=st.sampled_from(sorted(BLOCKS)), data=st.data())
def test_damaged_blocks_are_read_as_far_as_they_go(name: str, data: st.DataObject) -> None:
    damaged = bytearray(BLOCKS[name])
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[:data.draw(st.integers(0, len(damaged)))]
    try:
        found = exif_block.parse(bytes(damaged))
    except ValueError:
        return
    upright = found.upright().to_bytes()
    if upright:
        again = exif_block.parse(upright)
        assert not again.damaged
        assert again.upright().to_bytes() == upright
        assert exif_block.parse(again.resized(5, 7).to_bytes()).damaged is False


@examples(100)
@given(data=st.data())
def test_damaged_metadata_in_files(tmp_path_factory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    damaged = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(damaged)
    try:
        found = read_image(path, max_pixels=1 << 20)
    except ValueError as error:
        pytest.fail(str(error))
    except Exception as error:
        assert type(error).__name__ == "ImageError" and "\n" not in str(error)
        return
    for other in ("b.png", "b.tif"):
        write_image(path.with_name(other), found, overwrite=True)
        assert read_image(path.with_name(other)).metadata.dropped == ()


def _files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for (name, channels, dtype), order in itertools.product(KINDS, "<>"):
            if channels == 3:
                path = Path(folder, f"{order == '<'}{np.dtype(dtype).itemsize}_{name}")
                source(path, channels, dtype, order=order)
                made[path.name] = path.read_bytes()
        return made


FILES = _files()
