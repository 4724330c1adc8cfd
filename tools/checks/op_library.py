"""Builds an op library with CUDA if the installation has none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from bidiff_deploy.errors import EngineError

from .reference import ROOT


def build_library(folder: Path) -> None:
    """Build the op library into ``folder`` if this installation has none with CUDA."""
    from bidiff_deploy.engines import library
    from bidiff_deploy.engines.gpu import library as cuda_library
    if library.library_path() is not None:
        try:
            cuda_library.cuda_library()
            return
        except EngineError:
            cuda_library.cuda_library.cache_clear()
            library.load.cache_clear()
    cmake = shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))
    if cmake is None:
        raise EngineError("the op library is not built and cmake was not found; pip install cmake, "
                          "or pip install . in the source folder")
    print(f"building the op library in {folder}", file=sys.stderr, flush=True)
    for command in ([cmake, "-S", str(ROOT / "engines"), "-B", str(folder)],
                    [cmake, "--build", str(folder), "--target", "bidiff_ops", "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EngineError("the op library could not be built: "
                              + (done.stderr.strip().splitlines() or ["no reason given"])[-1])
    os.environ["BIDIFF_OPS_LIBRARY"] = str(next(folder.glob("libbidiff_ops.*")))
