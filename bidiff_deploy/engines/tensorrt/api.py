"""The installed TensorRT: imported when it is asked for, with a sentence for each way to fail.

Versions differ in what networks are, which ``Api`` tells; names that only some have are asked for
by ``hasattr`` where they are used:

    8.5         no progress monitor, no optimization levels (8.6 has both)
    8.5 to 9    networks are weakly typed: EXPLICIT_BATCH, and FP16 and INT8 are flags
    10          networks are made strongly typed by STRONGLY_TYPED: types are the graph's
    11          every network is, and the flags of weak typing are gone
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError
from ...files import file_sha256
from .plugin.library import PluginLibrary, find_plugin

__all__ = ["OLDEST", "Api", "Log", "open_tensorrt", "plugin_digest",
           "plugin_missing"]

OLDEST = (8, 5)
_KEPT = 20
_LONGEST = 500
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "cuda error 2", "could not allocate",
                  "insufficient memory", "not enough memory", "failed to allocate",
                  "memory is insufficient", "requested amount of gpu memory",
                  "unable to allocate", "cudaerrormemory")
_OTHER_PRECISION = "obeys the requested constraints"
_PLUGIN_MISSING = ("plugin not found", "could not find plugin", "no importer registered",
                   "cannot find plugin", "failed to load plugin", "find creator")


class Log:
    """What TensorRT said lately, of severity WARNING or worse."""

    def __init__(self) -> None:
        self._lines: deque[tuple[bool, str]] = deque(maxlen=_KEPT)
        self._other_precision = False
        self._lock = threading.Lock()

    def add(self, error: bool, text: str) -> None:
        """Keep a message; ``error``: not only a warning."""
        with self._lock:
            self._lines.append((error, _one_line(text)))
            # Of the whole text, in which names of fused layers may be long.
            self._other_precision |= _OTHER_PRECISION in text.lower()

    def clear(self) -> None:
        """Forget what was said, before something that may fail."""
        with self._lock:
            self._lines.clear()
            self._other_precision = False

    def text(self) -> str:
        """All of it, for a search."""
        with self._lock:
            return "\n".join(line for _, line in self._lines)

    def sentence(self, otherwise: str) -> str:
        """The first two errors, since what follows is about them; else the last warning."""
        with self._lock:
            errors = list(dict.fromkeys(line for error, line in self._lines if error))
            warnings = [line for error, line in self._lines if not error]
        chosen = errors[:2] or warnings[-1:]
        return ("; ".join(chosen) or otherwise).rstrip(". ")

    @property
    def out_of_memory(self) -> bool:
        """Whether something said so."""
        text = self.text().lower()
        return any(sign in text for sign in _OUT_OF_MEMORY)

    @property
    def other_precision(self) -> bool:
        """Whether a layer has no kernel in the precision that it was told to prefer."""
        with self._lock:
            return self._other_precision


@dataclass(frozen=True)
class Api:
    """TensorRT's module, its version as numbers, our logger for it, and what that has kept."""

    trt: Any
    version: tuple[int, ...]
    logger: Any
    log: Log

    @property
    def name(self) -> str:
        """The version as TensorRT tells it, to its last number."""
        return str(self.trt.__version__)

    @property
    def weakly_typed(self) -> bool:
        """Whether precision is set by flags and layers, not by the network's types."""
        return self.version[0] < 10

    @property
    def network_flags(self) -> int:
        """Flags of a network of our kind."""
        flags = self.trt.NetworkDefinitionCreationFlag
        if self.weakly_typed:
            return 1 << int(flags.EXPLICIT_BATCH)
        # In 11 the name is still there, and says nothing any more.
        return 1 << int(flags.STRONGLY_TYPED) if self.version[0] == 10 else 0

    def plugin(self) -> PluginLibrary:
        """The plugin library for this TensorRT, loaded into it; once a process.

        Raises:
            EngineError: there is none, it is another version's, or another one was loaded before.
        """
        return _load_plugin(find_plugin(self.name))

    def builder(self) -> Any:
        """``trt.Builder``; raises EngineError where there is no usable GPU or driver."""
        return self._start("Builder")

    def runtime(self) -> Any:
        """``trt.Runtime``; raises EngineError where there is no usable GPU or driver."""
        return self._start("Runtime")

    def _start(self, kind: str) -> Any:
        self.log.clear()
        try:
            made = getattr(self.trt, kind)(self.logger)
        except Exception as error:  # TypeError: "factory function returned nullptr"
            raise EngineError(f"TensorRT {self.name} can not start its {kind.lower()} "
                              f"({self.log.sentence(_one_line(str(error)))}); it needs an NVIDIA "
                              "GPU and a driver for its version of CUDA, which nvidia-smi shows"
                              ) from None
        if made is None:
            raise EngineError(f"TensorRT {self.name} gives no {kind.lower()}: "
                              f"{self.log.sentence('it tells no reason')}")
        return made


def open_tensorrt(verbose: bool = False) -> Api:
    """Import TensorRT.

    Args:
        verbose: print what it logs on stderr.

    Raises:
        EngineError: it is not installed, older than 8.5, or can not be loaded.
    """
    module = _import()
    api = _api(module)
    if verbose:
        api.logger.verbose = True
    return api


def plugin_digest(library: PluginLibrary) -> str:
    """SHA-256 of a plugin library's file."""
    try:
        return file_sha256(library.file)
    except OSError as error:
        raise EngineError(f"{library.file} can not be read: {error.strerror}") from None


def plugin_missing(text: str) -> bool:
    """Whether a message of the parser means that a plugin is not registered."""
    return any(sign in text.lower() for sign in _PLUGIN_MISSING)


def _import() -> Any:
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise EngineError("TensorRT is not installed; pip install tensorrt-cu12, or "
                              "tensorrt-cu13 where the driver is for CUDA 13 (JetPack has it: use "
                              "the system's Python, or a venv with --system-site-packages)"
                              ) from None
        raise _broken(error) from None
    except Exception as error:  # shared libraries, or what its own modules raise of them
        raise _broken(error) from None
    version = getattr(module, "__version__", None)
    if not isinstance(version, str) or not hasattr(module, "ILogger"):
        # A folder of that name is enough for Python, such as engines/tensorrt of the sources.
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
        raise EngineError(f"the module tensorrt at {place} is not NVIDIA's; start in another "
                          "folder, or pip install tensorrt-cu12")
    if _numbers(version)[:2] < OLDEST:
        raise EngineError(f"TensorRT {version} is older than 8.5, the oldest that is supported; "
                          "pip install --upgrade tensorrt-cu12, or take a newer JetPack")
    return module


def _broken(error: Exception) -> EngineError:
    text = _one_line(str(error)) or type(error).__name__
    remedy = "install it again with pip install --force-reinstall tensorrt-cu12"
    if match := re.search(r"lib[\w+.-]+\.so[\w.]*", text):
        if not match[0].startswith("libnv"):  # not its own: wheels of 8 need these
            remedy = "pip install nvidia-cudnn-cu11 nvidia-cublas-cu11 for TensorRT 8 of a wheel"
        remedy += f", or name the folder of {match[0]} in LD_LIBRARY_PATH"
    return EngineError(f"TensorRT is installed but can not be loaded ({text}); {remedy}")


@functools.cache
def _api(module: Any) -> Api:
    # Cached, because TensorRT keeps the first logger that it is given for the whole process.
    log = Log()
    logger = _logger_class(module)(log)
    # Standard plugins: parsers before 10 make them of some standard operators.
    if hasattr(module, "init_libnvinfer_plugins"):
        module.init_libnvinfer_plugins(logger, "")
    return Api(module, _numbers(module.__version__), logger, log)


def _logger_class(trt: Any) -> Any:
    """A class, because its base exists only where TensorRT does."""
    severity = trt.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)
    kept = (*errors, severity.WARNING)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self, log: Log) -> None:
            trt.ILogger.__init__(self)
            self._log = log
            self.verbose = False

        def log(self, severity: Any, message: str) -> None:
            if severity in kept:
                self._log.add(severity in errors, message)
            if self.verbose and severity != trt.ILogger.Severity.VERBOSE:
                print(f"TensorRT: {message}", file=sys.stderr)

    return Logger


_plugins: dict[Path, PluginLibrary] = {}
_plugins_lock = threading.Lock()


def _load_plugin(file: Path) -> PluginLibrary:
    file = file.resolve()
    with _plugins_lock:
        if file not in _plugins:
            if _plugins:
                raise EngineError(f"{next(iter(_plugins))} is loaded, so {file} can not be: "
                                  "TensorRT takes one plugin library a process; start anew")
            library = PluginLibrary(file)
            library.use_nvrtc_of_wheels()
            _plugins[file] = library
        return _plugins[file]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
