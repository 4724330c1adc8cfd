"""The binary layers and fused operators of a bundle's graph, and sessions of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ...bundle.record import Bundle
from ...bundle.step_graphs import StepGraphs
from ...errors import BundleError
from ...graphs.lowering import parameterized_graph
from ...operators.definitions import inline_fused
from ...operators.names import BINARY_CONV, DOMAIN, FUSED
from ...operators.value_names import short
from ..sessions import open_session

Array = npt.NDArray[Any]
FREE = ("N", None, None, None)  # dimensions of a map


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
    the names of the values that it reads, ``compute`` the type to which it may round factors, or
    None."""

    kind: str
    output: str
    maps: tuple[str, ...]
    compute: str | None


class BundleLayers:
    """The graph of a verified bundle, as proofs use it. Raises BundleError if the graph does not
    have the binary layers of the bundle's network.

    ``shipped`` is the graph that engines run, ``model`` the same with fused operators inlined.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.graphs = StepGraphs(bundle)
        self.graphs.require_equal()
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
        constant = {*self.graph.inputs, *(value.name for value in self.shipped.graph.initializer)}
        self.operators = [
            FusedOperator(node.op_type, node.output[0],
                          tuple(name for name in node.input if name not in constant),
                          next((a.s.decode() for a in node.attribute if a.name == "compute"), None))
            for node in self.shipped.graph.node
            if node.domain == DOMAIN and node.op_type in FUSED]

    def constants(self, timestep: int) -> dict[str, Array]:
        """Every initializer and constant of one step, by name in the inlined graph."""
        return {**self._literals, **self.graph.constants, **self.graphs.constants(timestep)}

    def session(self, model: onnx.ModelProto, *, packed: bool, threads: int | None) -> Any:
        """A CPU session of ``model``, a part of this bundle's graph."""
        needed = {tensor.name for tensor in model.graph.initializer}
        return open_session(
            model.SerializeToString(deterministic=True),
            {name: value for name, value in self.graph.constants.items() if name in needed},
            threads=threads, packed=packed)

    def tapped(self, names: Iterable[str]) -> onnx.ModelProto:
        """The inlined graph with the values ``names``, float32 maps, as further outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        have = {value.name for value in model.graph.output}
        for name in dict.fromkeys(names):
            if name not in have:
                model.graph.output.append(onnx.helper.make_tensor_value_info(
                    name, onnx.TensorProto.FLOAT, FREE))
        return model

    def single_layer(self) -> onnx.ModelProto:
        """A graph of one BinaryConv with this bundle's definition of it; all seven inputs are
        graph inputs."""
        float32 = onnx.TensorProto.FLOAT
        shapes: dict[str, Sequence[str | int | None] | None] = {
            "x": FREE, "words": [None] * 4, "alpha": [None], "threshold": [None],
            "rprelu": [3, None], "residual": None, "time": [None]}
        inputs = [onnx.helper.make_tensor_value_info(
            name, onnx.TensorProto.INT32 if name == "words" else float32, shape)
            for name, shape in shapes.items()]
        node = onnx.helper.make_node(BINARY_CONV, list(shapes), ["y"], domain=DOMAIN)
        graph = onnx.helper.make_graph(
            [node], "layer", inputs, [onnx.helper.make_tensor_value_info("y", float32, FREE)])
        return onnx.helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version,
            functions=[function for function in self.model.functions
                       if function.name == BINARY_CONV])


class Taps:
    """The inlined graph of a bundle, with the inputs and outputs of its binary layers."""

    def __init__(self, layers: BundleLayers, *, packed: bool, threads: int | None) -> None:
        self._layers = layers
        names = [name for layer in layers.layers for name in (layer.inputs[0], layer.output)]
        self._session = layers.session(layers.tapped(names), packed=packed, threads=threads)

    def __call__(self, feed: Mapping[str, Array],
                 timestep: int = 0) -> tuple[Array, dict[str, Array]]:
        """The graph's output, and ``layer_outputs``, at one step. ``feed``: the graph's maps."""
        step = self._layers.graphs.constants(timestep)
        values = {**feed, **step}
        values.update(run_session(self._session, values))
        constants = {**self._layers.graph.constants, **step}
        seen = {layer.key: (values[layer.inputs[0]], np.asarray(constants[layer.inputs[3]]),
                            values[layer.output]) for layer in self._layers.layers}
        return values[self._layers.model.graph.output[0].name], layer_outputs(seen)


def layer_outputs(seen: Mapping[str, tuple[Array, Array, Array]]) -> dict[str, Array]:
    """``X.x``, ``X.sign`` and ``X`` of each binary layer X (see ``runners``), of its input,
    threshold and output."""
    found = {}
    for key, (x, threshold, output) in seen.items():
        found[f"{key}.x"] = x
        found[f"{key}.sign"] = x + threshold[:, None, None] >= 0
        found[key] = output
    return found


def run_session(session: Any, values: Mapping[str, Array], suffix: str = "") -> dict[str, Array]:
    """``{name: array}`` of all outputs of a session, whose inputs are in ``values``; ``suffix`` of
    an input's name is ignored."""
    names = [value.name for value in session.get_outputs()]
    feeds = {value.name: np.ascontiguousarray(values[value.name.removesuffix(suffix)])
             for value in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds)))
