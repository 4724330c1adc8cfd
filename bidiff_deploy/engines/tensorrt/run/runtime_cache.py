"""What TensorRT-RTX compiled on this GPU when a plan first ran, kept next to the plan.

TensorRT-RTX compares the content with the GPU, the driver and its own version, and refuses what
does not fit. So a cache that is missing, damaged or another machine's costs the time to compile,
and nothing fails.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ....errors import OutputError
from ....files import atomic_file, open_own

__all__ = ["SUFFIX", "RuntimeCache"]

SUFFIX = ".cache"
_MAX_BYTES = 1 << 30


class RuntimeCache:
    """The cache of one plan; the contexts of its engine share it."""

    def __init__(self, plan: Path) -> None:
        self._file = plan.with_suffix(SUFFIX)
        self._cache: Any = None
        self._read = b""

    def configured(self, engine: Any, allocation: Any) -> Any:
        """A runtime configuration for a new context: memory allocated as ``allocation`` says, and
        this cache."""
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(allocation)
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._read = self._content()
            if self._read:
                self._cache.deserialize(self._read)
        config.set_runtime_cache(self._cache)
        return config

    def _content(self) -> bytes:
        try:
            with open(open_own(self._file), "rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
        except OSError:
            return b""
        return content if len(content) <= _MAX_BYTES else b""

    def save(self) -> None:
        """Write what was compiled since the cache was read; quietly not, where it cannot be
        written."""
        content = None if self._cache is None else self._cache.serialize()
        self._cache = None
        if content is None or (data := bytes(memoryview(content))) == self._read:
            return
        with contextlib.suppress(OutputError):
            with atomic_file(self._file, overwrite=True, mode=0o644) as temporary:
                temporary.write_bytes(data)
