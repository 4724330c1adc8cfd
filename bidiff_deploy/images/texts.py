"""Texts inside a file: a PNG's text chunks and the comments of other formats.

All are stored as a PNG's chunks, the richest of these formats. In other formats those texts have a
place for which EXIF has a tag, and a JPEG or GIF comment is the text ``Comment``.

Formats: PNG (ISO/IEC 15948), 11.3.3; CIPA DC-008 (EXIF); the ``parameters`` of image generators
are in EXIF's UserComment, where these programs search for them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from .exif import MAX_BYTES, Entry, Exif

__all__ = ["COMMENT", "Text", "from_comment", "named", "put_into_exif"]

COMMENT = "Comment"
_MAX_NAMED = 5
_USER_COMMENT = 0x9286
# Keyword -> directory and tag of EXIF.
_PLACES = {"Title": ("image", 0x010D), "Description": ("image", 0x010E),
           "Software": ("image", 0x0131), "Author": ("image", 0x013B),
           "Copyright": ("image", 0x8298), "parameters": ("photo", _USER_COMMENT)}


@dataclass(frozen=True)
class Text:
    """A text chunk: its name (tEXt, zTXt or iTXt) and body."""

    name: bytes
    body: bytes

    @property
    def keyword(self) -> str:
        return self.body.partition(b"\0")[0].decode("latin-1")

    def value(self) -> bytes | None:
        """The text in UTF-8; None if it is broken or has more than MAX_BYTES."""
        rest = self.body.partition(b"\0")[2]
        if self.name == b"iTXt":
            packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
            return _inflated(rest) if packed else rest
        latin = _inflated(rest[1:]) if self.name == b"zTXt" else rest
        return None if latin is None else latin.decode("latin-1").encode()


def from_comment(comment: bytes) -> Text:
    """A JPEG's or GIF's comment, in UTF-8 if it is valid as such, else in Latin-1."""
    comment = comment.rstrip(b"\0").replace(b"\0", b" ")
    keyword = COMMENT.encode() + b"\0"
    try:
        comment.decode("utf-8")
    except UnicodeDecodeError:
        return Text(b"tEXt", keyword + comment)
    return Text(b"tEXt", keyword + comment) if comment.isascii() else \
        Text(b"iTXt", keyword + bytes(4) + comment)


def put_into_exif(texts: Iterable[Text], exif: Exif) -> list[Text]:
    """Add the texts that EXIF has an unused tag for; returns the others."""
    others = []
    for text in texts:
        directory, tag = _PLACES.get(text.keyword, ("image", None))
        entries, value = exif.directories.setdefault(directory, {}), text.value()
        if tag is None or tag in entries or value is None:
            others.append(text)
        elif tag == _USER_COMMENT:
            value = b"ASCII\0\0\0" + value if value.isascii() else \
                b"UNICODE\0" + value.decode(errors="replace").encode("utf-16-be", "replace")
            entries[tag] = Entry(7, len(value), value)
        else:
            entries[tag] = Entry(2, len(value) + 1, value + b"\0")
    return others


def named(names: Iterable[str]) -> str:
    """Names from a file for a message: distinct, printable, short, and only the first few."""
    shown = list(dict.fromkeys("".join(c if c.isprintable() else "?" for c in name[:40])
                               for name in names))
    more = f" and {len(shown) - _MAX_NAMED} more" if len(shown) > _MAX_NAMED else ""
    return ", ".join(shown[:_MAX_NAMED]) + more


def _inflated(packed: bytes) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, MAX_BYTES + 1)
    except zlib.error:
        return None
    return data if inflater.eof and len(data) <= MAX_BYTES else None
