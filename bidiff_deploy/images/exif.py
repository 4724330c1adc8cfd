"""Reads and writes EXIF for an image that is turned upright and enlarged.

An EXIF block is a small TIFF file: a header and directories of entries, each with its value or
the value's offset. Blocks are untrusted: every offset and length is checked, values outside the
block are left out, and the total size of all values is limited, because entries may share bytes.

Formats: CIPA DC-008 (EXIF 3.0), TIFF 6.0; BigTIFF is read as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Block", "Entry", "Exif", "MAIN_TAGS", "MAX_BYTES", "ORIENTATION", "parse",
           "write_directories"]

MAX_BYTES = 16 << 20  # largest metadata block that is kept
ORIENTATION = 0x0112
_DESCRIPTION, _MAKER_NOTE = 0x010E, 0x927C
_WIDTH, _HEIGHT = {"image": 0x0100, "photo": 0xA002}, {"image": 0x0101, "photo": 0xA003}
# Directory -> the directory and the tag that point to it.
_POINTERS = {"photo": ("image", 0x8769), "gps": ("image", 0x8825), "interop": ("photo", 0xA005)}
# Tags that describe the image; others of a main directory describe how a file stores it.
MAIN_TAGS = {
    0x0100, 0x0101,  # width and height, set by `resized`
    0x010D, _DESCRIPTION, 0x010F, 0x0110, 0x011D,  # document, description, make, model, page
    ORIENTATION, 0x011A, 0x011B, 0x0128,  # orientation, resolution and its unit
    0x0131, 0x0132, 0x013B, 0x013C, 0x8298,  # software, time, artist, computer, copyright
    0x4746, 0x4749, 0xC4A5,  # rating, rating in percent, print image matching
    0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}  # title, comment, author, keywords, subject
# Tags of a main directory that say how a file stores the image, and pointers to other directories.
_STORAGE_TAGS = {
    *range(254, 260), *range(262, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 300, 317,
    *range(320, 331), *range(332, 349), *range(512, 522), *range(529, 533), 559, 33421, 33422,
    34665, 34853, 40965, 59932, 59933}
# Positions and densities in pixels of the image before turning and enlarging.
_PIXEL_TAGS = {0x9214, 0xA214, 0xA20E, 0xA20F, 0xA210}
# Bytes of a value by type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
# Descriptions that programs interpret as the layout of the file.
_LAYOUTS = (b'{"shape"', b"shape=", b"ImageJ=", b"<?xml")
_BIG_SIZES = {16: 8, 17: 8, 18: 8}  # only in BigTIFF
_RATIONALS = (5, 10)  # two 4-byte numbers each
LONG = 4


@dataclass(frozen=True)
class Entry:
    """``count`` values of a TIFF type, as bytes in the byte order of their block."""

    kind: int
    count: int
    value: bytes


Directory = dict[int, Entry]


@dataclass
class Exif:
    """The directories ``image``, ``photo``, ``gps`` and ``interop`` of a block that has them.

    order        "<" or ">", the byte order of every value
    maker_note   offset of the maker's note in the block; it is written at the same offset, because
                 offsets inside it often count from the block's start
    damaged      whether broken parts were left out
    left_out     tags of the main directory that describe the image but are not known here
    """

    order: str
    directories: dict[str, Directory] = field(default_factory=lambda: {"image": {}})
    maker_note: int | None = None
    damaged: bool = False
    left_out: tuple[int, ...] = ()

    def number(self, tag: int) -> int | None:
        """The first value of a whole-number tag of the main directory."""
        entry = self.directories["image"].get(tag)
        code = {1: "B", 3: "H", LONG: "I"}.get(entry.kind) if entry else None
        return int(struct.unpack_from(self.order + code, entry.value)[0]) if entry and code \
            else None

    def ratio(self, tag: int) -> float | None:
        """The first value of a rational tag of the main directory."""
        entry = self.directories["image"].get(tag)
        if entry is None or entry.kind != 5:
            return None
        above, below = struct.unpack_from(self.order + "II", entry.value)
        return float(above / below) if below else None

    def upright(self) -> Exif:
        """Without what describes only the stored image: layout, thumbnail, pixel positions."""
        kept: dict[str, Directory] = {}
        for name, directory in self.directories.items():
            kept[name] = {tag: entry for tag, entry in directory.items()
                          if entry.kind in _SIZES and (
                              tag in MAIN_TAGS if name == "image" else tag not in _PIXEL_TAGS)}
        description = kept["image"].get(_DESCRIPTION)
        if description and description.value.startswith(_LAYOUTS):
            del kept["image"][_DESCRIPTION]
        if ORIENTATION in kept["image"]:
            kept["image"][ORIENTATION] = Entry(3, 1, struct.pack(self.order + "H", 1))
        return Exif(self.order, kept, self.maker_note, self.damaged)

    def resized(self, width: int, height: int) -> Exif:
        """With the dimensions, if it has any, set to ``width`` and ``height``."""
        changed = {name: dict(directory) for name, directory in self.directories.items()}
        for tags, size in ((_WIDTH, width), (_HEIGHT, height)):
            for name, tag in tags.items():
                if tag in changed.get(name, ()):
                    changed[name][tag] = Entry(LONG, 1, struct.pack(self.order + "I", size))
        return Exif(self.order, changed, self.maker_note, self.damaged)

    def little_endian(self) -> Exif:
        """The same directories with every value in little-endian order."""
        if self.order == "<":
            return self
        return Exif("<", {name: {tag: _swapped(entry) for tag, entry in directory.items()}
                          for name, directory in self.directories.items()}, self.maker_note)

    def to_bytes(self) -> bytes:
        """A block of these directories without empty ones; b"" if all are empty."""
        if not any(self.directories.values()):
            return b""
        note = self.directories.get("photo", {}).get(_MAKER_NOTE)
        block = Block(8, self.maker_note if note else None, len(note.value) if note else 0)
        start = write_directories(self, block)
        mark = b"II" if self.order == "<" else b"MM"
        return mark + struct.pack(self.order + "HI", 42, start) + bytes(block.content)


class Block:
    """The bytes of a file from offset ``start`` on; pieces are added at even offsets.

    ``place`` and ``length``: offset and size of the maker's note, if its offset is fixed.
    """

    def __init__(self, start: int, place: int | None = None, length: int = 0) -> None:
        self.content = bytearray()
        self.start = self.end = start
        # Values of at most four bytes are stored in their entry.
        self.fixed = (place, place + length) if place is not None and place >= start \
            and length > 4 else None

    def take(self, size: int) -> int:
        """Reserve ``size`` bytes and return their offset."""
        at = self.end + self.end % 2
        if self.fixed and at < self.fixed[1] and at + size > self.fixed[0]:
            at = self.fixed[1] + self.fixed[1] % 2
        self.end = at + size
        return at

    def put(self, at: int, piece: bytes) -> None:
        """Store a piece at an offset that ``take`` returned."""
        first, last = at - self.start, at - self.start + len(piece)
        self.content.extend(bytes(max(0, last - len(self.content))))
        self.content[first:last] = piece

    def add(self, piece: bytes, tag: int) -> int:
        """Store the value of ``tag`` and return its offset."""
        at = self.fixed[0] if self.fixed and tag == _MAKER_NOTE else self.take(len(piece))
        self.put(at, piece)
        return at


def write_directories(exif: Exif, block: Block) -> int:
    """Store the directories in ``block`` and return the offset of the main one."""
    names = [name for name in ("image", "photo", "gps", "interop") if exif.directories.get(name)]
    if "interop" in names and "photo" not in names:
        names.remove("interop")
    tables = {name: dict(exif.directories[name]) for name in names}
    tables.setdefault("image", {})
    for name in names:
        if name != "image":
            parent, tag = _POINTERS[name]
            tables[parent][tag] = Entry(LONG, 1, bytes(4))
    places = {name: block.take(6 + 12 * len(table)) for name, table in tables.items()}
    for name in names:
        if name != "image":
            parent, tag = _POINTERS[name]
            tables[parent][tag] = Entry(LONG, 1, struct.pack(exif.order + "I", places[name]))
    for name, table in tables.items():
        packed = struct.pack(exif.order + "H", len(table))
        for tag, entry in sorted(table.items()):
            value = entry.value
            if len(value) > 4:
                value = struct.pack(exif.order + "I", block.add(value, tag))
            packed += struct.pack(exif.order + "HHI", tag, entry.kind, entry.count)
            packed += value.ljust(4, b"\0")
        block.put(places[name], packed + bytes(4))
    return places["image"]


def parse(data: bytes, main_tags: Callable[[int], bool] = lambda tag: True) -> Exif:
    """The directories of an EXIF block or of a TIFF file.

    ``main_tags``: which tags of the main directory to read. Broken parts are left out and
    ``damaged`` is set. Raises ValueError for data that is not such a block, or whose values have
    more than MAX_BYTES.
    """
    if data[:6] == b"Exif\0\0":
        data = data[6:]
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]), "")
    version = struct.unpack_from(order + "H", data, 2)[0] if order and len(data) >= 16 else 0
    if version == 42:
        start, = struct.unpack_from(order + "I", data, 4)
    elif version == 43:
        start, = struct.unpack_from(order + "Q", data, 8)
    else:
        raise ValueError("not an EXIF block")
    reader = _Reader(data, order, version == 43)
    image = reader.directory(start, main_tags, main=True)
    if image is None:
        raise ValueError("its directory is broken")
    directories = {"image": image}
    note = None
    for name, (parent, tag) in _POINTERS.items():
        pointer = directories.get(parent, {}).pop(tag, None)
        if pointer is None:
            continue
        found = reader.directory(reader.offset(pointer), lambda tag: True)
        if found is not None:
            directories[name] = found
            note = reader.places.get(_MAKER_NOTE) if name == "photo" else note
    return Exif(order, directories, note, reader.damaged, tuple(sorted(reader.others)[:100]))


class _Reader:
    def __init__(self, data: bytes, order: str, big: bool) -> None:
        self.data, self.order, self.damaged = data, order, False
        self.count, self.entry, self.inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
        self.bytes = 0
        self.places: dict[int, int] = {}
        self.others: set[int] = set()  # of the main directory

    def offset(self, entry: Entry) -> int:
        """The value of an entry that points to a directory; -1 if its type is wrong."""
        code = {LONG: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry.kind)
        return int(struct.unpack_from(self.order + code, entry.value)[0]) if code else -1

    def directory(self, start: int, wanted: Callable[[int], bool],
                  main: bool = False) -> Directory | None:
        """The entries of one directory; None, with ``damaged`` set, if it cannot be read."""
        size = struct.calcsize("<" + self.entry)
        head = struct.calcsize("<" + self.count)
        if not 8 <= start <= len(self.data) - head:
            self.damaged = True
            return None
        count, = struct.unpack_from(self.order + self.count, self.data, start)
        fitting = (len(self.data) - start - head) // size
        if count > min(fitting, 0xFFFF):
            self.damaged = True
            count = min(fitting, 0xFFFF)
        found: Directory = {}
        for index in range(count):
            at = start + head + size * index
            tag, kind, number, inline = struct.unpack_from(self.order + self.entry, self.data, at)
            if main and tag not in MAIN_TAGS and tag not in _STORAGE_TAGS:
                self.others.add(tag)
            if tag in found or not number or not (wanted(tag) or tag in _POINTED):
                continue
            entry = self._entry(tag, kind, number, inline)
            if entry is None:
                self.damaged = True
            else:
                found[tag] = entry
        return found

    def _entry(self, tag: int, kind: int, number: int, inline: bytes) -> Entry | None:
        length = {**_SIZES, **_BIG_SIZES}.get(kind, 0) * number
        if length == 0 or length > len(self.data):
            return None
        self.bytes += length
        if self.bytes > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
        if length <= self.inline:
            value = inline[:length]
        else:
            place, = struct.unpack(self.order + ("Q" if self.inline == 8 else "I"), inline)
            if place + length > len(self.data):
                return None
            self.places[tag] = place
            value = self.data[place:place + length]
        return Entry(kind, number, bytes(value))


_POINTED = {tag for _, tag in _POINTERS.values()}


def _swapped(entry: Entry) -> Entry:
    unit = 4 if entry.kind in _RATIONALS else _SIZES.get(entry.kind, 1)
    if unit == 1:
        return entry
    return Entry(entry.kind, entry.count,
                 np.frombuffer(entry.value, f">u{unit}").astype(f"<u{unit}").tobytes())
