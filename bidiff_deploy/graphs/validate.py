"""Pass ``validate``: a step graph asks for no more of this machine than its network needs.

Before: any ONNX graph. After: the same graph, or BundleError if a value is larger than the largest
that the network of its manifest computes at the same image size, if a size cannot be computed
before the graph runs, or if our operators have other definitions than ours.
"""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from ..bundle.step_graphs import misfit
from ..networks import network_of
from ..networks.base import Config
from ..operators.definitions import defined_by_us, inline_fused
from ..operators.shapes import infer_shapes
from .record import Options, ParameterizedGraph

MAX_NODES = 20_000
_SIZE = 8  # side of the image that sizes are compared at, in multiples of the network's unit


def validate(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph that it is given. Raises BundleError as ``validate_graph`` does."""
    bundle = options.graphs.bundle
    validate_graph(graph.model, bundle.config, bundle.path / bundle.steps[0].file)
    return graph


def validate_graph(model: onnx.ModelProto, config: Config, origin: Path) -> None:
    """Raises BundleError, which names the file ``origin`` and the reason, for a step graph that
    must not run."""
    if len(model.graph.node) > MAX_NODES:
        raise misfit(origin, f"it has more than {MAX_NODES} nodes")
    if any(attribute.HasField("g") or attribute.graphs
           for node in model.graph.node for attribute in node.attribute):
        raise misfit(origin, "a node contains a graph")
    for function in model.functions:
        if not defined_by_us(function):
            raise misfit(origin, f"its definition of {function.domain}.{function.name} differs "
                                 "from that of this version of bidiff-deploy")
    network = network_of(config)
    side = _SIZE * network.size_multiple(config)
    limit = network.largest_value(config, side)
    try:
        flat = inline_fused(model)
        _, shapes = infer_shapes(flat, side, side)
    except Exception:  # onnx's checker raises several classes, each for an invalid graph
        raise misfit(origin, "its shapes contradict each other") from None
    for node in flat.graph.node:
        for name in filter(None, node.output):
            shape = shapes.get(name, (None,))
            sizes = [size for size in shape if size is not None]
            if len(sizes) < len(shape):
                raise misfit(origin, f"the size of {name[:60]!r} is unknown before it runs")
            if math.prod(sizes) > limit:
                raise misfit(origin, f"{name[:60]!r} is larger than anything its network needs")
