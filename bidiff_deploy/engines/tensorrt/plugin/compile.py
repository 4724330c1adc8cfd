"""Build the TensorRT plugin from the sources that come with the package: ``build-plugin``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ....errors import EngineError, UsageError
from ....files import atomic_directory, make_directory
from ....progress import Progress
from ...gpu.library import device_count, device_info
from .library import DESCRIPTION, LIBRARIES, default_folder
from .sources import TensorRt, find_cuda_include, find_tensorrt, plugin_source

__all__ = ["Built", "build_plugin", "choose_architectures"]

_LOG_LINES = 12
_LOAD_SECONDS = 300

# Run apart: the library enters TensorRT's registry by being loaded, and TensorRT ends the process
# where it does not like its surroundings.
_LOAD = """
import ctypes, json, sys
library = ctypes.CDLL(sys.argv[1])
for name in ("version", "interface", "embedded"):
    getattr(library, "bidiff_tensorrt_" + name).restype = ctypes.c_char_p
print(json.dumps({"tensorrt": library.bidiff_tensorrt_version().decode(),
                  "interface": library.bidiff_tensorrt_interface().decode(),
                  "architectures": library.bidiff_tensorrt_embedded().decode().split(),
                  "layout": library.bidiff_tensorrt_layout(),
                  "abi": library.bidiff_tensorrt_abi_version()}))
"""


@dataclass(frozen=True)
class Built:
    """A finished plugin: its folder, its libraries, and what they were built for."""

    folder: Path
    libraries: tuple[Path, ...]
    tensorrt: str
    interface: str
    architectures: tuple[str, ...]


def build_plugin(root: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *,
                 library: str | os.PathLike[str] | None = None,
                 cuda_root: str | os.PathLike[str] | None = None, architectures: str = "auto",
                 overwrite: bool = False, quiet: bool = False) -> Built:
    """Compile and link the plugin for the TensorRT in a folder, and load it once.

    Args:
        root, library: as for ``find_tensorrt``.
        output: the folder to write; None for the one where the engine looks.
        cuda_root: a CUDA toolkit, for its headers; None looks around.
        architectures: as for ``choose_architectures``.

    Raises:
        EngineError: headers, library, cmake or compiler are missing, or it does not build or load.
        OutputError: the folder can not be written, or exists and may not be replaced.
        UsageError: architectures that are none.
    """
    source = plugin_source()
    cmake, compiler = _find_cmake(), _find_compiler()
    tensorrt = find_tensorrt(root, library)
    cuda_include = find_cuda_include(cuda_root)
    codes = choose_architectures(architectures)
    folder = default_folder(tensorrt.version) if output is None else Path(output)
    if output is None:
        make_directory(folder.parent)
    with atomic_directory(folder, overwrite, marker=DESCRIPTION) as target, \
            tempfile.TemporaryDirectory() as build:
        _configure(cmake, compiler, source, Path(build), tensorrt, cuda_include, codes)
        _compile(cmake, Path(build), quiet)
        names = [name for name in LIBRARIES if Path(build, name).is_file()]
        for name in names:
            shutil.copy2(Path(build, name), target / name)
        told = _load(target / LIBRARIES[0], tensorrt)
        (target / DESCRIPTION).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return Built(folder, tuple(folder / name for name in names), told["tensorrt"],
                 told["interface"], tuple(told["architectures"]))


def choose_architectures(text: str) -> tuple[str, ...] | None:
    """GPU architectures whose machine code is embedded; None for the project's whole list.

    Args:
        text: ``auto`` (those of the GPUs here if nvcc is, else none), ``none`` (NVRTC compiles at
            first use), ``all``, or numbers such as ``75,87``.
    """
    word = text.strip().lower()
    if word == "none":
        return ()
    if word == "all":
        return None
    if word == "auto":
        return _own_architectures() if _has_nvcc() else ()
    codes = [part.strip().removeprefix("sm_") for part in word.split(",")]
    if not all(re.fullmatch(r"\d{2,3}", code) for code in codes):
        raise UsageError(f"--architectures {text!r} must be auto, none, all, or numbers such as "
                         "75,87")
    return tuple(sorted(set(codes), key=int))


def _own_architectures() -> tuple[str, ...]:
    try:
        found = {device_info(ordinal).architecture for ordinal in range(device_count())}
    except EngineError:
        return ()
    return tuple(str(number) for number in sorted(found) if number >= 75)


def _has_nvcc() -> bool:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return bool(shutil.which(os.environ.get("CUDACXX") or "nvcc")
                or any(home and shutil.which(f"{home}/bin/nvcc") for home in homes))


def _find_cmake() -> str:
    found = shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))
    if found is None:
        raise EngineError("the plugin is built by cmake, which is not installed; pip install cmake")
    return found


def _find_compiler() -> str:
    named = os.environ.get("CXX")
    found = shutil.which(named) if named else next(
        (path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        what = f"CXX names {named}, which is not there" if named else "no C++ compiler was found"
        raise EngineError(f"{what}; install one (Debian/Ubuntu: apt-get install g++, Fedora: dnf "
                          "install gcc-c++)")
    return found


def _configure(cmake: str, compiler: str, source: Path, build: Path, tensorrt: TensorRt,
               cuda_include: Path, codes: tuple[str, ...] | None) -> None:
    embed = [f"-DBIDIFF_CUDA={'OFF' if codes == () else 'ON'}"]
    if codes:
        embed.append(f"-DBIDIFF_CUDA_ARCHITECTURES={';'.join(codes)}")
    _run([cmake, "-S", str(source), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release",
          f"-DCMAKE_CXX_COMPILER={compiler}", f"-DBIDIFF_TENSORRT_INCLUDE={tensorrt.include}",
          f"-DBIDIFF_TENSORRT_LIBRARY={tensorrt.library}", f"-DBIDIFF_CUDA_INCLUDE={cuda_include}",
          *embed], "the build can not be set up")


def _compile(cmake: str, build: Path, quiet: bool) -> None:
    failure, jobs = "the plugin does not build", ["--parallel", str(os.cpu_count() or 1)]
    # First what headers can spoil, then what takes long.
    _run([cmake, "--build", str(build), *jobs, "--target", "bidiff_tensorrt_adaptor"], failure)
    with Progress("building", 100, quiet=quiet) as progress:
        def told(line: str) -> None:
            if match := re.match(r"\[ *(\d+)%\] \w+ (?:\w+ ){1,2}(?:object )?(\S+)", line):
                progress.update(int(match[1]), Path(match[2]).name)
        _run([cmake, "--build", str(build), *jobs], failure, told)


def _load(file: Path, tensorrt: TensorRt) -> dict[str, object]:
    try:
        done = subprocess.run([sys.executable, "-c", _LOAD, str(file)], capture_output=True,
                              text=True, timeout=_LOAD_SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError(f"the plugin was built, but to load it with {tensorrt.library} takes "
                          f"more than {_LOAD_SECONDS} seconds; see whether TensorRT itself runs"
                          ) from None
    lines = done.stderr.strip().splitlines()
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        reason = lines[-1] if lines else f"the process ended with {done.returncode}"
        raise EngineError(f"the plugin was built, but it can not be loaded with {tensorrt.library} "
                          f"({reason}); see whether TensorRT itself runs") from None


def _run(command: list[str], failure: str, told: Callable[[str], None] | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "BIDIFF_CUDA"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=environment) as process:
        assert process.stdout is not None
        lines = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if told is not None:
                    told(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise EngineError(f"{failure}: {_reason(lines)}")


def _reason(lines: list[str]) -> str:
    """What of cmake's or the compiler's words says why: our own sentence, the first error, or the
    end."""
    for index, line in enumerate(lines):
        if line.strip().startswith("bidiff: "):
            # cmake wraps what it prints, and ends it with an empty line.
            end = next((i for i in range(index, len(lines)) if not lines[i].strip()), len(lines))
            return " ".join(part.strip() for part in lines[index:end]).removeprefix("bidiff: ")
    errors = [line for line in lines if "error" in line.lower()]
    return errors[0].strip() if errors else " | ".join(lines[-_LOG_LINES:])
