"""TensorRT's timing cache on disk: the time of each kernel, so that a second build is quick.

One file for each version of TensorRT, GPU model and driver. A build never fails because a cache
cannot be read, belongs to something else, or cannot be written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ....errors import OutputError
from ....files import atomic_file, make_directory, open_own, user_folder
from ...gpu.library import DeviceInfo

__all__ = ["MAX_BYTES", "attach", "cache_file", "read", "save"]

MAX_BYTES = 256 << 20


def cache_file(version: str, gpu: DeviceInfo) -> Path:
    """The cache's path, in $XDG_CACHE_HOME/bidiff_deploy or below ~/.cache."""
    name = f"tensorrt-{version}-{gpu.name}-sm{gpu.architecture}-cuda{gpu.driver}"
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:150]
    return user_folder("XDG_CACHE_HOME", ".cache") / f"{name}.timing"


def read(file: Path) -> bytes:
    """The cache's content; empty if it is missing, too large, or of another user (``open_own``)."""
    try:
        with open(open_own(file), "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= MAX_BYTES else b""


def attach(config: Any, content: bytes) -> bool:
    """Give a builder's configuration a cache of this content, or an empty one if TensorRT refuses
    it. Returns whether the content was accepted."""
    for data in dict.fromkeys((content, b"")):
        try:
            cache = config.create_timing_cache(data)
            taken = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
        except (RuntimeError, TypeError, ValueError):  # the bindings raise these for damaged bytes
            taken = False
        if taken:
            return data == content
    return False


def save(config: Any, file: Path) -> str | None:
    """Write the cache of a finished build. Returns a sentence if it cannot be written, else None."""
    cache = config.get_timing_cache()
    content = None if cache is None else cache.serialize()
    if content is None:
        return None
    try:
        make_directory(file.parent)
        with atomic_file(file, overwrite=True, mode=0o644) as temporary:
            temporary.write_bytes(memoryview(content))
    except OutputError as error:
        return f"the timing cache was not saved: {error}"
    return None
