"""Opening TensorRT: a sentence for each way in which it is not there, its log, the plugin library,
and what its versions need."""

from __future__ import annotations

import hashlib
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import pytest

from bidiff_deploy.engines.tensorrt import api as tensorrt_api
from bidiff_deploy.errors import EngineError

Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)


@pytest.fixture
def installed(monkeypatch):
    """A function: puts a module with the little that opening looks at in TensorRT's place."""
    def put(version: str = "10.3.0", **names):
        logger = type("ILogger", (), {"Severity": Severity})
        module = ModuleType("tensorrt")
        vars(module).update(__version__=version, ILogger=logger, **names)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
    return put


@pytest.mark.parametrize("code, told", [
    ("raise ImportError('libcudnn.so.8: cannot open shared object file')",
     r"libcudnn.so.8: cannot open.*pip install nvidia-cudnn-cu11.* the folder of libcudnn.so.8 to"),
    ("raise OSError('libnvinfer.so.10: undefined symbol')",
     "install it again with .*, or add the folder of libnvinfer.so.10 to LD_LIBRARY_PATH"),
    ("import tensorrt_bindings_that_are_missing", "tensorrt_bindings_that_are_missing.*reinstall"),
    ("raise RuntimeError", r"\(RuntimeError\).*force-reinstall"),
    (None, "is not NVIDIA's"), ("__version__ = '10.3.0'", "is not NVIDIA's")])
def test_tensorrt_that_cannot_be_imported(code, told, tmp_path, monkeypatch):
    (tmp_path / "tensorrt").mkdir()  # without code a bare folder
    if code is not None:
        (tmp_path / "tensorrt" / "__init__.py").write_text(code)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=told) as error:
        tensorrt_api.open_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # which Python takes for one that is missing
    assert "\n" not in str(error.value)
    with pytest.raises(EngineError, match="not installed; pip install tensorrt-cu12"):
        tensorrt_api.open_tensorrt()


@pytest.mark.parametrize("version, flags", [
    ("7.2.3.4", None), ("8.4.3.1", None), ("8.5.3.1", 1), ("8.6.1.post1", 1), ("9.2.0", 1),
    ("10.0.1", 2), ("10.16.1", 2), ("11.0.0", 0), ("11.4.0.106", 0)])
def test_versions_and_flags_of_a_network(version, flags, installed):
    kinds = {"STRONGLY_TYPED": 1, **({} if version.startswith("11") else {"EXPLICIT_BATCH": 0})}
    installed(version, NetworkDefinitionCreationFlag=SimpleNamespace(**kinds))
    if flags is None:
        with pytest.raises(EngineError, match=f"{version} is older than 8.5"):
            tensorrt_api.open_tensorrt()
        return
    api = tensorrt_api.open_tensorrt()
    assert api.name == version and api.network_flags == flags
    assert api.weakly_typed == (flags == 1)
    assert tensorrt_api.open_tensorrt() is api  # TensorRT keeps the first logger it is given


@pytest.mark.parametrize("kind, told", [
    ("builder", r"cannot start its builder \(CUDA failure 35\); it needs an NVIDIA GPU"),
    ("runtime", "returned no runtime: CUDA failure 35$")])
def test_without_a_usable_gpu(kind, told, installed):
    def refuse(logger):
        logger.log(Severity.ERROR, "CUDA failure 35.\n")
        if kind == "builder":
            raise TypeError("pybind11::init(): factory function returned nullptr")

    installed(Builder=refuse, Runtime=refuse)
    with pytest.raises(EngineError, match=told):
        getattr(tensorrt_api.open_tensorrt(), kind)()


def test_the_log_keeps_errors_and_prints_only_when_asked_to(installed, capsys):
    called = []
    installed(init_libnvinfer_plugins=lambda *given: called.append(given))
    api = tensorrt_api.open_tensorrt()
    assert api.log.sentence("nothing") == "nothing"
    for number in range(50):
        api.logger.log(Severity.WARNING, f"warning {number}")
    api.logger.log(Severity.INFO, "quiet")
    assert api.log.sentence("nothing") == "warning 49" and "quiet" not in api.log.text()
    assert len(api.log.text().splitlines()) == 20
    for text in ("the first\n  error.", "the first\n  error.", "the second", "x" * 9999):
        api.logger.log(Severity.ERROR, text)
    assert api.log.sentence("nothing") == "the first error.; the second"
    assert len(api.log.text()) < 2000 and not api.log.out_of_memory
    api.logger.log(Severity.INTERNAL_ERROR, "[defaultAllocator.cpp] Cuda Out Of Memory")
    assert api.log.out_of_memory and capsys.readouterr() == ("", "")
    tensorrt_api.open_tensorrt(verbose=True)
    api.logger.log(Severity.INFO, "told")
    api.logger.log(Severity.VERBOSE, "too much")
    assert capsys.readouterr() == ("", "TensorRT: told\n")
    assert called == [(api.logger, "")]  # standard plugins, once, with our logger


def test_the_plugin_library(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_api, "PluginLibrary", lambda file: Mock(file=Path(file)))
    monkeypatch.setattr(tensorrt_api, "_plugins", {})
    installed()
    api = tensorrt_api.open_tensorrt()
    for name in ("b.so", "a.so"):
        (tmp_path / name).write_bytes(name.encode())
        monkeypatch.setenv("BIDIFF_TENSORRT_PLUGIN", str(tmp_path / name))
        if name == "b.so":
            library = api.plugin()
            assert api.plugin() is library
            library.use_nvrtc_of_wheels.assert_called_once_with()
    with pytest.raises(EngineError, match="one plugin library per process"):
        api.plugin()
    assert tensorrt_api.plugin_digest(library) == hashlib.sha256(b"b.so").hexdigest()
    library.file.unlink()
    with pytest.raises(EngineError, match="cannot be read"):
        tensorrt_api.plugin_digest(library)
