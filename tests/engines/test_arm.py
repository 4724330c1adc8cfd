"""The kernels on AArch64: cross-compiled, and run under user-mode emulation of CPUs with and
without ARM's dot product and bfloat16.

Emulation tells whether they are right, not how fast they are.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

from support.native import ARM, built
from support.waiting import HANG_SECONDS

LIBRARIES = Path("/usr/aarch64-linux-gnu")  # of Debian's and Ubuntu's cross compiler
# The CPUs' names in qemu: with all instructions that it knows, dot product alone, and neither.
ALL, DOT_PRODUCT, PLAIN = "max", "cortex-a76", "cortex-a72"
KERNELS = {ALL: "neondotprod neon", PLAIN: "neon"}
# What a kernel's file alone may contain, and the files.
INSTRUCTIONS = {"udot": ("neondotprod",), "bfmmla": ("neonbf16",), "bfcvtn": ("neonbf16",)}


@pytest.fixture(scope="module")
def arm_build() -> Path:
    """The op library and its native tests for AArch64."""
    if not LIBRARIES.exists():
        pytest.skip(f"needs the C++ library for AArch64 in {LIBRARIES}")
    return built(ARM)


@functools.cache
def lacking() -> str:
    """Why instructions beyond ARMv8.0 cannot be tested here; empty if they can.

    Of a compiler that knows them, CMake must find that it does.
    """
    version = subprocess.run(["aarch64-linux-gnu-g++", "-dumpversion"], capture_output=True,
                             text=True, check=True).stdout
    if int(version.partition(".")[0]) < 10:
        return "needs g++-aarch64-linux-gnu 10 or newer, which knows ARM's bfloat16"
    known = subprocess.run(["qemu-aarch64", "-cpu", "help"],  # exits with 1
                           capture_output=True, text=True).stdout
    return "" if DOT_PRODUCT in known else f"needs qemu-user 7.1 or newer, which has {DOT_PRODUCT}"


@pytest.fixture(scope="module")
def best() -> str:
    """The CPU with most instructions that can be tested here."""
    return PLAIN if lacking() else ALL


def run(program: Path, cpu: str = ALL, kernel: str = "", failing: bool = False) -> str:
    """Output of the program on that CPU, where BIDIFF_KERNEL is ``kernel``."""
    if cpu != PLAIN and lacking():
        pytest.skip(lacking())
    done = subprocess.run(["qemu-aarch64", "-cpu", cpu, "-E", f"BIDIFF_KERNEL={kernel}", "-L",
                           str(LIBRARIES), program],
                          capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == int(failing), done.stdout + done.stderr
    return done.stdout


def test_binary_kernels_equal_portable_to_the_bit(arm_build, best):
    output = run(arm_build / "binary_kernels_test", best)
    assert output.startswith(f"kernels: {KERNELS[best]} portable\n")
    assert " 0 failures" in output


@pytest.mark.parametrize("cpu", [ALL, PLAIN])
def test_scaled_kernels_equal_portable_to_the_bit(arm_build, cpu):
    output = run(arm_build / "scaled_kernels_test", cpu)
    assert output.startswith(f"kernels: {KERNELS[cpu]} portable\n")
    assert " 0 failures" in output


def test_float_kernels_against_double(arm_build, best):
    output = run(arm_build / "float_kernels_test", best)
    assert output.endswith("\n0 failures\n")
    rounded = [line.split()[:2] for line in output.splitlines() if "bfloat16" in line]
    assert rounded == ([["neonbf16", "conv3x3"], ["neonbf16", "pointwise"],
                        ["neonbf16", "attention"]] if best == ALL else [])


@pytest.mark.parametrize("cpu, kernel, selected", [
    (ALL, "", "neondotprod neonbf16 1"), (DOT_PRODUCT, "", "neondotprod portable 0"),
    (PLAIN, "", "neon portable 0"), (ALL, "neon", "neon portable 0"),
    (ALL, "portable", "portable portable 0")])
def test_the_best_kernel_of_a_cpu_is_selected(arm_build, cpu, kernel, selected):
    assert run(arm_build / "selected_kernels", cpu, kernel) == f"{selected}\n"


def test_a_kernel_that_the_cpu_lacks_is_refused(arm_build):
    if lacking():
        pytest.skip(lacking())
    refusal = run(arm_build / "selected_kernels", PLAIN, "neondotprod", failing=True)
    assert refusal == ("BIDIFF_KERNEL: kernel 'neondotprod' cannot be used because this CPU lacks "
                       "the dot product instructions of ARMv8.2; choose one of neon, portable\n")


def test_no_instruction_set_leaks_into_what_every_cpu_runs(arm_build):
    if lacking():
        pytest.skip(lacking())
    objects = [path for path in arm_build.rglob("*.o") if "bidiff_" in str(path.parent)]
    seen = set()
    for path in objects:
        code = subprocess.run(["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", path],
                              capture_output=True, text=True, check=True).stdout
        for instruction, files in INSTRUCTIONS.items():
            if f"\t{instruction}\t" in code:
                seen.add(instruction)
                assert any(name in str(path) for name in files), (path, instruction)
        if any(name in str(path) for files in INSTRUCTIONS.values() for name in files):
            listed = subprocess.run(["aarch64-linux-gnu-nm", path], capture_output=True, text=True,
                                    check=True).stdout
            assert not {line.split()[-2] for line in listed.splitlines()} & set("WVu"), path
    assert seen == set(INSTRUCTIONS)


def test_the_library_exports_what_hosts_look_up(arm_build):
    listed = subprocess.run(["aarch64-linux-gnu-nm", "-D", "--defined-only",
                             arm_build / "libbidiff_ops.so"],
                            capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    assert {"RegisterCustomOps", "bidiff_kernel_name", "bidiff_binary_conv"} <= names
