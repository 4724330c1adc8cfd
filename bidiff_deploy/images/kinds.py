"""What a file is, by its first bytes: for the error about one that is not read."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["HEAD_BYTES", "is_jpeg_file", "is_other", "kind_of", "refusal"]

HEAD_BYTES = 512  # of a file, enough to recognise it

_READ = {"a PNG image", "a JPEG image", "a WebP image", "a TIFF image", "a BMP image",
         "a GIF image"}
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\0\x10\0\0\0CR", "a CR2 raw photo"), (b"IIU\0", "an RW2 raw photo"),
    (b"IIRO", "an ORF raw photo"), (b"FUJIFILMCCD-RAW", "a RAF raw photo"),
    (b"II\xbc", "a JPEG XR image"), (b"II*\0", "a TIFF image"), (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"), (b"MM\0+", "a TIFF image"), (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"), (b"BM", "a BMP image"), (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"), (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop document"), (b"gimp xcf", "a GIMP document"),
    (b"v/1\x01", "an OpenEXR image"), (b"#?RADIANCE", "a Radiance HDR image"),
    (b"DDS ", "a DDS image"), (b"qoif", "a QOI image"), (b"\0\0\1\0", "an icon file"),
    (b"FLIF", "a FLIF image"), (b"BPG\xfb", "a BPG image"), (b"SIMPLE  =", "a FITS image"),
    (b"%PDF-", "a PDF document"), (b"%!PS", "a PostScript document"),
    (b"version https://git-lfs.github.com/", "a Git LFS pointer, not the file itself"),
    (b"PK\3\4", "a ZIP archive"), (b"\x1f\x8b", "a gzip archive"), (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"), (b"\x1a\x45\xdf\xa3", "a Matroska video"))
# Brands of ISO base media files (ISO/IEC 14496-12), whose bytes 4 to 8 are "ftyp".
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"crx ": "a CR3 raw photo",
           b"heic": "a HEIC image", b"heix": "a HEIC image", b"heim": "a HEIC image",
           b"heis": "a HEIC image", b"hevc": "a HEIC image", b"hevx": "a HEIC image",
           b"mif1": "a HEIC image", b"msf1": "a HEIC image", b"jpx ": "a JPEG 2000 image"}
_MARKUP = ((rb"<!doctype html|<html|<head|<body", "an HTML page"), (rb"<svg", "an SVG drawing"),
           (rb"<\?xml", "an XML document"))
_OTHERS = {"a Git LFS pointer, not the file itself": "run: git lfs pull",
           "an HTML page": "download the image itself"}


def kind_of(head: bytes) -> str | None:
    """What a file with these first bytes is, with its article, such as "a HEIC image"; None if
    that is unknown."""
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[at:at + 4] for at in range(16, min(
            int.from_bytes(head[:4], "big"), len(head)), 4))]
        # AVIF files may have HEIF's general brand first.
        named = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "an AVIF image" if "an AVIF image" in named else named[0] if named else \
            "an MP4 or QuickTime video"
    if head[:4] == b"RIFF":
        return {b"WEBP": "a WebP image", b"AVI ": "an AVI video"}.get(head[8:12])
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for pattern, kind in _MARKUP:
        if re.match(pattern, text):
            return "an SVG drawing" if kind == "an XML document" and b"<svg" in text else \
                "an HTML page" if kind == "an XML document" and b"<html" in text else kind
    if re.match(rb"p[1-7f][\s#]", text):
        return "a Netpbm image"
    if head and not head.strip(b"\0"):
        return "a file of zeros"
    if text and re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]*", text) and _is_text(text):
        return "a text file"
    return None


def is_jpeg_file(path: Path) -> bool:
    """Whether a file's first bytes are those of a JPEG; False for one that cannot be read."""
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return False
        with open(path, "rb") as file:
            return kind_of(file.read(HEAD_BYTES)) == "a JPEG image"
    except OSError:
        return False


def is_other(head: bytes) -> bool:
    """Whether a file with these first bytes is known to be of a kind that is not read."""
    return kind_of(head) not in (None, *_READ)


def refusal(head: bytes) -> str:
    """Why a file with these first bytes is not read, after the file's name, and what to do."""
    kind = kind_of(head)
    if kind is None:
        return "is not a PNG, JPEG, WebP, TIFF, BMP or GIF image, or is damaged"
    if kind in _READ:
        return f"is {kind}, but is damaged"
    image = kind.endswith(("image", "photo", "drawing", "document"))
    remedy = _OTHERS.get(kind, "convert it to PNG, JPEG, WebP or TIFF" if image else
                         "name an image instead")
    return f"is {kind}, which is not read; {remedy}"


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character that was cut
    return True
