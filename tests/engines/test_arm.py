"""The kernels on AArch64: cross-compiled, and run under user-mode emulation.

Emulation tells whether they are right, not how fast they are.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LIBRARIES = Path("/usr/aarch64-linux-gnu")  # of Debian's and Ubuntu's cross compiler


@pytest.fixture(scope="module")
def arm_build(tmp_path_factory) -> Path:
    """The op library and its native tests for AArch64."""
    for program, package in ((COMPILER, "g++-aarch64-linux-gnu"), (EMULATOR, "qemu-user"),
                             ("cmake", "cmake")):
        if not shutil.which(program):
            pytest.skip(f"needs {program} on PATH (apt-get install {package})")
    if not LIBRARIES.exists():
        pytest.skip(f"needs the C++ library for AArch64 in {LIBRARIES}")
    folder = tmp_path_factory.mktemp("arm")
    subprocess.run(["cmake", "-S", str(ROOT / "engines"), "-B", str(folder),
                    "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
                    f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DBIDIFF_BUILD_TESTS=ON",
                    "-DBIDIFF_CUDA=OFF"],
                   check=True, capture_output=True, timeout=60)
    built = subprocess.run(["cmake", "--build", str(folder), "--parallel", "2"],
                           capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning:" not in built.stderr
    return folder


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run([EMULATOR, "-L", str(LIBRARIES), program, *arguments],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_neon_equals_portable_to_the_bit(arm_build):
    output = run(arm_build / "binary_kernels_test")
    assert output.startswith("kernels: neon portable\n")
    assert " 0 failures" in output


def test_float_kernels_against_double(arm_build):
    assert run(arm_build / "float_kernels_test").endswith("\n0 failures\n")


def test_the_library_exports_what_hosts_look_up(arm_build):
    listed = subprocess.run(["aarch64-linux-gnu-nm", "-D", "--defined-only",
                             arm_build / "libbidiff_ops.so"],
                            capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    assert {"RegisterCustomOps", "bidiff_kernel_name", "bidiff_binary_conv"} <= names
