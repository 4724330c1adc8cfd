"""One step of the network as an ONNX graph, built node by node from the checkpoint.

Inputs ``noisy`` and ``condition``, output ``prediction``, each float32 (N, C, H, W) with N, H and W
free. All steps have the same nodes and names; only the initializers that ``StepGraph.step_names``
lists point to other bytes. Values carry the names of the blocks that compute them, shortened:
``e3`` is the output of ``encoder.3``, ``e3.h`` of its first half.
"""

from __future__ import annotations



from .binarizers import NONE
from ..base import Weights
from .graph_builder import IR_VERSION, Builder, Initializer, StepGraph
from .float_blocks import FloatBuilder
from .plain_blocks import PlainBuilder
from .step_constants import step_constants

__all__ = ["IR_VERSION", "StepGraph", "build_step"]


def build_step(weights: Weights, initializer: Initializer, timestep: int,
               compute: str = "float32") -> StepGraph:
    """Build the graph of one step.

    ``initializer(name, make)`` gives the initializer of that name, calling ``make`` for its value
    unless it has it already. ``compute``: the type that factors of full-precision products may be rounded to, one of ``ops.COMPUTE``.
    """
    config = weights.config
    builder = (FloatBuilder if config.binarizer == NONE
               else Builder if config.binary_layers.fused else PlainBuilder)
    return builder(weights, initializer, step_constants(weights, timestep), compute).build()
