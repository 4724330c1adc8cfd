"""Sessions of parts of a bundle's graph in ONNX Runtime's CUDA provider, with our CUDA kernels."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx

from ...engines.gpu.library import device_info
from ...engines.onnxruntime.cuda_provider import cuda_target, library_file
from ...engines.onnxruntime.cuda_session import load_kernels, open_session
from ...engines.onnxruntime.session import import_onnxruntime, register, session_options
from ...graphs.lowering import first_step
from ...graphs.passes import CUDA, run_passes
from ...graphs.record import Options
from .bundle_layers import BundleLayers

__all__ = ["CudaSessions"]


class CudaSessions:
    """``Sessions`` on GPU ``device``; ``shipped`` lacks only the loop's update at its end."""

    def __init__(self, layers: BundleLayers, device: int) -> None:
        self._layers = layers
        self._ort, self._target = import_onnxruntime(), cuda_target(device, cuda_graph=False)
        load_kernels(device, device_info(device).name)
        self.shipped = run_passes(CUDA[:-1], first_step(layers.graphs),
                                  Options(layers.graphs)).model

    def open(self, model: onnx.ModelProto) -> Any:
        part = onnx.ModelProto()
        part.CopyFrom(model)
        del part.functions[:]  # so that every operator of ours runs in its kernel
        needed = {tensor.name for tensor in part.graph.initializer}
        graph = dataclasses.replace(self._layers.graph, model=part, constants={
            name: value for name, value in self._layers.graph.constants.items() if name in needed})
        options = session_options(1)
        register(options, library_file())
        return open_session(self._ort, self._layers.bundle, graph, options, self._target)
