"""The kernels on AArch64: cross-compiled, and run under user-mode emulation.

Emulation tells whether they are right, not how fast they are.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.native import ARM, built
from support.waiting import HANG_SECONDS

LIBRARIES = Path("/usr/aarch64-linux-gnu")  # of Debian's and Ubuntu's cross compiler


@pytest.fixture(scope="module")
def arm_build() -> Path:
    """The op library and its native tests for AArch64."""
    if not LIBRARIES.exists():
        pytest.skip(f"needs the C++ library for AArch64 in {LIBRARIES}")
    return built(ARM)


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run(["qemu-aarch64", "-L", str(LIBRARIES), program, *arguments],
                          capture_output=True, text=True, timeout=HANG_SECONDS)
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
