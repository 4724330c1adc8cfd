"""Sessions of ONNX Runtime for graphs that a test runs once or twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from bidiff_deploy.engines import library
from bidiff_deploy.engines.onnxruntime.session import session_options


def session(model: onnx.ModelProto | Path, *, packed: bool = False, threads: int = 1,
            fuse: bool = True) -> onnxruntime.InferenceSession:
    """On the CPU, ``packed`` with our op library, ``fuse`` with ONNX Runtime's own optimisations.
    """
    options = session_options(threads)
    # A plan of which values share memory changes no result, and takes ten times as long to make
    # as a small network takes to run.
    options.enable_mem_reuse = False
    # Threads that wait for more work take the cores of other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if packed:
        options.register_custom_ops_library(str(library.library_path()))
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | Path, feeds: dict[str, Any], **options: Any) -> np.ndarray:
    """The first output of ``model`` in a session of ``options``."""
    return session(model, **options).run(None, feeds)[0]
