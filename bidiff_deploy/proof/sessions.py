"""ONNX Runtime sessions with the engines' settings: same threads, same op library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..engines import library
from ..engines.onnxruntime.session import import_onnxruntime, session_options, thread_count
from ..errors import EngineError, one_line


def open_session(model: bytes, constants: Mapping[str, np.ndarray], *, threads: int | None = None,
                 packed: bool = True, profile: str | None = None,
                 arena: bool = False) -> Any:
    """An InferenceSession of ``model`` on CPU.

    constants  values of its external initializers
    packed     register the op library; otherwise its operators run through their definitions
    profile    prefix of the profile that ``end_profiling`` writes, or None
    arena      keep memory from run to run, as engines do; without it many sessions need less, and
               are opened in half the time, as values are not planned to share memory

    Raises EngineError without onnxruntime, without the op library if ``packed``, and for graphs
    that onnxruntime refuses.
    """
    ort = import_onnxruntime()
    options = session_options(thread_count(threads))
    options.enable_cpu_mem_arena = options.enable_mem_reuse = arena
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    path = library.library_path()
    if packed and path is None:
        raise EngineError(library.missing_reason())
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.asarray(value))
              for name, value in constants.items()}
    try:
        if packed:
            options.register_custom_ops_library(str(path))
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its C extension
        raise EngineError(
            f"onnxruntime {ort.__version__} refuses a graph: {one_line(error)}") from None
