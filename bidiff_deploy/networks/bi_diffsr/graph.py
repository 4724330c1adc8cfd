"""One step of the network as an ONNX graph, built node by node from the checkpoint.

Inputs ``noisy`` and ``condition``, output ``prediction``, each float32 (N, C, H, W) with N, H and W
free. All steps have the same nodes and names; only the initializers in ``StepGraph.step_names``
have different values. Values have the short names of the blocks that compute them:
``e3`` is the output of ``encoder.3``, ``e3.h`` of its first half.
"""

from __future__ import annotations

from onnx import TensorProto, helper

from ...operators.definitions import functions
from ...operators.names import INT8
from ..base import StepGraph, Store, Weights
from .architecture import blocks
from .float_blocks import FLOAT
from .fused_blocks import FUSED
from .graph_builder import Builder
from .plain_blocks import PLAIN
from .preconditioning import SHARES
from .quantised_blocks import QUANTISED
from .step_constants import step_constants

__all__ = ["build_step"]


def build_step(weights: Weights, store: Store, timestep: int,
               compute: str = "float32") -> StepGraph:
    """Build the graph of one step.

    ``compute``: the type that factors of full-precision products may be rounded to, one of
    ``operators.names.COMPUTE``, or INT8.
    """
    int8 = compute == INT8
    b = Builder(weights, store, step_constants(weights, timestep), "float32" if int8 else compute)
    full = {**FLOAT, **QUANTISED} if int8 else FLOAT
    config = b.config
    skips: list[str] = []
    x = b.write.op("Concat", "condition", "noisy", axis=1, name="input")
    for block in blocks(config):
        maps = [x, skips.pop()] if block.kind == "fusion" else [x]
        binary = FUSED if config.binary_layers.fused and not block.single else PLAIN
        x = (binary if block.binary else full)[block.kind](b, block, *maps)
        if block.pushes_skip:
            skips.append(x)
    if config.preconditioning:
        parts = [b.write.op("Mul", value, b.step(share), name=f"prediction/{share}", label=True)
                 for value, share in zip(("noisy", "condition", x), SHARES)]
        known = b.write.op("Add", *parts[:2], name="prediction/known", label=True)
        b.write.op("Add", known, parts[2], name="prediction", label=True)
    out = config.out_channel
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, "H", "W"])
              for name, channels in (("noisy", out), ("condition", config.in_channel - out))]
    model = b.write.model("step", inputs, ["N", out, "H", "W"], functions())
    return StepGraph(model, tuple(b.step_names))
