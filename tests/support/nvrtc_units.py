"""Machine code that NVIDIA's own NVRTC makes of the kernels, once for all workers, in build/."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from bidiff_deploy.engines import library
from bidiff_deploy.engines.gpu import nvrtc_files
from support.native import ROOT
from support.shared import Shared

# Every unit for one architecture of those that have it; ptxas' effort is what takes the time.
UNITS = ((75, "conv_xor.cu"), (80, "conv_and.cu"), (90, "conv_int8.cu"), (120, "maps.cu"),
         (120, "conv_popc.cu"))
_CODE = """
import sys
from bidiff_deploy.engines.gpu.library import compile_unit
print(compile_unit(sys.argv[1], int(sys.argv[2]), 12090, sys.argv[3], "-Xptxas=-O0"))
"""


def nvrtc() -> str | None:
    """NVIDIA's compiler, of BIDIFF_TEST_NVRTC or a wheel."""
    found = [os.environ.get("BIDIFF_TEST_NVRTC"), *map(str, nvrtc_files.nvrtc_files())]
    return next((file for file in found if file), None)


@functools.cache
def _made_of(compiler: str) -> str:
    """Differs for other sources, which the op library embeds, and for another compiler."""
    return hashlib.sha256(compiler.encode() + b"".join(
        Path(file).read_bytes() for file in (library.library_path(), compiler))).hexdigest()[:16]


def compiled(architecture: int, unit: str, compiler: str) -> Path:
    """The file that ``compiler`` makes of a unit."""
    def make(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        # In a process of its own: this one may have torch and a stand-in for the driver.
        done = subprocess.run([sys.executable, "-c", _CODE, unit, str(architecture), str(folder)],
                              capture_output=True, text=True, cwd=ROOT,
                              env={**os.environ, "BIDIFF_NVRTC": compiler})
        assert done.stdout.rstrip().endswith(f"): sm_{architecture}"), done.stderr

    folder = Shared(ROOT / "build" / "nvrtc")(f"{_made_of(compiler)}-{architecture}-{unit}", make)
    file, = folder.iterdir()
    return file
