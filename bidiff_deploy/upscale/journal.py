"""Records how each file of an output folder was made, so that an interrupted run can continue.

The journal is a hidden file in that folder with a line of JSON for each output; the last record for
a name wins. A line is on disk before its output is renamed into place, so whenever the process
ends, an output is either recorded or absent; an output that does not match its record is not
considered whole. Lines that cannot be read, such as the last one after a crash, are ignored.

Runs side by side share the journal: each claims an output before it computes it, by a lock on a
byte of the journal that the output's name selects. When a process ends, so do its claims. A shard
has a journal of its own, which no other machine writes, and reads those of the others.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import file_sha256, lock_range, open_own
from .shard import Shard

__all__ = ["FILE_NAME", "Journal", "Record"]

FILE_NAME = ".bidiff-upscale.jsonl"
_MAX_LINE = 1 << 16  # bytes; a path has at most 4096
_MAX_ODD = 1000  # lines that are no records, such as those that full disks cut off
_MAX_BYTES = 1 << 28  # half a million outputs; larger files are rejected


@dataclass(frozen=True)
class Record:
    """How one output was made.

    input, bundle   SHA-256 of the input file and of the bundle's manifest
    options         the options that the pixels depend on
    width, height   of the output in pixels
    bytes, sha256   size and hash of the output file
    """

    input: str
    bundle: str
    options: Mapping[str, Any]
    width: int
    height: int
    bytes: int
    sha256: str


class Journal:
    """The journal of one folder, which need not exist yet, or of a shard of the run in it.
    ``close`` ends its claims."""

    def __init__(self, folder: str | os.PathLike[str], shard: Shard | None = None) -> None:
        middle = "" if shard is None else f".{shard.number}-of-{shard.count}"
        self.path = Path(folder) / FILE_NAME.replace(".jsonl", f"{middle}.jsonl")
        self._own = _Records(self.path)
        self._others: list[_Records] | None = None  # of other shards; None: not looked for
        self._claims: int | None = None  # a descriptor

    def close(self) -> None:
        claims, self._claims = self._claims, None
        if claims is not None:
            os.close(claims)

    def claim(self, target: Path, wait: bool = False) -> bool:
        """Claim an output for this run; its folder must exist. False: another run has it, unless
        ``wait``, which waits for that run to end or to release it. Raises OutputError."""
        if self._claims is None:
            self._claims = self._open()
        return lock_range(self._claims, self._place(target), wait=wait)

    def release(self, target: Path) -> None:
        """End the claim of an output, if there is one."""
        if self._claims is not None:
            lock_range(self._claims, self._place(target), unlock=True)

    def name(self, target: Path) -> str:
        """The name of an output in the journal: its path below the folder."""
        return os.path.relpath(target, self.path.parent).replace(os.sep, "/")

    def why_not(self, target: Path, source: Path, bundle: str,
                options: Mapping[str, Any]) -> str | None:
        """Why an existing output is not what the run would make; None if it is."""
        record = self.record(target)
        if record is None:
            return "the journal of its folder does not record how it was made"
        if record.bundle != bundle:
            return "it was made by another bundle"
        if dict(record.options) != dict(options):
            changed = sorted(key for key in {*record.options, *options}
                             if record.options.get(key) != options.get(key))
            return f"it was made with another --{', --'.join(changed)}"
        try:
            if target.stat().st_size != record.bytes or file_sha256(target) != record.sha256:
                return "it is damaged or was changed"
            if file_sha256(source) != record.input:
                return f"{source} has changed since"
        except OSError as error:
            return f"{error.filename} cannot be read ({error.strerror})"
        return None

    def record(self, target: Path) -> Record | None:
        """The last record of an output, as the journals are now; None if there is none. Of records
        in several journals, the one of a file of the output's size."""
        if self._others is None:
            name, _, ending = FILE_NAME.rpartition(".")
            self._others = [_Records(path) for path in sorted(
                self.path.parent.glob(f"{name}*.{ending}")) if path != self.path]
        name = self.name(target)
        found = [record for records in (self._own, *self._others)
                 if (record := records.get(name)) is not None]
        if len(found) < 2:
            return found[0] if found else None
        size = target.stat().st_size if target.exists() else None
        return next((record for record in found if record.bytes == size), found[0])

    def add(self, target: Path, record: Record) -> None:
        """Append a record and flush it to disk.

        Raises OutputError if the journal cannot be opened, OSError if writing fails.
        """
        line = json.dumps({"output": self.name(target), **asdict(record)}).encode() + b"\n"
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # after a line that was cut off
            if os.write(descriptor, line) != len(line):  # the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            return open_own(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, as_folder=True)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from None

    def _place(self, target: Path) -> int:
        digest = hashlib.sha256(os.fsencode(self.name(target))).digest()
        return int.from_bytes(digest[:8], "big") >> 2


class _Records:
    """The records of one journal, whose file may grow, be replaced or be absent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Record] = {}
        self._read_file, self._read_bytes = (0, 0), 0  # which file, and how far it is read

    def get(self, name: str) -> Record | None:
        """The last record of that name."""
        self._read()
        return self._records.get(name)

    def _read(self) -> None:
        """Take over the complete lines that were added since the last call."""
        try:
            descriptor = open_own(self.path, as_folder=True)
        except FileNotFoundError:
            self._records, self._read_bytes = {}, 0
            return
        except OSError as error:
            raise OutputError(f"{self.path} cannot be read: {error.strerror}") from None
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if status.st_size > _MAX_BYTES:
                raise OutputError(f"{self.path} is too large to be a journal; remove it")
            file = status.st_dev, status.st_ino
            if file != self._read_file or status.st_size < self._read_bytes:
                self._records, self._read_file, self._read_bytes = {}, file, 0
            stream.seek(self._read_bytes)
            odd = 0
            while line := stream.readline(_MAX_LINE):
                if not line.endswith(b"\n") and len(line) < _MAX_LINE:
                    return  # it is being written, or was cut off
                self._read_bytes += len(line)
                odd += not self._take(line)
                if odd > _MAX_ODD:
                    raise OutputError(f"{self.path} is not a journal; remove it")

    def _take(self, line: bytes) -> bool:
        """Take over one line; False if it is no record."""
        try:
            entry = json.loads(line)
            name = entry.pop("output")
            record = Record(**{field.name: entry[field.name] for field in fields(Record)})
            if isinstance(name, str) and isinstance(record.options, dict):
                self._records[name] = record
                return True
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        return False
