"""TensorRT's real Python bindings over libraries whose functions return null (tensorrt_names.py):
the committed table is theirs, and the engines' code ends in a sentence on all that they refuse.

The bindings are one wheel of 1.3 MB, which the set-up installs (extra dev).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from stand_ins import tensorrt as tensorrt_stand_in
from support import tensorrt_names
from support.shared import Shared
from support.tensorrt_building import build, static
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[3]
VERSION = "11.4.0"
PACKAGE, MODULE = "tensorrt-cu13-bindings", "tensorrt_bindings"


def bindings() -> Path:
    """Folder that the bindings are installed in; skips where they are not."""
    found = importlib.util.find_spec(MODULE)
    if found is None or found.origin is None:
        pytest.skip(f"pip install --no-deps {PACKAGE}=={VERSION}.*")
    installed = importlib.metadata.version(PACKAGE)
    assert installed.startswith(f"{VERSION}."), f"{PACKAGE} {installed} is not of {VERSION}"
    return Path(found.origin).parents[1]


@functools.cache
def stubs() -> Path:
    tensorrt_stand_in.plugin()  # skips where nothing can be compiled
    library = bindings() / MODULE / "tensorrt.so"
    made_of = library.read_bytes() + Path(tensorrt_names.__file__).read_bytes()
    return Shared(ROOT / "build" / "tensorrt_stubs")(
        hashlib.sha256(made_of).hexdigest()[:16],
        lambda folder: tensorrt_names.write_stubs(library, folder))


def test_the_committed_table_is_that_of_the_bindings() -> None:
    assert tensorrt_names.dump(bindings(), MODULE, stubs()) == tensorrt_names.table(VERSION)


def real(code: str, folder: Path, over: Path | None = None,
         **changed: str) -> subprocess.CompletedProcess[str]:
    """``code`` where ``tensorrt`` are the bindings, over stubs or what else is in a folder; GPU,
    plugin and data folder are the stand-in's."""
    package = folder / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"from {MODULE} import *\nfrom {MODULE} import __version__\n")
    environment = tensorrt_stand_in.environment(folder, VERSION, **changed)
    environment["PYTHONPATH"] = os.pathsep.join([str(package.parent), str(bindings())])
    environment["LD_LIBRARY_PATH"] += os.pathsep + str(over or stubs())
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=HANG_SECONDS, env=environment)


COMMAND = """
import os, shlex, sys
from bidiff_deploy.cli import group
for words, changed in {}:
    os.environ.update(changed)
    try:
        group(shlex.split(words), prog_name="bidiff-deploy")
    except SystemExit as end:
        assert end.code == 1
"""


def refusals(folder: Path, *commands: tuple[str, dict[str, str]], **options) -> list[str]:
    """The one sentence of each command, all of which fail, in one process."""
    done = real(COMMAND.format(commands), folder, **options)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(commands), done.stderr
    return lines


def test_tensorrt_is_opened(tmp_path: Path) -> None:
    done = real("""
from bidiff_deploy.engines.tensorrt.api import open_tensorrt
api = open_tensorrt()
assert isinstance(api.logger, api.trt.ILogger)
api.logger.log(api.trt.ILogger.Severity.ERROR, "told")
assert api.log.sentence("") == "told" and not api.weakly_typed and api.network_flags == 0
library = api.plugin()
print(api.name, library.tensorrt, library.interface)
""", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [tensorrt_names.table(VERSION)["version"], VERSION, "IPluginV3"]


def test_a_builder_and_a_runtime_that_are_null_and_plugins_that_are_not_there(
        tiny: Path, tmp_path: Path) -> None:
    plans = {"BIDIFF_TENSORRT_PLANS": str(tmp_path / "plans")}
    with tensorrt_stand_in.in_process(tmp_path / "made", VERSION, **plans):
        build(tiny, static(1, 16, 16))  # of the stand-in, which has the same version
    picture, command = tmp_path / "in.png", f"build {tiny} --size 8x8"
    Image.new("RGB", (4, 4)).save(picture)
    builder, runtime, *missing = refusals(
        tmp_path, (command, plans),
        (f"upscale {tiny} {picture} -o {tmp_path}/out.png --backend tensorrt", plans),
        (command, {"BIDIFF_TENSORRT_PLUGIN": ""}),
        (command, {"BIDIFF_TENSORRT_PLUGIN": "/nowhere.so"}))
    assert "TensorRT 11.4.0" in builder and "builder" in builder and "nvidia-smi" in builder
    assert "runtime" in runtime and "nvidia-smi" in runtime
    assert "no plugin for TensorRT 11.4" in missing[0] and "/nowhere.so" in missing[1]
    assert all("build-plugin" in text for text in missing)
    assert not list((tmp_path / "plans").glob("*8x8*"))


def test_a_plugin_of_another_major_version(tiny: Path, tmp_path: Path) -> None:
    """Which needs a libnvinfer.so that is not there."""
    stubs()
    file = tmp_path / "libbidiff_tensorrt.so"
    for source, name, flags in (("", "libnvinfer.so.10", ["-Wl,-soname,libnvinfer.so.10"]),
                                ('extern "C" int bidiff_tensorrt_abi_version() { return 1; }',
                                 file.name, ["-Wl,--no-as-needed", "-L.", "-l:libnvinfer.so.10"])):
        subprocess.run(["c++", "-shared", "-fPIC", "-x", "c++", "-", "-o", name, *flags],
                       input=source, text=True, check=True, cwd=tmp_path)
    told, = refusals(tmp_path, (f"build {tiny} --size 16x16", {}),
                     BIDIFF_TENSORRT_PLUGIN=str(file))
    assert all(word in told for word in (str(file), "libnvinfer.so.10", "build-plugin")), told


def test_libraries_that_are_missing(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told, = refusals(tmp_path, (f"build {tiny} --size 16x16", {}), over=tmp_path / "empty")
    assert "cannot be loaded" in told and ".so.11" in told and "LD_LIBRARY_PATH" in told
