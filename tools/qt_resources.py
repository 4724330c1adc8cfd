"""Files of a compiled Qt resource (.rcc), as GCompris keeps its photos."""

from __future__ import annotations

import struct
from pathlib import Path

from bidiff_deploy.errors import UsageError

HEADER = ">4sIIII"  # magic, version, offsets of the tree, of the data and of the names
COMPRESSED, FOLDER = 5, 2  # flags of a node: by zlib or zstd, a folder


def resource_files(file: Path) -> dict[str, bytes]:
    """What the resource ``file`` contains by path, without what is compressed in it (photos are
    stored as they are). Raises UsageError for another file. Layout: Qt's rcc, versions 1 to 3."""
    blob = file.read_bytes()
    found: dict[str, bytes] = {}
    try:
        magic, version, tree, data, names = struct.unpack_from(HEADER, blob)
        if magic != b"qres":
            raise ValueError(magic)
        nodes = [(tree, 1, "")]  # the first node of a folder, their count, and the folder's path
        while nodes:
            first, count, folder = nodes.pop()
            for node in range(first, first + count * (size := 22 if version > 1 else 14), size):
                name, flags, one, two = struct.unpack_from(">IHII", blob, node)
                length, = struct.unpack_from(">H", blob, names + name)
                start = names + name + 6  # after the length and a hash
                text = blob[start:start + 2 * length].decode("utf-16-be")
                path = f"{folder}/{text}" if node != tree else ""
                if flags & FOLDER:
                    nodes.append((tree + two * size, one, path))
                elif not flags & COMPRESSED:
                    start = data + two
                    length, = struct.unpack_from(">I", blob, start)
                    found[path.lstrip("/")] = blob[start + 4:start + 4 + length]
    except (struct.error, ValueError):
        raise UsageError(f"{file} is not a Qt resource; download its package again") from None
    return found
