"""A choice between two numbers, which not every TensorRT has operators for, as a clipped sign.

Before: ``GreaterOrEqual`` of a map and a number, and ``Where`` of two numbers from -1 to 1. After:
the sign of their difference, +1 at 0, turned if the first number is the smaller, and ``Clip``,
which returns one number for -1 and the other for 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import EngineError
from .graph_writer import GraphWriter

__all__ = ["chosen"]


def chosen(graph: GraphWriter, compared: Sequence[str], numbers: Sequence[str], output: str) -> str:
    """The first of ``numbers`` where the first of ``compared`` is at least the second, else the
    second. Raises EngineError for other choices."""
    values = [graph.constants.get(name) for name in (*compared[1:], *numbers)]
    known = [value.item() for value in values
             if value is not None and value.size == 1 and abs(value.item()) <= 1]
    if len(known) != 3:
        raise EngineError(f"the choice {output} is not one of two numbers by a comparison with a "
                          "number; export the bundle again")
    at, above, below = known
    threshold = graph.constant(np.full(1, -at, np.float32), f"{output}/threshold")
    y = graph.signs(graph.cast(compared[0], np.float32), threshold, output)
    if above < below:
        y = graph.op("Mul", y, graph.scalar(-1, np.float32), output=f"{output}/turned")
    bounds = [graph.constant(np.float32(value), f"{output}/{value:g}")
              for value in sorted((above, below))]
    y = graph.op("Clip", y, *bounds, output=f"{output}/clipped")
    graph.as_large_as(y, output)
    return y
