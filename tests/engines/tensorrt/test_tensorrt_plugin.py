"""The TensorRT plugin without TensorRT: its core natively on the emulated GPU, and ``build-plugin``
with what a machine may lack. tools/tensorrt_headers.py does the rest, where there are headers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from bidiff_deploy.cli import group
from bidiff_deploy.engines.tensorrt.plugin import compile as tensorrt_build
from bidiff_deploy.engines.tensorrt.plugin import library as tensorrt_plugin
from bidiff_deploy.engines.tensorrt.plugin import sources as tensorrt_files
from bidiff_deploy.errors import EngineError, UsageError
from support import emulated_cuda, native
from support.waiting import HANG_SECONDS


@pytest.mark.parametrize("architecture", [75, 90, 120, 61])
def test_the_core_on_an_emulated_gpu(architecture: int, tmp_path: Path) -> None:
    emulated_cuda.stand_in()  # skips where nothing can be built
    done = subprocess.run(
        [str(native.built(native.PLUGIN) / "tensorrt_core_test"), "1", str(architecture)],
        capture_output=True, text=True, timeout=HANG_SECONDS, env={
            **os.environ, **emulated_cuda.variables(
                tmp_path, BIDIFF_EMULATED_GPUS=str(architecture))})
    if architecture == 61:  # says why it cannot run
        assert done.returncode == 1 and "7.5" in done.stdout
    else:
        assert done.returncode == 0, done.stdout + done.stderr


def write_headers(root: Path, version: str = "10.16.0", library: str | None = "libnvinfer.so.10",
                  style: str = "TRT_{}_ENTERPRISE", folder: str = "lib") -> Path:
    """The version of TensorRT's headers, nothing else of them, and a library."""
    include = root / "include"
    include.mkdir(parents=True)
    (include / "NvInfer.h").write_text("")
    (include / "NvInferVersion.h").write_text("".join(
        f"#define {style.format(part)} {number} //!< number.\n"
        for part, number in zip(("MAJOR", "MINOR", "PATCH"), version.split("."))))
    if library is not None:
        (root / folder).mkdir(parents=True)
        (root / folder / library).write_bytes(b"")
    return root


@pytest.mark.parametrize("style", ["NV_TENSORRT_{}", "TRT_{}_ENTERPRISE"])
def test_headers_and_library_are_found(tmp_path: Path, style: str) -> None:
    folder = "targets/x86_64-linux-gnu/lib"
    write_headers(tmp_path, "10.9.2", style=style, folder=folder)
    file = tmp_path / folder / "libnvinfer.so.10"
    found = tensorrt_files.find_tensorrt(tmp_path)
    assert found == tensorrt_files.TensorRt(tmp_path / "include", file, (10, 9, 2))
    assert found.text == "10.9.2"
    assert tensorrt_files.find_tensorrt(tmp_path / "include", file).library == file


@pytest.mark.parametrize(("version", "library", "named", "words"), [
    (None, None, None, "NvInfer.h"), ("8.4.3", "libnvinfer.so.8", None, "8.5 or newer"),
    ("x.y.z", "libnvinfer.so.8", None, "does not state a version"),
    ("11.1.0", "libnvinfer.so.10", None, "contains libnvinfer.so.11"),
    ("8.5.3", None, None, "contains libnvinfer.so.8"),
    ("10.9.2", "libnvinfer.so.8", "libnvinfer.so.8", "same major version"),
    ("10.9.2", None, "missing.so", "is not a file")])
def test_what_a_folder_lacks_is_said(tmp_path: Path, version: str | None, library: str | None,
                                     named: str | None, words: str) -> None:
    if version is not None:
        write_headers(tmp_path, version, library)
    with pytest.raises(EngineError, match=words):
        tensorrt_files.find_tensorrt(tmp_path, named and tmp_path / "lib" / named)
    with pytest.raises(EngineError, match="is not a folder"):
        tensorrt_files.find_tensorrt(tmp_path / "missing")


def write_cuda(include: Path) -> Path:
    (include / "crt").mkdir(parents=True)
    for name in ("cuda_runtime_api.h", "crt/host_defines.h"):
        (include / name).write_text("")
    return include


def test_headers_of_cuda(tmp_path: Path) -> None:
    include = write_cuda(tmp_path / "targets" / "x86_64-linux" / "include")
    assert tensorrt_files.find_cuda_include(tmp_path) == include
    (include / "crt" / "host_defines.h").unlink()
    with pytest.raises(EngineError, match="--cuda-root"):  # half of it is not enough
        tensorrt_files.find_cuda_include(tmp_path)


def test_architectures() -> None:
    for text, codes in (("none", ()), ("all", None), ("87,75", ("75", "87")), ("sm_90", ("90",))):
        assert tensorrt_build.choose_architectures(text) == codes
    for text in ("", "turing", "75;86", "7.5", "75,"):
        with pytest.raises(UsageError, match="75,87"):
            tensorrt_build.choose_architectures(text)


def test_what_build_plugin_cannot_do_is_said(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, no cmake, headers that do not compile, and a place for it that cannot be."""
    root, output = write_headers(tmp_path / "trt"), tmp_path / "out"

    def build(*options: str) -> str:
        done = CliRunner().invoke(group, ["build-plugin", "--tensorrt-root", str(root), *options])
        assert done.exit_code == 1 and done.stderr.startswith("error: "), done.output
        assert done.output.count("\n") == 1 and not output.exists()
        return done.stderr

    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler")
        assert "no-such-compiler" in build("-o", str(output))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda name, which=shutil.which, **where: (
            None if name == "cmake" else which(name, **where)))
        assert "pip install cmake" in build("-o", str(output))
    cuda = ("--cuda-root", str(write_cuda(tmp_path / "cuda")))
    (tmp_path / "data").write_text("in the way")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert build(*cuda).startswith("error: cannot ")
    emulated_cuda.stand_in()
    (root / "include" / "NvInferRuntime.h").write_text("#error half a header\n")
    told = build("-o", str(output), *cuda, "--architectures", "none")
    assert "cannot be built" in told and "half a header" in told


def test_a_plugin_that_hangs_when_it_is_loaded_is_said(tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_build, "_LOAD_SECONDS", 0.3)
    monkeypatch.setattr(tensorrt_build, "_LOAD", "import time; time.sleep(30)")
    found = tensorrt_files.TensorRt(tmp_path, tmp_path / "libnvinfer.so.10", (10, 3, 0))
    with pytest.raises(EngineError, match="takes more than 0.3 seconds"):
        tensorrt_build._load(tmp_path / "plugin.so", found)


def test_the_plugin_of_a_version_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("BIDIFF_TENSORRT_PLUGIN", raising=False)
    for minor, description in ((3, '{"tensorrt": "10.3.0"}'), (6, "{"),
                               (5, '{"tensorrt": "10.16.0"}')):  # moved there by hand
        folder = tensorrt_plugin.default_folder((10, minor))
        folder.mkdir(parents=True)
        (folder / "plugin.json").write_text(description)
        (folder / "libbidiff_tensorrt.so").write_bytes(b"")
    old = tensorrt_plugin.default_folder((10, 3)) / "libbidiff_tensorrt.so"
    assert tensorrt_plugin.find_plugin("10.3.0") == tensorrt_plugin.find_plugin("10.7.1.dev") == old
    for version in ("10.2.0", "11.0.0", "8.5.3.1"):
        with pytest.raises(EngineError, match="build-plugin"):
            tensorrt_plugin.find_plugin(version)
    with pytest.raises(EngineError, match="is not a version"):
        tensorrt_plugin.find_plugin("ten")
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(tmp_path / "missing.so"))
    with pytest.raises(EngineError, match="BIDIFF_TENSORRT_PLUGIN"):
        tensorrt_plugin.find_plugin("11.0.0")
    # One that the user names may be a link, as libraries in /usr/lib are.
    (tmp_path / "link.so").symlink_to(old)
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(tmp_path / "link.so"))
    assert tensorrt_plugin.find_plugin("11.0.0") == old


def test_a_library_that_is_no_plugin_or_could_be_anothers_is_not_loaded(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "libbidiff_tensorrt.so").write_bytes(b"no library")
    with pytest.raises(EngineError, match=r"cannot be loaded .\S.*build-plugin"):
        tensorrt_plugin.PluginLibrary(file)
    file.chmod(0o775)
    monkeypatch.setattr(tensorrt_plugin.ctypes, "CDLL", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(EngineError, match="cannot be loaded .other users may write it"):
        tensorrt_plugin.PluginLibrary(file)
