"""The CUDA backend's kernels and ONNX Runtime session on a GPU."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
import warnings
from typing import Any

import numpy as np

from ...bundle.record import Bundle
from ...errors import EngineError, one_line
from ...graphs.record import ParameterizedGraph
from ..gpu import library as cuda_library
from .cuda_provider import Target

_NOTICE_SECONDS = 1.5


def load_kernels(device_id: int, name: str) -> str:
    """``cuda_library.load_kernels`` for the path in use; prints a notice if it takes long."""
    text = (f"preparing the CUDA kernels for {name}; if they have to be compiled, this takes up to "
            "half a minute, once")
    notice = threading.Timer(_NOTICE_SECONDS, print, [text], {"file": sys.stderr, "flush": True})
    notice.daemon = True
    notice.start()
    try:
        return cuda_library.load_kernels(device_id, cuda_library.forced_path(device_id))
    finally:
        notice.cancel()


def open_session(ort: Any, bundle: Bundle, graph: ParameterizedGraph, options: Any,
                 target: Target) -> Any:
    """A session of a graph by ``lower_for_cuda`` on ``target``. Raises EngineError if ONNX Runtime
    refuses it; warns if it captures no CUDA graph."""
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # ONNX Runtime copies these once, at creation; the views must stay valid until then.
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
              for name, value in graph.constants.items()}
    options.add_external_initializers(list(values), list(values.values()))
    model = graph.serialized()
    settings = target.options
    while True:
        try:
            session = ort.InferenceSession(model, options, enable_fallback=0,
                                           providers=[(target.provider, settings)])
            break
        except Exception as error:
            text = reason(error)
            if settings.get("enable_cuda_graph") != "1" or "graph capture" not in text:
                raise EngineError(f"{bundle.path} cannot be opened by onnxruntime "
                                  f"{ort.__version__} on {target.device}: {text}") from None
            # Some node is placed on the CPU, which ONNX Runtime does not capture.
            warnings.warn(f"onnxruntime {ort.__version__} captures no CUDA graph of this bundle "
                          f"({text}); running without, which is slower", RuntimeWarning,
                          stacklevel=5)
            settings = {**settings, "enable_cuda_graph": "0"}
    if target.provider not in session.get_providers():
        raise EngineError(f"the CUDA provider of onnxruntime {ort.__version__} did not start; its "
                          "messages are above on stderr, and bidiff-deploy doctor shows driver and "
                          "versions")
    return session


def reason(error: Exception) -> str:
    """The message of CUDA or ONNX Runtime, without the source locations that precede it."""
    text = one_line(error, 1 << 16)
    if found := re.search(r"(CUDA|CUDNN|CUBLAS) failure [^;]{1,200}", text):
        return found[0].strip()
    return one_line(text.rpartition(" FAIL : ")[2])


def device_memory(device_id: int) -> tuple[int, int]:
    """(free, total) bytes of a GPU's memory."""
    free, total = ctypes.c_uint64(), ctypes.c_uint64()
    cuda_library.call("memory", device_id, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value
