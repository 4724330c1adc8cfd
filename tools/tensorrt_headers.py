"""Compiles the TensorRT plugin with the headers of many versions, and prints a table.

    python tools/tensorrt_headers.py FOLDER... [--interface v2|v3|auto|both] [--json FILE]

A FOLDER contains NvInfer.h, directly or in ``include``, as the folder ``include`` of
github.com/NVIDIA/TensorRT does at the tag of a version. TensorRT itself does not run: the plugin is
linked with a stand-in for libnvinfer.so that is compiled with the same headers. Through their
interface the plugin is then created, configured, serialised, cloned and enqueued, on the emulated
GPU. Needs cmake, a C++ compiler and cuda_runtime_api.h. Exit code 0 only if every version compiles,
links and passes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bidiff_deploy.engines.tensorrt.plugin.sources import (
    find_cuda_include,
    plugin_source,
    read_version,
)
from bidiff_deploy.errors import BidiffError
from bidiff_deploy.progress import Progress

NAMES = {"v2": "IPluginV2DynamicExt", "v3": "IPluginV3"}


@dataclass(frozen=True)
class Row:
    """The result for a version; ``why``: the first error."""

    version: str
    interface: str
    compiled: bool
    linked: bool
    passed: bool
    why: str


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its stderr is part of its stdout."""
    return subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, **variables})


def first_error(text: str) -> str:
    """The line that says why a build failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower() or "bidiff: " in line),
                lines[-1] if lines else "no output")


def must(done: subprocess.CompletedProcess[str], what: str) -> None:
    """End the tool if a part that all versions share does not build."""
    if done.returncode:
        raise SystemExit(f"error: {what} does not build: {first_error(done.stdout)}")


class Checker:
    """Builds in one folder: the emulated driver and the core once, the plugin for each version."""

    def __init__(self, folder: Path, cuda_include: Path, cases: int) -> None:
        self.folder, self.cuda_include, self.cases = folder, cuda_include, cases
        emulated = folder / "emulated"
        must(run("cmake", "-S", ROOT / "engines", "-B", emulated, BIDIFF_CUDA="OFF",
                 BIDIFF_NO_LIBRARY=""), "the op library")
        must(run("cmake", "--build", emulated, "--target", "bidiff_emulated_cuda"),
             "the emulated driver")
        self.driver = emulated / "libbidiff_emulated_cuda.so"
        core = folder / "core"
        must(run("cmake", "-S", plugin_source(), "-B", core, BIDIFF_CUDA="OFF"), "the core")
        must(run("cmake", "--build", core, "--target", "bidiff_tensorrt_core"), "the core")
        self.core = core / "libbidiff_tensorrt_core.a"

    def check(self, include: Path, version: str, interface: str) -> Row:
        """Check one version with one interface, ``v2`` or ``v3``."""
        build = self.folder / f"{version}-{interface}"
        name = NAMES[interface]
        done = run("cmake", "-S", plugin_source(), "-B", build, "-DBIDIFF_BUILD_TESTS=ON",
                   "-DCMAKE_BUILD_TYPE=None",  # unoptimised: this is not the time that counts
                   f"-DBIDIFF_TENSORRT_INCLUDE={include}",
                   f"-DBIDIFF_CUDA_INCLUDE={self.cuda_include}",
                   f"-DBIDIFF_TENSORRT_INTERFACE={interface}",
                   f"-DBIDIFF_TENSORRT_CORE={self.core}")
        if done.returncode:
            return Row(version, name, False, False, False, first_error(done.stdout))
        done = run("cmake", "--build", build, "--target", "bidiff_tensorrt_adaptor")
        if done.returncode:
            return Row(version, name, False, False, False, first_error(done.stdout))
        targets = ["bidiff_tensorrt", "tensorrt_adaptor_test"]
        has_dynamic = tuple(map(int, version.split(".")[:2])) >= (8, 6)
        if has_dynamic:
            targets.append("bidiff_tensorrt_dynamic")
        for target in targets:
            done = run("cmake", "--build", build, "--target", target)
            if done.returncode:
                return Row(version, name, True, False, False, first_error(done.stdout))
        dynamic = build / "libbidiff_tensorrt_dynamic.so" if has_dynamic else ""
        done = run(build / "tensorrt_adaptor_test", build / "libbidiff_tensorrt.so", dynamic,
                   self.cases, BIDIFF_LIBCUDA=str(self.driver), BIDIFF_NVRTC=str(self.driver),
                   XDG_CACHE_HOME=str(self.folder / "cache"), BIDIFF_CUDA_PATH="")
        passed = done.returncode == 0
        return Row(version, name, True, True, passed, "" if passed else first_error(done.stdout))


def jobs(folders: list[str], interface: str) -> list[tuple[Path, str, str]]:
    """Folder of headers, version and interface of every check, the oldest version first."""
    found = []
    for folder in folders:
        places = [place for place in (Path(folder, "include"), Path(folder))
                  if (place / "NvInfer.h").is_file()]
        if not places:
            raise SystemExit(f"error: {folder} has no NvInfer.h, nor has its folder include")
        version = read_version(places[0])
        newest = "v3" if version[0] >= 10 else "v2"
        wanted = {"both": ["v2", "v3"] if version[0] >= 10 else ["v2"],
                  "auto": [newest]}.get(interface, [interface])
        found += [(version, places[0].resolve(), name) for name in wanted]
    return [(place, ".".join(map(str, version)), name)
            for version, place, name in sorted(found, key=lambda job: (job[0], job[2]))]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="headers of one version")
    parser.add_argument("--interface", choices=["auto", "both", "v2", "v3"], default="auto",
                        help="auto: IPluginV3 from TensorRT 10 on, IPluginV2DynamicExt before")
    parser.add_argument("--cuda-root", help="CUDA toolkit, for its headers")
    parser.add_argument("--cases", type=int, default=2, help="nodes of each kind to run")
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    options = parser.parse_args()
    try:
        wanted = jobs(options.folders, options.interface)
        cuda_include = find_cuda_include(options.cuda_root)
    except BidiffError as error:
        raise SystemExit(f"error: {error}") from None
    rows = []
    with tempfile.TemporaryDirectory() as folder, \
            Progress("emulated driver", len(wanted) + 1) as progress:
        checker = Checker(Path(folder), cuda_include, options.cases)
        print(f"{'TensorRT':<12}{'interface':<22}{'compiled':<10}{'linked':<8}"
              "ran (stand-in, emulated)", flush=True)
        for index, (include, version, interface) in enumerate(wanted):
            progress.update(index + 1, f"TensorRT {version}")
            rows.append(row := checker.check(include, version, interface))
            progress.clear()
            words = ["yes" if done else "NO" for done in (row.compiled, row.linked, row.passed)]
            print(f"{row.version:<12}{row.interface:<22}{words[0]:<10}{words[1]:<8}{words[2]}"
                  + (f"  {row.why}" if row.why else ""), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n",
                                      encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
