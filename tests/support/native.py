"""Programs and libraries of C++ that tests run, and the GPU's machine code that they look into:
built once for all workers, kept in build/.

    python -m support.native    builds all of them, as `make test` does before the tests
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bidiff_deploy.engines import library
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    """A folder of build/, its CMake project in engines/, options, and the programs it needs, each
    with the package that has it."""

    folder: str
    source: str = "."
    options: tuple[str, ...] = ()
    programs: tuple[tuple[str, str], ...] = (("c++", "g++"),)

    def missing(self) -> str | None:
        """What has to be installed before this can be built."""
        for program, package in self.programs:
            if not shutil.which(program):
                return f"needs {program} on PATH (apt-get install {package})"
        return None if cmake() else "needs cmake on PATH (pip install cmake)"


HOST = Project("native", options=("-DBIDIFF_BUILD_TESTS=ON",))
PLUGIN = Project("tensorrt_core", "tensorrt", (
    "-DBIDIFF_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1"))
ARM = Project("arm", options=(
    "-DBIDIFF_BUILD_TESTS=ON", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"),
    programs=(("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user")))
CUDA_TARGETS = ("bidiff_emulated_cuda", "cuda_emulation_test", "cuda_kernels_test",
                "cuda_plan_test")


def cmake() -> str | None:
    return shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))


@functools.cache
def built(project: Project, target: str = "all") -> Path:
    """Folder in which the target is built, without a warning; skips the test where it cannot be."""
    if (missing := project.missing()) is not None:
        pytest.skip(missing)
    folder = ROOT / "build" / project.folder
    configure = [cmake(), "-S", ROOT / "engines" / project.source, "-B", folder,
                 "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON", *project.options]
    build = [cmake(), "--build", folder, "--target", target, "--parallel", "2"]
    # Asking make whether it is up to date takes half a second a target.
    state, of_target = f"{_sources()} {configure}", folder / f"{target}.built"
    with locked(folder):
        if of_target.exists() and of_target.read_text() == state:
            return folder
        for other in folder.glob("*.built"):  # what is built now may change what they share
            if other.read_text() != state:
                other.unlink()
        for command in (configure, build):
            done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS,
                                  env={**os.environ, "BIDIFF_NO_LIBRARY": "", "BIDIFF_CUDA": "OFF"})
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning:" not in done.stderr, done.stderr
        of_target.write_text(state)
    return folder


@functools.cache
def _sources() -> str:
    """Differs for other sources of C++."""
    found = hashlib.sha256()
    for file in sorted(path for path in (ROOT / "engines").rglob("*") if path.is_file()):
        found.update(f"{file.relative_to(ROOT)}\0{file.stat().st_size}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in ``folder``, which is made, among all processes that ask for it this way."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    print("building the C++ programs that tests run", flush=True)
    targets = [(HOST, "all"), *((HOST, name) for name in CUDA_TARGETS), (PLUGIN, "all"),
               (ARM, "all")]
    for project, target in targets:
        if project.missing() is None:
            built(project, target)
    from support import nvrtc_units

    if (compiler := nvrtc_units.nvrtc()) and library.library_path():
        for architecture, unit in nvrtc_units.UNITS:
            nvrtc_units.compiled(architecture, unit, compiler)


if __name__ == "__main__":
    main()
