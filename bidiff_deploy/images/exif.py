"""EXIF as it goes with an image that was turned upright and enlarged.

An EXIF block is a small TIFF file: a header and directories of entries, whose values stand in the
entry or at an offset. Blocks come from strangers: every offset and length is checked, what lies
outside the block is left out, and all values together have a limit, so that entries which share
bytes can not multiply them.

Formats: CIPA DC-008 (EXIF 3.0), TIFF 6.0; BigTIFF is read as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Block", "Entry", "Exif", "MAIN_TAGS", "MAX_BYTES", "ORIENTATION", "parse",
           "write_directories"]

MAX_BYTES = 16 << 20  # of one metadata block
ORIENTATION = 0x0112
_DESCRIPTION, _MAKER_NOTE = 0x010E, 0x927C
_WIDTH, _HEIGHT = {"image": 0x0100, "photo": 0xA002}, {"image": 0x0101, "photo": 0xA003}
# Directory -> the directory and the tag that point to it.
_POINTERS = {"photo": ("image", 0x8769), "gps": ("image", 0x8825), "interop": ("photo", 0xA005)}
# What describes the picture; the rest of a main directory describes how a file stores it.
MAIN_TAGS = {
    0x0100, 0x0101,  # width and height, which `resized` sets
    0x010D, _DESCRIPTION, 0x010F, 0x0110, 0x011D,  # document, description, make, model, page
    ORIENTATION, 0x011A, 0x011B, 0x0128,  # orientation, resolution and its unit
    0x0131, 0x0132, 0x013B, 0x013C, 0x8298,  # software, time, artist, computer, copyright
    0x4746, 0x4749, 0xC4A5,  # rating, rating in percent, print image matching
    0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}  # title, comment, author, keywords, subject
# Positions and densities in pixels of the smaller, unturned image.
_PIXEL_TAGS = {0x9214, 0xA214, 0xA20E, 0xA20F, 0xA210}
# Bytes of a value by type; what is swapped between byte orders is that, or its halves.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
# Descriptions that programs read back as the layout of a file.
_LAYOUTS = (b'{"shape"', b"shape=", b"ImageJ=", b"<?xml")
_BIG_SIZES = {16: 8, 17: 8, 18: 8}  # BigTIFF alone has them
_RATIONALS = (5, 10)
LONG = 4


@dataclass(frozen=True)
class Entry:
    """``count`` values of a TIFF type, as bytes in the order of the block that holds them."""

    kind: int
    count: int
    value: bytes


Directory = dict[int, Entry]


@dataclass
class Exif:
    """The directories ``image``, ``photo``, ``gps`` and ``interop``, as far as they are there.

    order        "<" or ">", the byte order of every value
    maker_note   offset at which a block of these directories puts the maker's note: its own
                 offsets often count from the block's start, so it stays where it was
    damaged      whether parts were left out because they are broken
    """

    order: str
    directories: dict[str, Directory] = field(default_factory=lambda: {"image": {}})
    maker_note: int | None = None
    damaged: bool = False

    def number(self, tag: int) -> int | None:
        """The first value of a whole-number tag of the main directory."""
        entry = self.directories["image"].get(tag)
        code = {1: "B", 3: "H", LONG: "I"}.get(entry.kind) if entry else None
        return struct.unpack_from(self.order + code, entry.value)[0] if entry and code else None

    def ratio(self, tag: int) -> float | None:
        """The first value of a rational tag of the main directory."""
        entry = self.directories["image"].get(tag)
        if entry is None or entry.kind != 5:
            return None
        above, below = struct.unpack_from(self.order + "II", entry.value)
        return above / below if below else None

    def upright(self) -> Exif:
        """Without what only fits the stored picture: structure, thumbnail, places in pixels."""
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
        """With the dimensions, where they are told, set to these."""
        changed = {name: dict(directory) for name, directory in self.directories.items()}
        for tags, size in ((_WIDTH, width), (_HEIGHT, height)):
            for name, tag in tags.items():
                if tag in changed.get(name, ()):
                    changed[name][tag] = Entry(LONG, 1, struct.pack(self.order + "I", size))
        return Exif(self.order, changed, self.maker_note, self.damaged)

    def little_endian(self) -> Exif:
        """The same with every value in that byte order."""
        if self.order == "<":
            return self
        return Exif("<", {name: {tag: _swapped(entry) for tag, entry in directory.items()}
                          for name, directory in self.directories.items()}, self.maker_note)

    def to_bytes(self) -> bytes:
        """A block of these directories, empty ones left out; b"" if there are no others."""
        if not any(self.directories.values()):
            return b""
        note = self.directories.get("photo", {}).get(_MAKER_NOTE)
        block = Block(8, self.maker_note if note else None, len(note.value) if note else 0)
        start = write_directories(self, block)
        mark = b"II" if self.order == "<" else b"MM"
        return mark + struct.pack(self.order + "HI", 42, start) + bytes(block.content)


class Block:
    """The bytes of a file from offset ``start`` on, which grow by pieces at even offsets.

    ``place`` and ``length``: of the maker's note, if it has to lie at an offset.
    """

    def __init__(self, start: int, place: int | None = None, length: int = 0) -> None:
        self.content = bytearray()
        self.start = self.end = start
        # Values of four bytes or fewer stand in their entry.
        self.fixed = (place, place + length) if place is not None and place >= start \
            and length > 4 else None

    def take(self, size: int) -> int:
        """The offset of that many bytes, which nothing else gets."""
        at = self.end + self.end % 2
        if self.fixed and at < self.fixed[1] and at + size > self.fixed[0]:
            at = self.fixed[1] + self.fixed[1] % 2
        self.end = at + size
        return at

    def put(self, at: int, piece: bytes) -> None:
        first, last = at - self.start, at - self.start + len(piece)
        self.content.extend(bytes(max(0, last - len(self.content))))
        self.content[first:last] = piece

    def add(self, piece: bytes, tag: int) -> int:
        at = self.fixed[0] if self.fixed and tag == _MAKER_NOTE else self.take(len(piece))
        self.put(at, piece)
        return at


def write_directories(exif: Exif, block: Block) -> int:
    """Put the directories into ``block``; returns the main one's offset."""
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

    ``main_tags``: which tags of the main directory are wanted. Parts that are broken are left out
    and told by ``damaged``. Raises ValueError for data that is no such block, or whose values
    have more than MAX_BYTES.
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
    image = reader.directory(start, main_tags)
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
    return Exif(order, directories, note, reader.damaged)


class _Reader:
    def __init__(self, data: bytes, order: str, big: bool) -> None:
        self.data, self.order, self.damaged = data, order, False
        self.count, self.entry, self.inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
        self.bytes = 0
        self.places: dict[int, int] = {}

    def offset(self, entry: Entry) -> int:
        code = {LONG: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry.kind)
        if code is None:
            return -1
        return struct.unpack_from(self.order + code, entry.value)[0]

    def directory(self, start: int, wanted: Callable[[int], bool]) -> Directory | None:
        """The entries of one directory; None, and ``damaged``, if none can be read."""
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
