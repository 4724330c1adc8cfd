"""What a step graph from a stranger may ask of this machine: no more than its network needs.

A graph is refused if a value is larger than the largest that the network of its manifest computes
at the same image size, if a size can not be told beforehand, or if our operators are defined
otherwise than by us. Needs ``onnx``, no runtime.
"""

from __future__ import annotations

import math

import onnx

from ..networks import network_of
from ..networks.base import Config
from ..operators.definitions import defined_by_us, opened
from ..operators.shapes import infer_shapes

MAX_NODES = 20_000
_SIZE = 8  # the image that sizes are compared at, in multiples of what the network takes


def objection(model: onnx.ModelProto, config: Config) -> str | None:
    """Why a step graph may not run, in a few words, or None."""
    if len(model.graph.node) > MAX_NODES:
        return f"it has more than {MAX_NODES} nodes"
    if any(attribute.HasField("g") or attribute.graphs
           for node in model.graph.node for attribute in node.attribute):
        return "a node has a graph inside"
    for function in model.functions:
        if not defined_by_us(function):
            return (f"it defines {function.domain}.{function.name} otherwise than this version of "
                    "bidiff-deploy does")
    network = network_of(config)
    side = _SIZE * network.size_multiple(config)
    limit = network.largest_value(config, side)
    try:
        flat = opened(model)
        _, shapes = infer_shapes(flat, side, side)
    except Exception:  # the checker of onnx raises several kinds, all of them its verdict
        return "its shapes contradict each other"
    for node in flat.graph.node:
        for name in filter(None, node.output):
            shape = shapes.get(name, (None,))
            if None in shape:
                return f"the size of {name[:60]!r} can not be told before it runs"
            if math.prod(shape) > limit:
                return f"{name[:60]!r} is larger than anything its network needs"
    return None
