"""Files in a compiled Qt resource (.rcc), as GCompris keeps its photos."""

from __future__ import annotations

import struct
from pathlib import Path

from bidiff_deploy.errors import UsageError

HEADER = ">4sIIII"  # magic, version, offsets of the tree, of the data and of the names
COMPRESSED, FOLDER = 5, 2  # flags of a node: by zlib or zstd, a folder


def resource_file(file: Path, inside: str) -> bytes | None:
    """What the resource ``file`` contains at the path ``inside``; None if that is no file, or a
    compressed one (photos are stored as they are). Raises UsageError for what is no resource, or a
    damaged one. Layout: Qt's rcc, versions 1 to 3."""
    blob = file.read_bytes()
    try:
        magic, version, tree, data, names = struct.unpack_from(HEADER, blob)
        if magic != b"qres":
            raise ValueError(magic)
        size = 22 if version > 1 else 14

        def node(number: int) -> tuple[int, int, int, int]:
            return struct.unpack_from(">IHII", blob, tree + number * size)

        def name(start: int) -> str:
            length, = struct.unpack_from(">H", blob, names + start)
            start += names + 6  # after the length and a hash
            return blob[start:start + 2 * length].decode("utf-16-be")

        _, flags, count, first = node(0)
        for part in inside.split("/"):
            if not flags & FOLDER:
                return None
            children = (node(first + index) for index in range(count))
            child = next((child for child in children if name(child[0]) == part), None)
            if child is None:
                return None
            _, flags, count, first = child
        if flags & (FOLDER | COMPRESSED):
            return None
        start = data + first + 4
        length, = struct.unpack_from(">I", blob, start - 4)
        if start + length > len(blob):
            raise ValueError(length)
        return blob[start:start + length]
    except (struct.error, ValueError):
        raise UsageError(f"{file} is not a Qt resource, or a damaged one; download its package "
                         "again") from None
