"""Nodes of our operators as the TensorRT plugin reads them; ``engines/tensorrt/README.md``.

Before: the contract's inputs, absent ones as the constant 0, words as the bundle has them. After:
absent inputs left out and named by a bit mask, words in the form that the kernels read. Every
attribute is there that a plugin's creator names: parsers warn of others.
"""

from __future__ import annotations

import onnx
from onnx import helper

from ..errors import EngineError
from ..operators.names import (
    BINARY_CONV,
    BINARY_DOWN,
    BINARY_FUSION,
    BINARY_UP,
    DOMAIN,
    GROUP_NORM_SWISH,
    NORM_BINARY_CONV,
    PLUGIN_VERSION,
    VERSION,
)
from .lower_opset import Lowering, lower_opset
from .record import Options, ParameterizedGraph, Words

# Of each operator: where its branches begin (words, alpha, threshold, rprelu), and which of its
# other inputs may be absent.
BRANCHES = {BINARY_CONV: (1,), NORM_BINARY_CONV: (3,), BINARY_FUSION: (2, 6), BINARY_DOWN: (1, 5),
            BINARY_UP: (1, 5), GROUP_NORM_SWISH: ()}
OPTIONAL = {BINARY_CONV: (5, 6), NORM_BINARY_CONV: (7, 8)}


def lower_with_plugin(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """Pass of the same name: ``lower_opset`` with our operators as nodes of the plugin. Raises
    EngineError for an operator that the plugin does not have."""
    return lower_opset(graph, options, PluginNodes(options.plugin),
                       [helper.make_opsetid(DOMAIN, VERSION)])


class PluginNodes:
    """Writes the plugin's node for a node of our domain. ``plugin``: prepares words; without, the
    plugin prepares those of the contract in every run."""

    def __init__(self, plugin: Words | None) -> None:
        self._plugin = plugin

    def __call__(self, graph: Lowering, node: onnx.NodeProto) -> None:
        """Raises EngineError for an operator that the plugin does not have."""
        kind = node.op_type
        if kind not in BRANCHES:
            raise EngineError(f"{node.domain}.{kind} is no operator of the TensorRT plugin; export "
                              "the bundle again")
        starts = BRANCHES[kind]
        optional = {*OPTIONAL.get(kind, ()), *(start + part for start in starts for part in (2, 3))}
        inputs = {index: name for index, name in enumerate(node.input)
                  if not (index in optional and graph.absent(name))}
        attributes = {"inputs": sum(1 << index for index in inputs)}
        if groups := [a.i for a in node.attribute if a.name == "groups"]:
            attributes["groups"] = groups[0]
        if starts:
            attributes.update(kernel=0, layout=0)
        if starts and self._plugin is not None:
            for start in starts:
                inputs[start] = self._prepared(graph, node, start)
            kernel = graph.constants[node.input[starts[0]]].shape[1]
            attributes.update(kernel=kernel, layout=self._plugin.layout)
        graph.op(kind, *inputs.values(), output=node.output[0], domain=DOMAIN,
                 plugin_namespace=DOMAIN, plugin_version=PLUGIN_VERSION, **attributes)

    def _prepared(self, graph: Lowering, node: onnx.NodeProto, start: int) -> str:
        """The prepared words of a branch."""
        name = node.input[start]
        words = graph.constants.get(name)
        if words is None or words.ndim != 4:
            raise EngineError(f"the weights {name} are no constant (Cout, k, k, words); export "
                              "the bundle again")
        threshold = node.input[start + 2] if start + 2 < len(node.input) else ""
        if threshold:
            channels = graph.dims(threshold)[0]
        else:
            channels = graph.channels(node.input[0])
        made = f"{name}/prepared"
        if made not in graph.constants:
            graph.constants[made] = self._plugin.prepare_words(words, channels)
        return made
