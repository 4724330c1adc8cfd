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
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[3]
VERSION = "11.4.0"
PACKAGE = "tensorrt-cu13-bindings"
MODULE = "tensorrt_bindings"


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


def real(code: str, folder: Path, *arguments: str, over: Path | None = None,
         **changed: str) -> subprocess.CompletedProcess[str]:
    """``code`` where ``tensorrt`` are the bindings, over stubs or what else is in a folder; GPU,
    plugin and data folder are the stand-in's."""
    package = folder / "site" / "tensorrt"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(
        f"from {MODULE} import *\nfrom {MODULE} import __version__\n")
    environment = tensorrt_stand_in.environment(folder, VERSION, **changed)
    environment["PYTHONPATH"] = os.pathsep.join([str(package.parent), str(bindings())])
    environment["LD_LIBRARY_PATH"] += os.pathsep + str(over or stubs())
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True,
                          timeout=HANG_SECONDS, env=environment)


COMMAND = """
import sys
from bidiff_deploy.cli import main
sys.argv[0] = "bidiff-deploy"
main()
"""


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that failed."""
    assert done.returncode == 1 and not done.stdout, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert lines and lines[-1].startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1]


@pytest.fixture(scope="module")
def bundle(reference) -> str:
    return str(reference.bundle("tiny", (7, 3)))


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


def test_a_builder_that_is_null(bundle: str, tmp_path: Path) -> None:
    told = refusal(real(COMMAND, tmp_path, "build", bundle, "--size", "16x16"))
    assert "TensorRT 11.4.0" in told and "builder" in told and "nvidia-smi" in told
    assert not list((tmp_path / "data").rglob("*.plan"))


def test_a_runtime_that_is_null(bundle: str, tmp_path: Path) -> None:
    """The plan is the stand-in's, which has the same version."""
    plans = {"BIDIFF_TENSORRT_PLANS": str(tmp_path / "plans")}
    done = tensorrt_stand_in.run(COMMAND, tmp_path, "build", bundle, "--size", "16x16",
                                 version=VERSION, **plans)
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "in.png"
    Image.new("RGB", (4, 4)).save(picture)
    told = refusal(real(COMMAND, tmp_path, "upscale", bundle, str(picture), "-o",
                        str(tmp_path / "out.png"), "--backend", "tensorrt", **plans))
    assert "runtime" in told and "nvidia-smi" in told


@pytest.mark.parametrize(("changed", "words"), [
    ({"BIDIFF_TENSORRT_PLUGIN": ""}, ["no plugin for TensorRT 11.4", "build-plugin"]),
    ({"BIDIFF_TENSORRT_PLUGIN": "/nowhere.so"}, ["/nowhere.so", "build-plugin"]),
], ids=["none", "no file"])
def test_a_plugin_that_is_not_there(bundle: str, tmp_path: Path, changed: dict[str, str],
                                    words: list[str]) -> None:
    told = refusal(real(COMMAND, tmp_path, "build", bundle, "--size", "16x16", **changed))
    assert all(word in told for word in words), told


def test_a_plugin_of_another_major_version(bundle: str, tmp_path: Path) -> None:
    """Which needs a libnvinfer.so that is not there."""
    stubs()
    file = tmp_path / "libbidiff_tensorrt.so"
    for source, name, flags in (("", "libnvinfer.so.10", ["-Wl,-soname,libnvinfer.so.10"]),
                                ('extern "C" int bidiff_tensorrt_abi_version() { return 1; }',
                                 file.name, ["-Wl,--no-as-needed", "-L.", "-l:libnvinfer.so.10"])):
        subprocess.run(["c++", "-shared", "-fPIC", "-x", "c++", "-", "-o", name, *flags],
                       input=source, text=True, check=True, cwd=tmp_path)
    told = refusal(real(COMMAND, tmp_path, "build", bundle, "--size", "16x16",
                        BIDIFF_TENSORRT_PLUGIN=str(file)))
    assert all(word in told for word in (str(file), "libnvinfer.so.10", "build-plugin")), told


def test_libraries_that_are_missing(bundle: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = refusal(real(COMMAND, tmp_path, "build", bundle, "--size", "16x16",
                        over=tmp_path / "empty"))
    assert "cannot be loaded" in told and ".so.11" in told and "LD_LIBRARY_PATH" in told
