"""Names of TensorRT's versions, which the stand-in has, and no others; and the real Python bindings
over libraries whose functions return null (tensorrt_names.py): the committed table is theirs, and
the engines' code ends in a sentence on all that they refuse.

The bindings are one wheel of 1.3 MB, which the set-up installs (extra dev).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

from stand_ins import tensorrt as tensorrt_stand_in
from stand_ins.tensorrt import module
from support import tensorrt_names
from support.shared import Shared
from support.tensorrt_building import build, static
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "bidiff_deploy" / "engines" / "tensorrt"
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
    assert tensorrt_names.dump(bindings(), MODULE, stubs()) == tensorrt_names.tables()[VERSION]


# Opens TensorRT, and ends each command in its one sentence.
PROGRAM = """
import os, shlex
from bidiff_deploy.cli import group
from bidiff_deploy.engines.tensorrt.api import open_tensorrt

api = open_tensorrt()
assert isinstance(api.logger, api.trt.ILogger)
api.logger.log(api.trt.ILogger.Severity.ERROR, "told")
assert api.log.sentence("") == "told" and not api.weakly_typed and api.network_flags == 0
print(api.name, api.plugin().tensorrt, api.plugin().interface)
for words, changed in {}:
    os.environ.update(changed)
    try:
        group(shlex.split(words), prog_name="bidiff-deploy")
    except SystemExit as end:
        assert end.code == 1
"""


def test_what_the_bindings_refuse_is_one_sentence_each(tiny: Path, tmp_path: Path) -> None:
    """A builder and a runtime that are null, and a plugin that is not there."""
    plans = {"BIDIFF_TENSORRT_PLANS": str(tmp_path / "plans")}
    with tensorrt_stand_in.in_process(tmp_path / "made", VERSION, **plans):
        build(tiny, static(1, 16, 16))  # of the stand-in, which has the same version
    Image.new("RGB", (4, 4)).save(tmp_path / "in.png")
    command = f"build {tiny} --size 8x8"
    # ``tensorrt`` are the bindings, over stubs; GPU, plugin and data folder are the stand-in's.
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(
        f"from {MODULE} import *\nfrom {MODULE} import __version__\n")
    environment = tensorrt_stand_in.environment(tmp_path / "made", VERSION, **plans)
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(bindings())])
    environment["LD_LIBRARY_PATH"] += os.pathsep + str(stubs())
    done = subprocess.run([sys.executable, "-c", PROGRAM.format([
        (command, {}),
        (f"upscale {tiny} {tmp_path}/in.png -o {tmp_path}/out.png --backend tensorrt", {}),
        (command, {"BIDIFF_TENSORRT_PLUGIN": ""}),
        (command, {"BIDIFF_TENSORRT_PLUGIN": "/nowhere.so"})])],
        capture_output=True, text=True, timeout=HANG_SECONDS, env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert done.stdout.split() == [
        tensorrt_names.tables()[VERSION]["version"], VERSION, "IPluginV3"]
    builder, runtime, *missing = [
        line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "TensorRT 11.4.0" in builder and "builder" in builder and "nvidia-smi" in builder
    assert "runtime" in runtime and "nvidia-smi" in runtime
    assert "no plugin for TensorRT 11.4" in missing[0] and "/nowhere.so" in missing[1]
    assert len(missing) == 2 and all("build-plugin" in text for text in missing)
    assert not list((tmp_path / "plans").glob("*8x8*"))


def test_every_name_that_is_asked_for_is_some_versions() -> None:
    asked = {node.args[1].value for file in SOURCES.rglob("*.py") if "_driver" not in file.name
             for node in ast.walk(ast.parse(file.read_text()))
             if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr")
             and isinstance(node.args[1], ast.Constant)}
    known = {name for table in tensorrt_names.tables().values()
             for names in (table["module"], *table["classes"].values()) for name in names}
    # Others are of Python, of the engines' own, or of the plugin library.
    assert {name for name in asked if not name.startswith(("_", "bidiff_"))} <= known
    assert len(asked & known) > 5


def test_the_stand_in_has_the_names_of_a_version() -> None:
    for name, template in module.TEMPLATES.items():
        # One that is misspelt would be left out of every version, unnoticed.
        assert {entry for entry in vars(template) if not entry.startswith("_")} <= {
            entry for table in tensorrt_names.tables().values()
            for entry in table["classes"].get(name, [])}, name
    for version, there in (("8.5.3", False), ("10.3.0", True)):
        trt = module.make(version)
        config = trt.IBuilderConfig.__new__(trt.IBuilderConfig)
        assert hasattr(trt, "IProgressMonitor") == there == hasattr(config, "progress_monitor")
        with nullcontext() if there else pytest.raises(AttributeError):
            config.progress_monitor = None
        # What it has not yet is no reason to take the version for another one.
        for owner, name in ((trt, "Refitter"), (config, "reset")):
            with pytest.raises(NotImplementedError):
                hasattr(owner, name)
