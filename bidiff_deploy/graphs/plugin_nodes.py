"""Pass ``lower_with_plugin``: operators of ours become nodes of the TensorRT plugin.

Before: inputs as in the op contract, the constant 0 for absent ones, words as in the bundle. After:
absent inputs are left out, a bit mask names those present, and words have the form that the kernels
read. A node has exactly the attributes that the plugin's creator lists: parsers warn about others.
``engines/tensorrt/README.md`` describes the plugin.
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

# For each operator: the first input of each branch (words, alpha, threshold, rprelu), and which
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
    """Writes the plugin's node for a node of our domain. ``plugin``: prepares words; None: the
    plugin prepares the bundle's words in every run."""

    def __init__(self, plugin: Words | None) -> None:
        self._plugin = plugin

    def __call__(self, graph: Lowering, node: onnx.NodeProto) -> None:
        """Raises EngineError for an operator that the plugin does not have."""
        kind = node.op_type
        if kind not in BRANCHES:
            raise EngineError(f"the TensorRT plugin has no operator {node.domain}.{kind}; export "
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
                inputs[start] = _prepared(graph, node, start, self._plugin)
            kernel = graph.constants[node.input[starts[0]]].shape[1]
            attributes.update(kernel=kernel, layout=self._plugin.layout)
        graph.op(kind, *inputs.values(), output=node.output[0], domain=DOMAIN,
                 plugin_namespace=DOMAIN, plugin_version=PLUGIN_VERSION, **attributes)


def _prepared(graph: Lowering, node: onnx.NodeProto, start: int, plugin: Words) -> str:
    """The prepared words of the branch whose first input is ``start``. Raises EngineError for
    words that are no constant."""
    name = node.input[start]
    words = graph.constants.get(name)
    if words is None or words.ndim != 4:
        raise EngineError(f"the weights {name} are no constant (Cout, k, k, words); export "
                          "the bundle again")
    threshold = node.input[start + 2] if start + 2 < len(node.input) else ""
    size = graph.dims(threshold)[0] if threshold else None
    channels = size or graph.channels(node.input[0])
    made = f"{name}/prepared"
    if made not in graph.constants:
        graph.constants[made] = plugin.prepare_words(words, channels)
    return made
