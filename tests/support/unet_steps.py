"""Steps of ResShift's UNet in ONNX Runtime, and what their binary layers read."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from bidiff_deploy.checkpoint.record import Checkpoint
from bidiff_deploy.engines import library
from bidiff_deploy.networks.resshift_unet.graph import build_step
from bidiff_deploy.operators.names import SCALED_BINARY_CONV
from bidiff_deploy.operators.value_names import short
from support import run_once

HOWS = ["stock"] if library.library_path() is None else ["kernel", "stock"]


def step(checkpoint: Checkpoint, timestep: int) -> onnx.ModelProto:
    return build_step(checkpoint, numpy_helper.from_array, timestep).model


def run(model: onnx.ModelProto, case: dict[str, np.ndarray], how: str = HOWS[0], prefix: str = "",
        outputs: list[str] | None = None) -> list[np.ndarray]:
    """Outputs for a case's x and lq, in our kernels or in standard operators; ``outputs``: names of
    any values, None: those of the graph."""
    if outputs is not None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.output[:]
        copy.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in outputs)
        model = copy
    session = run_once.session(model, packed=how == "kernel")
    return session.run(outputs, {"noisy": case[f"{prefix}x"], "condition": case[f"{prefix}lq"]})


def run_with_maps(checkpoint: Checkpoint, timestep: int, case: dict[str, np.ndarray],
                  how: str = HOWS[0]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The prediction, and the map that each binary layer reads."""
    model = step(checkpoint, timestep)
    layers = {short(name): name for name in checkpoint.network.binary_layers(checkpoint.config)}
    reads = {layers[node.input[1].removesuffix(".words")]: node.input[0]
             for node in model.graph.node if node.op_type == SCALED_BINARY_CONV}
    names = list(dict.fromkeys(["prediction", *reads.values()]))
    values = dict(zip(names, run(model, case, how, outputs=names)))
    return values["prediction"], {name: values[value] for name, value in reads.items()}
