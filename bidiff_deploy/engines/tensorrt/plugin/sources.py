"""The headers and libraries that the TensorRT plugin is built from.

NVIDIA ships TensorRT as an archive (``include/``, ``lib/``), as Debian packages (below ``/usr``)
and as wheels, which contain the libraries only.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ....errors import EngineError
from ..versions import MIN_VERSION

__all__ = ["TensorRt", "find_cuda_include", "find_tensorrt", "plugin_source"]

_MAX_HEADER_BYTES = 1 << 20
_PARTS = ("MAJOR", "MINOR", "PATCH")
_HEADERS_FROM = ("TensorRT's archive and Debian packages contain headers, its wheels do not: for a "
                 "wheel, use the folder include of github.com/NVIDIA/TensorRT at the tag of its "
                 "version")


@dataclass(frozen=True)
class TensorRt:
    """Headers of TensorRT and the library of the same major version."""

    include: Path
    library: Path
    version: tuple[int, int, int]

    @property
    def text(self) -> str:
        """``"10.16.0"``"""
        return ".".join(map(str, self.version))


def find_tensorrt(root: str | os.PathLike[str],
                  library: str | os.PathLike[str] | None = None) -> TensorRt:
    """TensorRT in a folder: an unpacked archive, ``/usr``, or a folder with headers only.

    Args:
        root: contains NvInfer.h, itself or in ``include``.
        library: libnvinfer.so; None: searched in ``root``, then in installed wheels.

    Raises:
        EngineError: no headers, a version before MIN_VERSION, or no library of that major version.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise EngineError(f"--tensorrt-root {folder} is not a folder; name the folder of the "
                          "unpacked archive, or /usr for Debian packages")
    include = next((place for place in _include_folders(folder)
                    if (place / "NvInfer.h").is_file()), None)
    if include is None:
        raise EngineError(f"neither {folder} nor its folder include contains NvInfer.h; "
                          f"{_HEADERS_FROM}")
    version = read_version(include)
    if version[:2] < MIN_VERSION:
        raise EngineError(f"{include} has TensorRT {'.'.join(map(str, version))}, but the plugin "
                          f"needs {'.'.join(map(str, MIN_VERSION))} or newer; name the folder of a "
                          "newer version")
    if library is not None:
        file = Path(library)
        if not file.is_file():
            raise EngineError(f"--library {file} is not a file; name libnvinfer.so of TensorRT "
                              f"{version[0]}")
        named = _major_of(file)
        if named is not None and named != version[0]:
            raise EngineError(f"{file} is TensorRT {named}'s, and the headers in {include} are of "
                              f"TensorRT {version[0]}; name a library of the same major version")
        return TensorRt(include, file.resolve(), version)
    for place in (*_library_folders(folder), *_wheel_folders()):
        if (found := _library_in(place, version[0])) is not None:
            return TensorRt(include, found.resolve(), version)
    raise EngineError(f"{folder} has headers of TensorRT {version[0]}.{version[1]}, but "
                      f"neither it nor an installed wheel contains libnvinfer.so.{version[0]} to "
                      f"link with; pip install tensorrt=={version[0]}.{version[1]}.*, or name the "
                      "file with --library")


def read_version(include: Path) -> tuple[int, int, int]:
    """Version of the headers in a folder. Raises EngineError if they do not state it."""
    file = include / "NvInferVersion.h"
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            text = stream.read(_MAX_HEADER_BYTES)
    except OSError as error:
        raise EngineError(f"{file} cannot be read ({error.strerror}); {_HEADERS_FROM}") from None
    # Since 10.15 the numbers are defined under other names.
    found = [re.search(rf"^#define (?:NV_TENSORRT|TRT)_{part}(?:_ENTERPRISE)? (\d{{1,4}})\b", text,
                       re.MULTILINE) for part in _PARTS]
    if not all(found):
        raise EngineError(f"{file} does not state a version of TensorRT; {_HEADERS_FROM}")
    major, minor, patch = (int(match[1]) for match in found if match)
    return major, minor, patch


def find_cuda_include(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder of cuda_runtime_api.h, which NvInfer.h includes.

    ``root``: a CUDA toolkit; None: searched in the places of toolkits, Debian packages and wheels.
    Raises EngineError if it is not found.
    """
    if root is not None:
        places = list(_include_folders(Path(root)))
    else:
        places = [place for toolkit in _toolkits() for place in _include_folders(toolkit)]
        places += [folder / name for folder in _packages("nvidia")
                   for name in ("cuda_runtime/include", "cu12/include", "cu13/include")]
    for place in places:
        # Some packages have the first header without the one that it includes.
        if all((place / name).is_file() for name in ("cuda_runtime_api.h", "crt/host_defines.h")):
            return place
    where = f"{root} does not contain it" if root is not None else "it was not found"
    raise EngineError(f"NvInfer.h includes cuda_runtime_api.h of CUDA, and {where}; install "
                      "NVIDIA's CUDA toolkit (Debian/Ubuntu: cuda-cudart-dev and cuda-crt of "
                      "NVIDIA's repository, or nvidia-cuda-dev), and name its folder with "
                      "--cuda-root")


def plugin_source() -> Path:
    """Folder of the plugin's CMakeLists.txt, in the source tree or in the installed package.

    Raises:
        EngineError: this installation does not contain the sources.
    """
    here = Path(__file__).resolve()
    for folder in (here.parents[4] / "engines" / "tensorrt",
                   here.parents[2] / "plugin_source" / "tensorrt"):
        if (folder / "CMakeLists.txt").is_file():
            return folder
    raise EngineError("this installation does not contain the sources of the TensorRT plugin; "
                      "reinstall the package with pip install --force-reinstall --no-deps "
                      "bidiff-deploy")


def _include_folders(root: Path) -> Iterator[Path]:
    yield from (root / "include", root)
    yield from sorted(root.glob("include/*-linux-gnu*"))
    yield from sorted(root.glob("targets/*/include"))


def _library_folders(root: Path) -> Iterator[Path]:
    yield from (root / "lib", root / "lib64", root)
    yield from sorted(root.glob("lib/*-linux-gnu*"))
    yield from sorted(root.glob("targets/*/lib"))


def _wheel_folders() -> Iterator[Path]:
    for name in ("tensorrt_libs", "tensorrt"):
        yield from _packages(name)


def _toolkits() -> Iterable[Path]:
    nvcc = shutil.which("nvcc")
    named = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda",
             str(Path(nvcc).resolve().parents[1]) if nvcc else None, "/usr"]
    return [Path(name) for name in named if name]


def _packages(name: str) -> list[Path]:
    """Folders of an installed package; it is not imported."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _major_of(library: Path) -> int | None:
    match = re.match(r"libnvinfer\.so\.(\d+)", library.resolve().name)
    return int(match[1]) if match else None


def _library_in(folder: Path, major: int) -> Path | None:
    for name in (f"libnvinfer.so.{major}", "libnvinfer.so"):
        file = folder / name
        if file.is_file() and _major_of(file) in (None, major):
            return file
    return next(iter(sorted(folder.glob(f"libnvinfer.so.{major}.*"))), None)
