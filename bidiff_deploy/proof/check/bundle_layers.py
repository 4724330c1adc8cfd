"""The binary layers and fused operators of a bundle's graph, and sessions of its parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

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
SINGLE_INPUTS = ("x", "words", "alpha", "threshold", "rprelu", "residual", "time")
FREE = ("N", None, None, None)  # dimensions of a map
Message = TypeVar("Message", onnx.ModelProto, onnx.NodeProto)


@dataclass(frozen=True)
class BinaryLayer:
    """A BinaryConv node: ``name`` as in checkpoints (``encoder.3.conv1``), ``key`` as in the graph
    (``e3.c1``), ``inputs`` the names of its seven inputs, ``output`` that of its output."""

    name: str
    key: str
    inputs: tuple[str, ...]
    output: str

    @property
    def residual(self) -> str:
        """Name of what it adds per pixel: a map, or a constant zero."""
        return self.inputs[5]


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
        self.literals = {node.output[0]: onnx.numpy_helper.to_array(attribute.t)
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
        return {**self.literals, **self.graph.constants, **self.graphs.constants(timestep)}

    def session(self, model: onnx.ModelProto, *, packed: bool, threads: int | None) -> Any:
        """A CPU session of ``model``, a part of this bundle's graph."""
        needed = {tensor.name for tensor in model.graph.initializer}
        return open_session(
            model.SerializeToString(deterministic=True),
            {name: value for name, value in self.graph.constants.items() if name in needed},
            threads=threads, packed=packed)

    def single_layer(self, words: Array | None = None) -> onnx.ModelProto:
        """A graph of one BinaryConv with this bundle's definition of it; all seven inputs,
        SINGLE_INPUTS, are graph inputs, except ``words`` if they are given."""
        float32 = onnx.TensorProto.FLOAT
        shapes = dict[str, Sequence[str | int | None] | None](zip(SINGLE_INPUTS, (
            FREE, [None] * 4, [None], [None], [3, None], None, [None])))
        inputs = [onnx.helper.make_tensor_value_info(
            name, onnx.TensorProto.INT32 if name == "words" else float32, shape)
            for name, shape in shapes.items() if name != "words" or words is None]
        node = onnx.helper.make_node(BINARY_CONV, list(shapes), ["y"], domain=DOMAIN)
        graph = onnx.helper.make_graph(
            [node], "layer", inputs, [onnx.helper.make_tensor_value_info("y", float32, FREE)],
            [] if words is None else [onnx.numpy_helper.from_array(words, "words")])
        return onnx.helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version,
            functions=[function for function in self.model.functions
                       if function.name == BINARY_CONV])


class Sessions(Protocol):
    """A backend that runs parts of a bundle's graph; ``shipped`` is the graph that its engines
    run."""

    shipped: onnx.ModelProto

    def open(self, model: onnx.ModelProto) -> Any:
        """A session of a part, whose definitions of operators may be replaced by kernels."""


class CpuSessions:
    """``Sessions`` on the CPU."""

    def __init__(self, layers: BundleLayers, packed: bool, threads: int | None) -> None:
        self._layers, self._packed, self._threads = layers, packed, threads
        self.shipped = layers.shipped

    def open(self, model: onnx.ModelProto) -> Any:
        return self._layers.session(model, packed=self._packed, threads=self._threads)


class EngineValues:
    """Values inside a run of a bundle's graph in one backend of ONNX Runtime.

    The graph is run as engines run it, with further outputs where its operators end, and returns
    the very prediction of the engine. What fused operators keep to themselves is computed by their
    definitions, each from the maps that it was given in that run.
    """

    def __init__(self, layers: BundleLayers, wanted: Iterable[str], *, packed: bool = False,
                 threads: int | None = None, sessions: Sessions | None = None) -> None:
        """``wanted``: names of float32 maps; those that the graph does not have are left out.
        ``sessions``: of another backend; None: of the CPU, ``packed`` or not."""
        self.layers = layers
        sessions = sessions or CpuSessions(layers, packed, threads)
        fused = [name for one in layers.operators for name in (*one.maps, one.output)]
        names = dict.fromkeys([*wanted, *fused, *(
            name for layer in layers.layers
            for name in (layer.inputs[0], layer.residual, layer.output)
            if name not in layers.literals)])
        shipped = _copy(sessions.shipped)
        made = {name for node in shipped.graph.node for name in node.output}
        _set_outputs(shipped, [*(value.name for value in shipped.graph.output),
                               *(name for name in names if name in made)])
        self._run = sessions.open(shipped)
        self._inside = sessions.open(_inlined_parts(layers, names, made))

    def __call__(self, feed: Mapping[str, Array],
                 timestep: int = 0) -> tuple[dict[str, Array], dict[str, Array]]:
        """The values of the graph as it is run, and those that the definitions of its fused
        operators compute, among them these operators' outputs. ``feed``: the graph's maps."""
        values = {**feed, **self.layers.graphs.constants(timestep)}
        found = run_session(self._run, values)
        return found, run_session(self._inside, {**values, **found}, _GIVEN)


_GIVEN = "/given"  # after the name of a map that is an input of the graph of parts


def _inlined_parts(layers: BundleLayers, names: Iterable[str],
                   made: Collection[str]) -> onnx.ModelProto:
    """The definitions of the fused operators, each with the maps that it reads as inputs. Outputs:
    those of the operators, and whichever of ``names`` are inside them."""
    model = _copy(layers.model)
    graph = model.graph
    maps = {name for one in layers.operators for name in one.maps}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in maps:
                node.input[index] = f"{name}{_GIVEN}"
    have = {name for node in graph.node for name in node.output}
    outputs = dict.fromkeys([*(one.output for one in layers.operators),
                             *(name for name in names if name in have and name not in made)])
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    nodes = [_copy(node) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    for field in (graph.initializer, graph.input):
        used = [value for value in field if value.name in needed]
        del field[:]
        field.extend(used)
    graph.input.extend(onnx.helper.make_tensor_value_info(
        f"{name}{_GIVEN}", onnx.TensorProto.FLOAT, FREE)
        for name in sorted(maps) if f"{name}{_GIVEN}" in needed)
    _set_outputs(model, outputs)
    return model


def _set_outputs(model: onnx.ModelProto, names: Iterable[str]) -> None:
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, FREE) for name in dict.fromkeys(names))


def _copy(message: Message) -> Message:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def layer_outputs(layers: BundleLayers, values: Mapping[str, Array],
                  timestep: int = 0) -> dict[str, Array]:
    """``X.x``, ``X.sign`` and ``X`` of each binary layer X (see ``runners``), of the values in a
    run."""
    constants, found = layers.constants(timestep), {}
    for layer in layers.layers:
        x, threshold = values[layer.inputs[0]], np.asarray(constants[layer.inputs[3]])
        found[f"{layer.key}.x"] = x
        found[f"{layer.key}.sign"] = x + threshold[:, None, None] >= 0
        found[layer.key] = values[layer.output]
    return found


def run_session(session: Any, values: Mapping[str, Array], suffix: str = "") -> dict[str, Array]:
    """``{name: array}`` of all outputs of a session, whose inputs are in ``values``; ``suffix`` of
    an input's name is ignored."""
    names = [value.name for value in session.get_outputs()]
    feeds = {value.name: np.ascontiguousarray(values[value.name.removesuffix(suffix)])
             for value in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds)))
