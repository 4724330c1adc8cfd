"""Compiles the GPU kernels for every architecture and prints their registers, spills and sizes.

    python tools/cuda_table.py [--architectures 75,90] [--units maps,conv_and] [--json FILE]

Run by ``make cuda``. Needs nvcc, from PATH, CUDACXX, CUDA_HOME or /usr/local/cuda, but no GPU.
Architectures and options are those of the library (engines/cmake/cuda_kernels.cmake). Exit code 0
only if everything compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bidiff_deploy.progress import Progress

ENGINES = ROOT / "engines"
DEVICE = ENGINES / "cuda" / "device"
_KERNEL = re.compile(r"Compiling entry function '(\w+)' for")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class Kernel:
    """A kernel compiled for an architecture: registers and spilled bytes of a thread."""

    name: str
    registers: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Compiled:
    """A unit compiled for an architecture; ``size``: bytes of the cubin."""

    architecture: str
    unit: str
    size: int
    kernels: tuple[Kernel, ...]


def find_nvcc() -> str | None:
    """Path of nvcc, or None."""
    if named := os.environ.get("CUDACXX"):
        return shutil.which(named)
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which("nvcc") or next(
        (found for home in homes if home and (found := shutil.which(f"{home}/bin/nvcc"))), None)


def settings() -> tuple[list[str], list[str]]:
    """Architectures and options of the library's own build."""
    text = (ENGINES / "cmake" / "cuda_kernels.cmake").read_text(encoding="utf-8")
    architectures = re.search(r'set\(BIDIFF_CUDA_ARCHITECTURES "([\d;]+)"', text)
    options = re.search(r"set\(bidiff_cuda_options ([^)]+)\)", text)
    if not architectures or not options:
        raise SystemExit("error: engines/cmake/cuda_kernels.cmake lists no architectures or "
                         "options")
    return architectures[1].split(";"), options[1].split()


def compile_unit(nvcc: str, unit: Path, architecture: str, options: list[str],
                 folder: Path) -> Compiled:
    """Compile one unit. Raises SystemExit with the compiler's first error."""
    cubin = folder / f"{unit.stem}-sm_{architecture}.cubin"
    done = subprocess.run([nvcc, "-cubin", f"-arch=sm_{architecture}", *options, "-Xptxas", "-v",
                           "-o", str(cubin), str(unit)], text=True, capture_output=True)
    output = done.stdout + done.stderr
    if done.returncode or not cubin.is_file():
        lines = [line for line in output.splitlines() if "error" in line] or output.splitlines()
        reason = lines[0] if lines else f"exit code {done.returncode}"
        raise SystemExit(f"error: {unit.name} does not compile for sm_{architecture}: {reason}")
    return Compiled(f"sm_{architecture}", unit.stem, cubin.stat().st_size,
                    tuple(kernels_of(output)))


def kernels_of(output: str) -> list[Kernel]:
    """The kernels in the output of ptxas -v."""
    found = []
    name, stores, loads = "", 0, 0
    for line in output.splitlines():
        if match := _KERNEL.search(line):
            name, stores, loads = match[1], 0, 0
        elif match := _SPILLS.search(line):
            stores, loads = int(match[2]), int(match[3])
        elif (match := _REGISTERS.search(line)) and name:
            found.append(Kernel(name, int(match[1]), stores, loads))
            name = ""
    return sorted(found, key=lambda kernel: kernel.name)


def table(compiled: list[Compiled]) -> str:
    """One line for each unit and architecture."""
    lines = [f"{'':7} {'unit':<10} {'kernels':>7} {'registers':>10} {'spilling':>8} "
             f"{'spilled bytes':>13} {'size':>9}"]
    for entry in compiled:
        registers = [kernel.registers for kernel in entry.kernels]
        spills = [kernel.spill_stores + kernel.spill_loads for kernel in entry.kernels]
        used = f"{min(registers)}-{max(registers)}" if registers else "-"
        lines.append(f"{entry.architecture:7} {entry.unit:<10} {len(registers):7} {used:>10} "
                     f"{sum(bool(spill) for spill in spills):8} {max(spills, default=0):13} "
                     f"{entry.size / 1024:5.0f} KiB")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architectures", help="such as 75,90; default: all")
    parser.add_argument("--units", help="such as maps,conv_and; default: all")
    parser.add_argument("--json", type=Path, help="also write every kernel's figures to this file")
    given = parser.parse_args(arguments)
    nvcc = find_nvcc()
    if nvcc is None:
        print("error: nvcc was not found; install NVIDIA's CUDA toolkit 12.8 or newer, or set "
              "CUDACXX (the library itself needs none: NVRTC compiles the kernels at first use)",
              file=sys.stderr)
        return 1
    architectures, options = settings()
    if given.architectures:
        architectures = given.architectures.split(",")
    units = sorted(DEVICE.glob("*.cu"))
    if given.units:
        units = [DEVICE / f"{name}.cu" for name in given.units.split(",")]
    jobs = [(unit, architecture) for architecture in architectures for unit in units]
    made: dict[tuple[str, str], Compiled] = {}
    with tempfile.TemporaryDirectory() as folder, Progress("nvcc", len(jobs)) as progress, \
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pending = [pool.submit(compile_unit, nvcc, unit, architecture, options, Path(folder))
                   for unit, architecture in jobs]
        try:
            for done in as_completed(pending):
                entry = done.result()
                made[entry.architecture, entry.unit] = entry
                progress.update(len(made), f"{entry.unit} for {entry.architecture}")
        finally:
            pool.shutdown(cancel_futures=True)
    ordered = [made[f"sm_{architecture}", unit.stem] for unit, architecture in jobs]
    print(table(ordered))
    if given.json:
        given.json.write_text(json.dumps([asdict(entry) for entry in ordered], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
