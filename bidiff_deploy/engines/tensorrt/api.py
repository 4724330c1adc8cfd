"""The installed TensorRT: its objects, its log and our plugin, with a sentence for each failure.

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
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError, one_line
from ...files import file_sha256
from .installed import import_rtx, import_tensorrt
from .log import MAX_CHARS, NO_REASON, Log, logger_class
from .plugin.library import PluginLibrary, find_plugin
from .versions import numbers, product

__all__ = ["Api", "open_tensorrt", "plugin_digest", "plugin_missing"]

_PLUGIN_MISSING = ("plugin not found", "could not find plugin", "no importer registered",
                   "cannot find plugin", "failed to load plugin", "find creator")


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
        """Set what a builder's configuration of TensorRT-RTX compiles for, some of
        ``CAPABILITIES``."""
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
            reason = self.log.sentence(one_line(error, MAX_CHARS))
            raise EngineError(f"{self.product} cannot start its {kind.lower()} ({reason}); "
                              "it needs an NVIDIA GPU and a driver for its version of CUDA, which "
                              "nvidia-smi shows") from None
        if made is None:
            raise EngineError(f"{self.product} returned no {kind.lower()}: "
                              f"{self.log.sentence(NO_REASON)}")
        return made


def open_tensorrt(verbose: bool = False, rtx: bool = False) -> Api:
    """Import TensorRT.

    Args:
        verbose: print its log on stderr.
        rtx: TensorRT-RTX instead.

    Raises:
        EngineError: it is not installed, older than MIN_VERSION, or cannot be loaded.
    """
    module = import_rtx() if rtx else import_tensorrt()
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


@functools.cache
def _api(module: Any, rtx: bool) -> Api:
    # Cached, because TensorRT keeps its first logger for the whole process.
    log = Log()
    logger = logger_class(module)(log)
    # Standard plugins: parsers before version 10 use them for some standard operators.
    if hasattr(module, "init_libnvinfer_plugins") and not rtx:
        module.init_libnvinfer_plugins(logger, "")
    return Api(module, numbers(module.__version__), logger, log, rtx)


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
