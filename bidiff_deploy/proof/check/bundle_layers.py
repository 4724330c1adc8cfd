"""The binary layers and fused operators of a bundle's step graph, and the graph with taps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from ...bundle.record import Bundle
from ...bundle.step_graphs import StepGraphs
from ...errors import BundleError
from ...graphs.lowering import parameterized_graph
from ...operators.definitions import inline_fused
from ...operators.names import BINARY_CONV, DOMAIN, FUSED
from ...operators.value_names import short


@dataclass(frozen=True)
class BinaryLayer:
    """A BinaryConv node: ``name`` as in checkpoints (``encoder.3.conv1``), ``key`` as in the graph
    (``e3.c1``), ``inputs`` the names of its seven inputs, ``output`` that of its output."""

    name: str
    key: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class FusedOperator:
    """A node of a fused operator: ``kind`` its type, ``output`` the name of its output, ``maps``
    those of the values that it reads, ``compute`` what it may round factors to, or None."""

    kind: str
    output: str
    maps: tuple[str, ...]
    compute: str | None


class BundleLayers:
    """Reads what proofs need of a verified bundle; raises BundleError where its graph does not
    have the binary layers of its network.

    ``shipped`` is the graph that engines run, ``model`` the same with fused operators inlined.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.graphs = StepGraphs(bundle)
        self.graph = parameterized_graph(self.graphs)
        self.shipped = self.graph.model
        self.model = inline_fused(self.shipped)
        found = {node.output[0]: node for node in self.model.graph.node
                 if node.domain == DOMAIN and node.op_type == BINARY_CONV}
        wanted = {short(name): name for name in bundle.network.binary_layers(bundle.config)}
        if set(found) != set(wanted):
            odd = sorted(set(found) ^ set(wanted))[0]
            raise BundleError(f"{bundle.path} does not have the binary layers of its network "
                              f"({odd} is missing or too many); export the bundle again")
        self._literals = {node.output[0]: onnx.numpy_helper.to_array(attribute.t)
                          for node in self.model.graph.node if node.op_type == "Constant"
                          for attribute in node.attribute if attribute.name == "value"}
        # In the graph's order, which is the order of execution.
        self.layers = [BinaryLayer(wanted[key], key, tuple(node.input), key)
                       for key, node in found.items()]
        given = {*self.graph.inputs, *(value.name for value in self.shipped.graph.initializer)}
        self.operators = [
            FusedOperator(node.op_type, node.output[0],
                          tuple(name for name in node.input if name not in given),
                          next((a.s.decode() for a in node.attribute if a.name == "compute"), None))
            for node in self.shipped.graph.node
            if node.domain == DOMAIN and node.op_type in FUSED]

    def constants(self, timestep: int) -> dict[str, np.ndarray]:
        """Every initializer and constant of one step, by its name in the inlined graph."""
        return {**self._literals, **self.graph.constants, **self.graphs.constants(timestep)}

    def tapped(self, names: Iterable[str]) -> bytes:
        """The inlined graph with the values of these names, float32 maps, as further outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        have = {value.name for value in model.graph.output}
        for name in dict.fromkeys(names):
            if name not in have:
                model.graph.output.append(onnx.helper.make_tensor_value_info(
                    name, onnx.TensorProto.FLOAT, ["N", None, None, None]))
        return model.SerializeToString(deterministic=True)

    def single_layer(self) -> bytes:
        """A graph of one BinaryConv with this bundle's definition of it, all seven inputs fed."""
        float32, free = onnx.TensorProto.FLOAT, ["N", None, None, None]
        shapes = {"x": free, "words": [None] * 4, "alpha": [None], "threshold": [None],
                  "rprelu": [3, None], "residual": None, "time": [None]}
        inputs = [onnx.helper.make_tensor_value_info(
            name, onnx.TensorProto.INT32 if name == "words" else float32, shape)
            for name, shape in shapes.items()]
        node = onnx.helper.make_node(BINARY_CONV, list(shapes), ["y"], domain=DOMAIN)
        graph = onnx.helper.make_graph(
            [node], "layer", inputs, [onnx.helper.make_tensor_value_info("y", float32, free)])
        model = onnx.helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version,
            functions=[function for function in self.model.functions
                       if function.name == BINARY_CONV])
        return model.SerializeToString(deterministic=True)
