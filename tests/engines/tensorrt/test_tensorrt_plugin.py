"""The TensorRT plugin without TensorRT: its core natively on the emulated GPU, and ``build-plugin``
with what a machine may lack. tools/tensorrt_headers.py does the rest, where there are headers."""

from __future__ import annotations

import json
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


@pytest.fixture(scope="module")
def core_test() -> Path:
    """The native test of the core."""
    emulated_cuda.stand_in()  # skips where nothing can be built
    return native.built(native.PLUGIN) / "tensorrt_core_test"


@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_the_core_on_an_emulated_gpu(core_test: Path, architecture: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(core_test), "2", str(architecture)], capture_output=True, text=True,
        timeout=HANG_SECONDS, env={**os.environ, **emulated_cuda.variables(
            tmp_path, BIDIFF_EMULATED_GPUS=str(architecture))})
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_core_says_why_it_cannot_run(core_test: Path, tmp_path: Path) -> None:
    done = subprocess.run([str(core_test)], capture_output=True, text=True, timeout=HANG_SECONDS,
                          env={**os.environ, **emulated_cuda.variables(
                              tmp_path, BIDIFF_EMULATED_GPUS="61")})
    assert done.returncode == 1 and "7.5" in done.stdout


def write_headers(root: Path, version: str = "10.16.0", style: str = "TRT_{}_ENTERPRISE") -> Path:
    """A folder with the version of TensorRT's headers, and nothing else of them."""
    include = root / "include"
    include.mkdir(parents=True, exist_ok=True)
    (include / "NvInfer.h").write_text("")
    lines = [f"#define {style.format(part)} {number} //!< number."
             for part, number in zip(("MAJOR", "MINOR", "PATCH"), version.split("."))]
    (include / "NvInferVersion.h").write_text("\n".join(lines) + "\n")
    return root


def write_library(root: Path, name: str = "libnvinfer.so.10", folder: str = "lib") -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    file = root / folder / name
    file.write_bytes(b"")
    return file


@pytest.mark.parametrize("style", ["NV_TENSORRT_{}", "TRT_{}_ENTERPRISE"])
def test_headers_and_library_are_found(tmp_path: Path, style: str) -> None:
    write_headers(tmp_path, "10.9.2", style)
    file = write_library(tmp_path, "libnvinfer.so.10", "targets/x86_64-linux-gnu/lib")
    write_library(tmp_path, "libnvinfer.so.8")
    found = tensorrt_files.find_tensorrt(tmp_path)
    assert found == tensorrt_files.TensorRt(tmp_path / "include", file, (10, 9, 2))
    assert found.text == "10.9.2"
    assert tensorrt_files.find_tensorrt(tmp_path / "include", file).library == file


@pytest.mark.parametrize(("version", "library", "words"), [
    (None, None, "NvInfer.h"),
    ("8.4.3", "libnvinfer.so.8", "8.5 or newer"),
    ("x.y.z", "libnvinfer.so.8", "does not state a version"),
    ("11.1.0", "libnvinfer.so.10", "contains libnvinfer.so.11"),
    ("8.5.3", None, "contains libnvinfer.so.8"),
])
def test_what_a_folder_lacks_is_said(tmp_path: Path, version: str | None, library: str | None,
                                     words: str) -> None:
    if version is not None:
        write_headers(tmp_path, version)
    if library is not None:
        write_library(tmp_path, library)
    with pytest.raises(EngineError, match=words):
        tensorrt_files.find_tensorrt(tmp_path)


def test_a_library_of_another_version_is_refused(tmp_path: Path) -> None:
    write_headers(tmp_path, "10.3.0")
    with pytest.raises(EngineError, match="same major version"):
        tensorrt_files.find_tensorrt(tmp_path, write_library(tmp_path, "libnvinfer.so.8"))
    with pytest.raises(EngineError, match="is not a file"):
        tensorrt_files.find_tensorrt(tmp_path, tmp_path / "missing.so")
    with pytest.raises(EngineError, match="is not a folder"):
        tensorrt_files.find_tensorrt(tmp_path / "missing")


def test_headers_of_cuda(tmp_path: Path) -> None:
    include = tmp_path / "targets" / "x86_64-linux" / "include"
    (include / "crt").mkdir(parents=True)
    (include / "cuda_runtime_api.h").write_text("")
    with pytest.raises(EngineError, match="--cuda-root"):  # half of it is not enough
        tensorrt_files.find_cuda_include(tmp_path)
    (include / "crt" / "host_defines.h").write_text("")
    assert tensorrt_files.find_cuda_include(tmp_path) == include


@pytest.mark.parametrize(("text", "codes"), [
    ("none", ()), ("all", None), ("87,75", ("75", "87")), ("sm_90", ("90",))])
def test_architectures(text: str, codes: tuple[str, ...] | None) -> None:
    assert tensorrt_build.choose_architectures(text) == codes


@pytest.mark.parametrize("text", ["", "turing", "75;86", "7.5", "75,"])
def test_architectures_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="75,87"):
        tensorrt_build.choose_architectures(text)


def build(root: Path, output: Path, *options: str) -> str:
    """What ``build-plugin`` prints where it fails, one sentence."""
    done = CliRunner().invoke(group, ["build-plugin", "--tensorrt-root", str(root), "-o",
                                      str(output), *options])
    assert done.exit_code == 1 and done.stderr.startswith("error: "), done.output
    assert done.output.count("\n") == 1 and not output.exists()
    return done.stderr


def test_no_compiler_and_no_cmake_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_library(write_headers(tmp_path / "trt"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in build(tmp_path / "trt", tmp_path / "out")
    monkeypatch.delenv("CXX")
    which = shutil.which
    monkeypatch.setattr(shutil, "which",
                        lambda name, **where: None if name == "cmake" else which(name, **where))
    assert "pip install cmake" in build(tmp_path / "trt", tmp_path / "out")


def test_headers_that_do_not_compile_are_said(tmp_path: Path) -> None:
    emulated_cuda.stand_in()
    write_library(write_headers(tmp_path / "trt"))
    (tmp_path / "cuda" / "crt").mkdir(parents=True)
    for name in ("cuda_runtime_api.h", "crt/host_defines.h"):
        (tmp_path / "cuda" / name).write_text("")
    (tmp_path / "trt" / "include" / "NvInferRuntime.h").write_text("#error half a header\n")
    told = build(tmp_path / "trt", tmp_path / "out", "--cuda-root", str(tmp_path / "cuda"),
                 "--architectures", "none")
    assert "cannot be built" in told and "half a header" in told


def test_a_place_for_it_that_cannot_be_is_said(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    write_library(write_headers(tmp_path / "trt"))
    (tmp_path / "cuda" / "crt").mkdir(parents=True)
    for name in ("cuda_runtime_api.h", "crt/host_defines.h"):
        (tmp_path / "cuda" / name).write_text("")
    (tmp_path / "data").write_text("in the way")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    done = CliRunner().invoke(group, ["build-plugin", "--tensorrt-root", str(tmp_path / "trt"),
                                      "--cuda-root", str(tmp_path / "cuda")])
    assert done.exit_code == 1 and done.stderr.startswith("error: cannot "), done.output
    assert done.output.count("\n") == 1


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

    def write(version: tuple[int, int], description: str) -> Path:
        folder = tensorrt_plugin.default_folder(version)
        folder.mkdir(parents=True)
        (folder / "plugin.json").write_text(description)
        (folder / "libbidiff_tensorrt.so").write_bytes(b"")
        return folder / "libbidiff_tensorrt.so"

    old = write((10, 3), json.dumps({"tensorrt": "10.3.0"}))
    write((10, 5), json.dumps({"tensorrt": "10.16.0"}))  # moved there by hand
    write((10, 6), "{")
    assert tensorrt_plugin.find_plugin("10.3.0") == tensorrt_plugin.find_plugin("10.7.1.dev") == old
    for version in ("10.2.0", "11.0.0", "8.5.3.1"):
        with pytest.raises(EngineError, match="build-plugin"):
            tensorrt_plugin.find_plugin(version)
    with pytest.raises(EngineError, match="is not a version"):
        tensorrt_plugin.find_plugin("ten")
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(tmp_path / "missing.so"))
    with pytest.raises(EngineError, match="BIDIFF_TENSORRT_PLUGIN"):
        tensorrt_plugin.find_plugin("11.0.0")
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(old))
    assert tensorrt_plugin.find_plugin("11.0.0") == old


def test_a_library_that_is_no_plugin_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "libbidiff_tensorrt.so"
    file.write_bytes(b"no library")
    with pytest.raises(EngineError, match="build-plugin"):
        tensorrt_plugin.PluginLibrary(file)


@pytest.mark.parametrize(("change", "words"), [
    (lambda file: file.chmod(0o775), "other users may write it"),
    (lambda file: (file.rename(file.with_name("other.so")), file.symlink_to("other.so")),
     "symbolic link")])
def test_a_library_that_another_user_could_have_written_is_not_loaded(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change, words: str) -> None:
    file = tmp_path / "libbidiff_tensorrt.so"
    file.write_bytes(b"code")
    change(file)
    monkeypatch.setattr(tensorrt_plugin.ctypes, "CDLL", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(EngineError, match=f"cannot be loaded .{words}|cannot be loaded .it is a "
                                          f"{words}"):
        tensorrt_plugin.PluginLibrary(file)
    # One that the user names may be a link, as libraries in /usr/lib are.
    monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(file))
    assert tensorrt_plugin.find_plugin("11.0.0") == file.resolve()
