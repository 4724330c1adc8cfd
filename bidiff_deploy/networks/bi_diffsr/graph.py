"""One step of the network as an ONNX graph, built node by node from the checkpoint.

Inputs ``noisy`` and ``condition``, output ``prediction``, each float32 (N, C, H, W) with N, H and W
free. All steps have the same nodes and names; only the initializers that ``StepGraph.step_names``
lists point to other bytes. Values carry the names of the blocks that compute them, shortened:
``e3`` is the output of ``encoder.3``, ``e3.h`` of its first half.
"""

from __future__ import annotations

from typing import Mapping

import numpy as np

from .binarizers import NONE
from ...checkpoint.record import Checkpoint
from .graph_builder import IR_VERSION, Builder, Initializer, StepGraph
from ...operators.value_names import short
from .float_blocks import FloatBuilder
from .plain_blocks import PlainBuilder

__all__ = ["IR_VERSION", "StepGraph", "build_step", "short"]


def build_step(checkpoint: Checkpoint, initializer: Initializer,
               step_constants: Mapping[str, np.ndarray], compute: str = "float32") -> StepGraph:
    """Build the graph of one step.

    ``initializer(name, make)`` gives the initializer of that name, calling ``make`` for its value
    unless it has it already. ``step_constants``: ``X.threshold`` and ``X.rprelu`` of every BIConv
    X whose parameters depend on the step and ``B.time`` of every residual block B. ``compute``: the
    type that factors of full-precision products may be rounded to, one of ``ops.COMPUTE``.
    """
    config = checkpoint.config
    builder = (FloatBuilder if config.binarizer == NONE
               else Builder if config.binary_layers.fused else PlainBuilder)
    return builder(checkpoint, initializer, step_constants, compute).build()
