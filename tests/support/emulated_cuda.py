"""The stand-in for NVIDIA's driver and NVRTC (engines/tests/emulated_cuda), built once, and used.

Its GPUs are this CPU: the launcher, the modules and the very device source run, bit for bit.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bidiff_deploy.engines import library
from support import forked, native

# One list for all tests of a process, because a GPU stays what it was when it was opened.
GPUS = (75, 80, 86, 87, 89, 90, 100, 120)


def stand_in() -> Path:
    """Path of the built stand-in; skips the test where it or the op library cannot be built."""
    if library.library_path() is None:
        pytest.skip(library.missing_reason())
    return native.built(native.HOST, "bidiff_emulated_cuda") / "libbidiff_emulated_cuda.so"


def variables(cache: Path, **changed: str) -> dict[str, str]:
    """Environment in which the op library finds the stand-in; ``changed`` comes on top."""
    return {"BIDIFF_LIBCUDA": str(stand_in()), "BIDIFF_NVRTC": str(stand_in()),
            "BIDIFF_EMULATED_GPUS": ",".join(map(str, GPUS)), "XDG_CACHE_HOME": str(cache),
            # Kernels come from NVRTC's stand-in, whether or not nvcc was there for the library.
            "BIDIFF_EMULATED_FATBINS": "0", "BIDIFF_CUDA_PATH": "", **changed}


@contextmanager
def emulated(cache: Path, **changed: str) -> Iterator[None]:
    """The same for this process, for as long as the block runs. The driver that the process opens
    first stays its driver, so whatever else a test needs has a process of its own."""
    wanted = variables(cache, **changed)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope="module")
def on_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process on the stand-in while a file's tests run."""
    with emulated(tmp_path_factory.mktemp("cache")):
        yield


def python(code: str, cache: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a process of its own on the stand-in."""
    return forked.python(code, environment=variables(cache, **changed))


def ordinal(architecture: int) -> int:
    """Number of the emulated GPU of that architecture."""
    return GPUS.index(architecture)
