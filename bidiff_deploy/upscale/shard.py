"""One of several disjoint parts of a run's images, for machines that share only a folder."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

__all__ = ["Shard"]

_MOST = 100_000


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` of ``count``, from 1.

    An image belongs to the shard that the SHA-256 of its output's path selects: by that alone, so
    that it stays there when images come or go, and in the order in which shards start.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of "3/8". Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count <= _MOST:
            raise UsageError(f"--shard {text!r} must be I/N with I from 1 to N, such as 3/8 for "
                             f"the third of eight parts; N is at most {_MOST}")
        return cls(number, count)

    def has(self, target: Path) -> bool:
        """Whether the image with this output belongs to the shard. ``target``: as all shards name
        it, such as its path below the output folder."""
        digest = hashlib.sha256(os.fsencode(target.as_posix())).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
