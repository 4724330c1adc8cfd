"""TensorRT's timing cache on disk: how long each kernel took, so that a second build is quick.

One file for a version of TensorRT, a model of GPU and a driver. It is a help and no more: one that
can not be read, is of something else, or can not be written never fails a build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ....errors import OutputError
from ....files import atomic_file, make_directory, user_folder
from ...gpu.library import DeviceInfo

__all__ = ["MAX_BYTES", "attach", "cache_file", "read", "save"]

MAX_BYTES = 256 << 20


def cache_file(version: str, gpu: DeviceInfo) -> Path:
    """Where it is: in $XDG_CACHE_HOME/bidiff_deploy, or below ~/.cache."""
    name = f"tensorrt-{version}-{gpu.name}-sm{gpu.architecture}-cuda{gpu.driver}"
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:150]
    return user_folder("XDG_CACHE_HOME", ".cache") / f"{name}.timing"


def read(file: Path) -> bytes:
    """Its content; empty where there is none, or what is there is too large to be one."""
    try:
        if not file.is_file():
            return b""
        with open(file, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= MAX_BYTES else b""


def attach(config: Any, content: bytes) -> bool:
    """Give a builder's configuration a cache, an empty one if it refuses this content; says
    whether it took it."""
    for data in dict.fromkeys((content, b"")):
        try:
            cache = config.create_timing_cache(data)
            taken = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
        except (RuntimeError, TypeError, ValueError):  # what the bindings make of damaged bytes
            taken = False
        if taken:
            return data == content
    return False


def save(config: Any, file: Path) -> str | None:
    """Write what a build has left in its cache; a sentence where that was not possible."""
    cache = config.get_timing_cache()
    content = None if cache is None else cache.serialize()
    if content is None:
        return None
    try:
        make_directory(file.parent)
        with atomic_file(file, overwrite=True) as temporary:
            temporary.write_bytes(memoryview(content))
    except OutputError as error:
        return f"the timing cache is not kept: {error}"
    return None
