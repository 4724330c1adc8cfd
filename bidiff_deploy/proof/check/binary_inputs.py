"""What the binary layers of a latent network's step read, in an engine's own arithmetic."""

from __future__ import annotations

import numpy as np
import onnx

from ...bundle.step_graphs import StepGraphs
from ...engines.latent import LatentDiffusion
from ...operators.names import SCALED_BINARY_CONV
from ...operators.value_names import short
from ..sessions import open_session

__all__ = ["binary_inputs"]


def binary_inputs(engine: LatentDiffusion, noisy: np.ndarray, condition: np.ndarray,
                  timestep: int, threads: int | None = None) -> dict[str, np.ndarray]:
    """``{layer: the map that it reads}``, float32 as the graph lays it out, of one step on CPU."""
    graphs = StepGraphs(engine.bundle)
    model = onnx.ModelProto()
    model.CopyFrom(graphs.built.model)
    names = {short(name): name
             for name in engine.bundle.network.binary_layers(engine.bundle.config)}
    reads = {names[node.input[1].removesuffix(".words")]: node.input[0]
             for node in model.graph.node if node.op_type == SCALED_BINARY_CONV}
    del model.graph.output[:]
    wanted = list(dict.fromkeys(reads.values()))
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                              for name in wanted)
    session = open_session(model.SerializeToString(),
                           {**graphs.shared(), **graphs.constants(timestep)},
                           threads=threads, packed=engine.kernel != "stock")
    values = dict(zip(wanted, session.run(wanted, {"noisy": noisy, "condition": condition})))
    return {name: values[value] for name, value in reads.items()}
