"""The installed TensorRT: its import, its log and its objects, with a sentence for each failure.

Versions differ in how networks are typed, which ``Api`` reports; names that only some versions have
are looked up by ``hasattr`` where they are used:

    8.5         no progress monitor, no optimization levels (8.6 has both)
    8.5 to 9    networks are weakly typed: EXPLICIT_BATCH, and FP16 and INT8 are flags
    10          networks are strongly typed with STRONGLY_TYPED: types are the graph's
    11          every network is strongly typed, and the flags of weak typing are gone

TensorRT-RTX has TensorRT's names in a module of its own, and these differences (``Api.rtx``):

    - networks are typed as in 10; there are no plugins, and its parser ends the process at a node
      that a registered one would run
    - its builder needs no GPU: it compiles for a list of compute capabilities, and the engine is
      finished on the GPU when it first runs, which a runtime cache remembers
    - it times no kernels, so it has no use for a timing cache
    - it takes vectors with their channels innermost, as it stores maps, without a kernel of its own
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError, one_line
from ...files import file_sha256
from ..gpu.failures import is_out_of_memory
from .plugin.library import PluginLibrary, find_plugin
from .versions import MIN_RTX, MIN_VERSION, numbers

__all__ = ["CAPABILITIES", "INSTALL_RTX", "NO_REASON", "Api", "Log", "open_tensorrt",
           "plugin_digest", "plugin_missing", "product"]

# What TensorRT-RTX compiles for, 10 * major + minor.
CAPABILITIES = (75, 80, 86, 89, 120, 121)
INSTALL_RTX = "pip install 'bidiff-deploy[rtx]'"

NO_REASON = "no reason given"
_MAX_LINES = 20
_MAX_CHARS = 500
_OTHER_PRECISION = "obeys the requested constraints"
_PLUGIN_MISSING = ("plugin not found", "could not find plugin", "no importer registered",
                   "cannot find plugin", "failed to load plugin", "find creator")


class Log:
    """TensorRT's latest messages of severity WARNING or worse."""

    def __init__(self) -> None:
        self._lines: deque[tuple[bool, str]] = deque(maxlen=_MAX_LINES)
        self._other_precision = False
        self._lock = threading.Lock()

    def add(self, error: bool, text: str) -> None:
        """Keep a message; ``error``: whether it is worse than a warning."""
        with self._lock:
            self._lines.append((error, one_line(text, _MAX_CHARS)))
            # Searched in the whole text: long names of fused layers may precede the phrase.
            self._other_precision |= _OTHER_PRECISION in text.lower()

    def clear(self) -> None:
        """Remove all messages, before a call that may fail."""
        with self._lock:
            self._lines.clear()
            self._other_precision = False

    def text(self) -> str:
        """All messages, for a search."""
        with self._lock:
            return "\n".join(line for _, line in self._lines)

    def sentence(self, otherwise: str) -> str:
        """The first two errors, because later ones follow from them; else the last warning; else
        ``otherwise``."""
        with self._lock:
            errors = list(dict.fromkeys(line for error, line in self._lines if error))
            warnings = [line for error, line in self._lines if not error]
        chosen = errors[:2] or warnings[-1:]
        return ("; ".join(chosen) or otherwise).rstrip(". ")

    @property
    def out_of_memory(self) -> bool:
        """Whether a message reports a lack of memory."""
        return is_out_of_memory(self.text())

    @property
    def other_precision(self) -> bool:
        """Whether some layer has no kernel in the precision that was set for it."""
        with self._lock:
            return self._other_precision


@dataclass(frozen=True)
class Api:
    """TensorRT's module, its version as numbers, our logger for it, and the logger's messages."""

    trt: Any
    version: tuple[int, ...]
    logger: Any
    log: Log
    rtx: bool = False

    @property
    def name(self) -> str:
        """The full version string."""
        return str(self.trt.__version__)

    @property
    def product(self) -> str:
        """Its name and version, for sentences."""
        return f"{product(self.rtx)} {self.name}"

    @property
    def weakly_typed(self) -> bool:
        """Whether precision is set by flags and layers, not by the network's types."""
        return not self.rtx and self.version[0] < 10

    @property
    def network_flags(self) -> int:
        """The creation flags of a network whose types are the graph's, as far as possible."""
        flags = self.trt.NetworkDefinitionCreationFlag
        if self.weakly_typed:
            return 1 << int(flags.EXPLICIT_BATCH)
        # TensorRT 11 still has the name, without an effect.
        return 1 << int(flags.STRONGLY_TYPED) if self.rtx or self.version[0] == 10 else 0

    def plugin(self) -> PluginLibrary:
        """The plugin library for this TensorRT, loaded once in a process.

        Raises:
            EngineError: it is missing, of another version, or another one was loaded before.
        """
        return _load_plugin(find_plugin(self.name))

    def compute_capabilities(self, config: Any, wanted: Sequence[int]) -> None:
        """Set what a builder's configuration of TensorRT-RTX compiles for, some of CAPABILITIES."""
        config.num_compute_capabilities = len(wanted)
        for index, number in enumerate(wanted):
            named = getattr(self.trt.ComputeCapability, f"SM{number}", None)
            if named is None or not config.set_compute_capability(named, index):
                raise EngineError(f"{self.product} does not compile for sm_{number}; leave it out "
                                  "of --compute-capability")

    def vectors_innermost(self, network: Any) -> None:
        """Let TensorRT-RTX take a network's vectors (1, C, 1, 1) as it stores maps, which are the
        same bytes: so it computes them in the kernel of a convolution."""
        for index in range(network.num_inputs):
            value = network.get_input(index)
            if len(value.shape) == 4 and tuple(value.shape[2:]) == (1, 1):
                value.allowed_formats = 1 << int(self.trt.TensorFormat.HWC)

    def builder(self) -> Any:
        """``trt.Builder``; raises EngineError without a usable GPU or driver."""
        return self._start("Builder")

    def runtime(self) -> Any:
        """``trt.Runtime``; raises EngineError without a usable GPU or driver."""
        return self._start("Runtime")

    def _start(self, kind: str) -> Any:
        self.log.clear()
        try:
            made = getattr(self.trt, kind)(self.logger)
        except Exception as error:  # TypeError: "factory function returned nullptr"
            reason = self.log.sentence(one_line(error, _MAX_CHARS))
            raise EngineError(f"{self.product} cannot start its {kind.lower()} ({reason}); "
                              "it needs an NVIDIA GPU and a driver for its version of CUDA, which "
                              "nvidia-smi shows") from None
        if made is None:
            raise EngineError(f"{self.product} returned no {kind.lower()}: "
                              f"{self.log.sentence(NO_REASON)}")
        return made


def product(rtx: bool) -> str:
    """The name of NVIDIA's product."""
    return "TensorRT-RTX" if rtx else "TensorRT"


def open_tensorrt(verbose: bool = False, rtx: bool = False) -> Api:
    """Import TensorRT.

    Args:
        verbose: print its log on stderr.
        rtx: TensorRT-RTX instead.

    Raises:
        EngineError: it is not installed, older than MIN_VERSION, or cannot be loaded.
    """
    module = _import_rtx() if rtx else _import()
    api = _api(module, rtx)
    if verbose:
        api.logger.verbose = True
    return api


def plugin_digest(library: PluginLibrary) -> str:
    """SHA-256 of a plugin library's file."""
    try:
        return file_sha256(library.file)
    except OSError as error:
        raise EngineError(f"{library.file} cannot be read: {error.strerror}") from None


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
    except Exception as error:  # of missing shared libraries, or of its own modules
        raise _broken(error) from None
    version = getattr(module, "__version__", None)
    if not isinstance(version, str) or not hasattr(module, "ILogger"):
        # Python imports any folder of that name, such as engines/tensorrt of the sources.
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
        raise EngineError(f"the module tensorrt at {place} is not NVIDIA's; start in another "
                          "folder, or pip install tensorrt-cu12")
    if numbers(version)[:2] < MIN_VERSION:
        oldest = ".".join(map(str, MIN_VERSION))
        raise EngineError(f"TensorRT {version} is older than {oldest}, the oldest supported "
                          "version; pip install --upgrade tensorrt-cu12, or take a newer JetPack")
    return module


def _import_rtx() -> Any:
    # Its metapackage has only an alias of the bindings.
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            raise _broken(error, rtx=True) from None
        except Exception as error:
            raise _broken(error, rtx=True) from None
        version = str(getattr(module, "__version__", ""))
        if numbers(version)[:2] < MIN_RTX or not hasattr(module, "ILogger"):
            oldest = ".".join(map(str, MIN_RTX))
            raise EngineError(f"the module {name} is TensorRT-RTX {version or 'of no version'}, "
                              f"but {oldest} is the oldest supported version; {INSTALL_RTX}")
        return module
    raise EngineError(f"TensorRT-RTX is not installed; {INSTALL_RTX}")


def _broken(error: Exception, rtx: bool = False) -> EngineError:
    text = one_line(error, _MAX_CHARS)
    remedy = "install it again with pip install --force-reinstall tensorrt-cu12"
    if match := re.search(r"lib[\w+.-]+\.so[\w.]*", text):
        if not match[0].startswith("libnv"):  # not TensorRT's own: wheels of version 8 need these
            remedy = "pip install nvidia-cudnn-cu11 nvidia-cublas-cu11 for TensorRT 8 from a wheel"
        remedy += f", or add the folder of {match[0]} to LD_LIBRARY_PATH"
    if rtx:
        remedy = f"{INSTALL_RTX} --force-reinstall"
    return EngineError(f"{product(rtx)} is installed but cannot be loaded ({text}); {remedy}")


@functools.cache
def _api(module: Any, rtx: bool) -> Api:
    # Cached, because TensorRT keeps its first logger for the whole process.
    log = Log()
    logger = _logger_class(module)(log)
    # Standard plugins: parsers before version 10 use them for some standard operators.
    if hasattr(module, "init_libnvinfer_plugins") and not rtx:
        module.init_libnvinfer_plugins(logger, "")
    return Api(module, numbers(module.__version__), logger, log, rtx)


def _logger_class(trt: Any) -> Any:
    """The class of our logger, defined here because its base class is TensorRT's."""
    severity = trt.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)
    kept = (*errors, severity.WARNING)

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known at run time only
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
                raise EngineError(f"{next(iter(_plugins))} is loaded, so {file} cannot be: "
                                  "TensorRT takes one plugin library per process; restart the "
                                  "program")
            library = PluginLibrary(file)
            library.use_nvrtc_of_wheels()
            _plugins[file] = library
        return _plugins[file]
