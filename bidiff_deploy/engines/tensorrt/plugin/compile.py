"""Build the TensorRT plugin from the package's sources: ``build-plugin``."""

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
from typing import Any

from ....errors import EngineError, UsageError
from ....files import atomic_directory, make_directory
from ....progress import Progress
from ...gpu.library import device_count, device_info
from .library import DESCRIPTION, LIBRARIES, default_folder
from .sources import TensorRt, find_cuda_include, find_tensorrt, plugin_source

__all__ = ["Built", "build_plugin", "choose_architectures"]

_LOG_LINES = 12
_LOAD_SECONDS = 300

# Run in another process: loading the library adds it to TensorRT's registry, and TensorRT may end
# the process.
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
    """A built plugin: its folder, its libraries, and the TensorRT and GPUs they were built for."""

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
        output: the folder to write; None: the one that engines read.
        cuda_root: a CUDA toolkit, for its headers; None: searched in the usual places.
        architectures: as for ``choose_architectures``.

    Raises:
        EngineError: headers, library, cmake or compiler are missing, or the plugin cannot be built
            or loaded.
        OutputError: the folder cannot be written, or exists and may not be replaced.
        UsageError: invalid architectures.
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
            shutil.copyfile(Path(build, name), target / name)
            (target / name).chmod(0o755)  # whatever the umask: PluginLibrary refuses others' files
        description = _load(target / LIBRARIES[0], tensorrt)
        (target / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n",
                                          encoding="utf-8")
        (target / DESCRIPTION).chmod(0o644)
    return Built(folder, tuple(folder / name for name in names), description["tensorrt"],
                 description["interface"], tuple(description["architectures"]))


def choose_architectures(text: str) -> tuple[str, ...] | None:
    """The GPU architectures whose machine code is embedded; None: the project's whole list.

    Args:
        text: ``auto`` (those of this machine's GPUs if nvcc is installed, else none), ``none``
            (NVRTC compiles at first use), ``all``, or numbers such as ``75,87``.
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
        raise EngineError("cmake, which builds the plugin, is not installed; pip install cmake")
    return found


def _find_compiler() -> str:
    named = os.environ.get("CXX")
    found = shutil.which(named) if named else next(
        (path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        what = f"CXX names {named}, which does not exist" if named else "no C++ compiler was found"
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
          *embed], "the build cannot be configured")


def _compile(cmake: str, build: Path, quiet: bool) -> None:
    failure, jobs = "the plugin cannot be built", ["--parallel", str(os.cpu_count() or 1)]
    # The part that unsuitable headers break comes first, the part that takes long second.
    _run([cmake, "--build", str(build), *jobs, "--target", "bidiff_tensorrt_adaptor"], failure)
    with Progress("building", 100, quiet=quiet) as progress:
        def show(line: str) -> None:
            if match := re.match(r"\[ *(\d+)%\] \w+ (?:\w+ ){1,2}(?:object )?(\S+)", line):
                progress.update(int(match[1]), Path(match[2]).name)
        _run([cmake, "--build", str(build), *jobs], failure, show)


def _load(file: Path, tensorrt: TensorRt) -> dict[str, Any]:
    """Load a built plugin in another process and return its description."""
    try:
        done = subprocess.run([sys.executable, "-c", _LOAD, str(file)], capture_output=True,
                              text=True, timeout=_LOAD_SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError(f"the plugin was built, but loading it with {tensorrt.library} takes "
                          f"more than {_LOAD_SECONDS} seconds; check that TensorRT itself works"
                          ) from None
    lines = done.stderr.strip().splitlines()
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        reason = lines[-1] if lines else f"the process ended with {done.returncode}"
        raise EngineError(f"the plugin was built, but cannot be loaded with {tensorrt.library} "
                          f"({reason}); check that TensorRT itself works") from None


def _run(command: list[str], failure: str, show: Callable[[str], None] | None = None) -> None:
    """Run a command and pass its lines to ``show``. Raises EngineError, which begins with
    ``failure``, if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "BIDIFF_CUDA"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=environment) as process:
        assert process.stdout is not None
        lines = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if show is not None:
                    show(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise EngineError(f"{failure}: {_reason(lines)}")


def _reason(lines: list[str]) -> str:
    """The line of cmake's or the compiler's output that gives the reason: our own sentence, else
    the first error, else the last lines."""
    for index, line in enumerate(lines):
        if line.strip().startswith("bidiff: "):
            # cmake wraps its message and ends it with an empty line.
            end = next((i for i in range(index, len(lines)) if not lines[i].strip()), len(lines))
            return " ".join(part.strip() for part in lines[index:end]).removeprefix("bidiff: ")
    errors = [line for line in lines if "error" in line.lower()]
    return errors[0].strip() if errors else " | ".join(lines[-_LOG_LINES:])
