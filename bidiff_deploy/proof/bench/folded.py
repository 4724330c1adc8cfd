"""The network without packing, in float32: the baselines of a benchmark.

Each BinaryConv becomes Add, Sign, Conv with the dense weights alpha * sign(W), Add, PRelu, Add,
Add, as in an export of the torch network, without those that its binarizer does not have. All
constants of one step are initializers, so that a runtime may fuse what it can. The bit planes of a
layer become one convolution of the activations' whole codes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.inliner import inline_local_functions

from ...bundle.record import Bundle
from ...errors import EngineError
from ...networks.bi_diffsr.architecture import Block, blocks, parameters
from ...networks.bi_diffsr.binarizers import PLANES
from ...operators.names import BINARY_CONV
from ...operators.sign_bits import dense_weight
from ...operators.value_names import short
from ..check.bundle_layers import BundleLayers
from ..check.statistics import PREDICTION
from ..reference import in_channels_last
from .folded_planes import folded_codes, folded_planes, layers_of_planes

if TYPE_CHECKING:
    from ...training.networks.bi_diffsr import BiDiffSR

FILE = "folded.onnx"


def write_folded(bundle: Bundle, timestep: int, folder: Path, *, sign: bool = True) -> Path:
    """Write one step of ``bundle`` as plain ONNX with external weights; returns the file.

    Inputs ``noisy`` and ``condition``, output ``prediction``. ``sign=False`` leaves out the Sign
    nodes, to measure the time of the rest; the result has no meaning.
    """
    layers = BundleLayers(bundle)
    constants = {name: np.asarray(value) for name, value in layers.constants(timestep).items()}
    steps = set(layers.graph.inputs)
    by_output = {layer.output: layer for layer in layers.layers}
    planes = layers_of_planes(layers.layers)
    for key in planes:  # the convolution of codes contains what is added to signs
        constants.update(dict.fromkeys((f"{key}.offset_map", f"{key}/offset"),
                                       np.zeros(1, np.float32)))
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, np.ndarray] = {}
    for node in layers.model.graph.node:
        layer = by_output.get(node.output[0])
        if layer is not None and PLANES in layer.name:
            each = planes[layer.key.partition(PLANES)[0]]
            if layer is each[-1]:
                nodes += folded_planes(each, bundle.config, constants, tensors, sign)
        elif layer is not None:
            nodes += _folded(layer.inputs, layer.output, constants, tensors, sign)
        elif node.output[0] not in constants:
            nodes.append(node)
    outputs = {value.name for value in layers.model.graph.output}
    nodes = _needed(_without_zeros(nodes, constants), outputs)
    used = {name for node in nodes for name in node.input}
    tensors.update((name, value) for name, value in constants.items() if name in used)
    kept = [tensor for tensor in layers.model.graph.initializer
            if tensor.name in used and tensor.name not in tensors]
    graph = helper.make_graph(
        nodes, "folded", [value for value in layers.model.graph.input if value.name not in steps],
        list(layers.model.graph.output), kept)
    functions = [f for f in layers.model.functions if f.name != BINARY_CONV]
    model = helper.make_model(graph, ir_version=layers.model.ir_version,
                              opset_imports=layers.model.opset_import, functions=functions)
    # Added after functions are inlined, which is faster without the values.
    model = inline_local_functions(model)
    model.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(value), name)
                                   for name, value in tensors.items())
    path = folder / FILE
    onnx.save_model(model, path, save_as_external_data=True, location="folded.bin")
    return path


def _folded(inputs: tuple[str, ...], output: str, constants: Mapping[str, np.ndarray],
            tensors: dict[str, np.ndarray], sign: bool) -> list[onnx.NodeProto]:
    x, words, alpha, threshold, rprelu, residual, time = inputs
    weight = dense_weight(constants[words], constants[alpha], len(constants[threshold]))
    columns = {"threshold": constants[threshold], "time": constants[time],
               **dict(zip(("shift_in", "slope", "shift_out"), constants[rprelu]))}
    mine = {f"{output}/{name}": value[:, None, None] for name, value in columns.items()}
    mine[f"{output}/weight"] = weight
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, *names: str, **attributes: Any) -> str:
        result = f"{output}/{len(nodes)}"
        nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    y = op("Add", x, f"{output}/threshold") if np.any(columns["threshold"]) else x
    if sign:
        y = op("Sign", y)
    y = op("Conv", y, f"{output}/weight", pads=[weight.shape[-1] // 2] * 4)
    if np.any(columns["shift_in"]) or np.any(columns["shift_out"]) or np.any(columns["slope"] != 1):
        y = op("PRelu", op("Add", y, f"{output}/shift_in"), f"{output}/slope")
        y = op("Add", y, f"{output}/shift_out")
    if residual not in constants or np.any(constants[residual]):
        y = op("Add", y, residual)
    if np.any(constants[time]) or constants[time].size > 1:
        op("Add", y, f"{output}/time")
    nodes[-1].output[0] = output
    tensors.update((name, mine[name]) for node in nodes for name in node.input if name in mine)
    return nodes


def _needed(nodes: list[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes on which the graph's outputs depend."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _without_zeros(nodes: list[onnx.NodeProto],
                   constants: Mapping[str, np.ndarray]) -> list[onnx.NodeProto]:
    """The nodes without additions of a constant zero, which in fused operators means an absent map
    or vector, and which no export of a torch network has."""
    zeros = {name for name, value in constants.items() if np.size(value) == 1 and not np.any(value)}
    same: dict[str, str] = {}
    kept = []
    for node in nodes:
        names = [same.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(names)
        rest = [name for name in names if name not in zeros]
        if node.op_type == "Reshape" and names[0] in zeros:
            zeros.add(node.output[0])
        elif node.op_type == "Add" and len(rest) == 1:
            same[node.output[0]] = rest[0]
        else:
            kept.append(node)
    made = {name: node for node in kept for name in node.output}
    # The graph's output keeps its name although its node was removed.
    if PREDICTION in same:
        producer, value = made[same[PREDICTION]], same[PREDICTION]
        for node in (producer, *kept):
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = PREDICTION if name == value else name
    return kept


def _split_pair(block: Block, weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters of a full-precision block's two convolutions, from the one that export makes
    of them (``step_constants.pair_of_convolutions``). If their outputs are added, the first gets
    the sum of the biases."""
    biases = [bias.copy(), np.zeros_like(bias)]
    if block.kind == "up":
        weights, biases = np.split(weight, 2), np.split(bias, 2)
    elif block.kind == "down":
        weights = np.split(weight, 2, axis=1)
    else:
        channels = len(weight)
        weights = [np.concatenate([weight[:, 1:channels:2], weight[:, channels::2]], axis=1),
                   np.concatenate([weight[:, 0:channels:2], weight[:, channels + 1::2]], axis=1)]
    return {f"{block.name}.conv{half}.{part}": np.array(value)
            for half in (1, 2) for part, value in (("weight", weights[half - 1]),
                                                   ("bias", biases[half - 1]))}


def _dense_node(module: Any, weight: Any) -> Any:
    """The ``node`` method of a layer, with its weight alpha * sign."""
    import torch
    from torch.nn.functional import conv2d

    threshold = module.constants(0).get("threshold")

    def node(x: Any, group: Any = None, low: Any = None) -> Any:
        shifted = x if threshold is None else x + threshold.view(1, -1, 1, 1)
        y = conv2d(torch.sign(shifted), weight, padding=module.padding)
        return y + module.residual(x) if module.shortcut else y

    return node


def folded_network(bundle: Bundle, timestep: int) -> BiDiffSR:
    """The same step as a torch network in channels_last, its weights folded once.

    Call it with this ``timestep``. Raises EngineError without torch.
    """
    try:
        import torch
        from torch import nn
    except ImportError:
        raise EngineError("torch is not installed, so it cannot be measured; "
                          "pip install 'bidiff-deploy[train]' or leave it out") from None
    from ...training.networks.bi_diffsr import BiDiffSR
    from ...training.networks.binarize import BinaryLayer
    from ...training.networks.bit_planes import BitPlane, BitPlaneConv2d

    class FoldedConv(nn.Module):
        weight: torch.Tensor
        threshold: torch.Tensor
        shift_in: torch.Tensor
        slope: torch.Tensor
        shift_out: torch.Tensor

        def __init__(self, layer: BinaryLayer, weight: np.ndarray, threshold: np.ndarray,
                     rprelu: np.ndarray) -> None:
            super().__init__()
            self.residual = layer.residual
            self.register_buffer("weight", torch.from_numpy(weight.copy()))
            for name, value in zip(("threshold", "shift_in", "shift_out"),
                                   (threshold, rprelu[0], rprelu[2])):
                self.register_buffer(name, torch.from_numpy(value.copy()).view(1, -1, 1, 1))
            self.register_buffer("slope", torch.from_numpy(rprelu[1].copy()))

        def forward(self, x: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
            y = nn.functional.conv2d(torch.sign(x + self.threshold), self.weight,
                                     padding=self.weight.shape[-1] // 2)
            y = nn.functional.prelu(y + self.shift_in, self.slope) + self.shift_out
            return y + self.residual(x)

    class Vector(nn.Module):
        value: torch.Tensor

        def __init__(self, value: np.ndarray) -> None:
            super().__init__()
            self.register_buffer("value", torch.from_numpy(value.copy()).view(1, -1))

        def forward(self, embedding: torch.Tensor) -> torch.Tensor:
            return self.value

    layers = BundleLayers(bundle)
    planes = layers_of_planes(layers.layers)
    values = {name: np.asarray(value) for name, value in layers.constants(timestep).items()}
    network = BiDiffSR(bundle.config).eval().requires_grad_(False)
    state = {}
    for name, parameter in parameters(bundle.config).items():
        # ``NAME_map`` is the input of a standard operator, not a constant of BinaryConv.
        key = next((key for key in (f"{short(name)}_map", short(name)) if key in values), None)
        if key is not None and not (parameter.binary or parameter.grouped):
            state[name] = torch.from_numpy(values[key].reshape(parameter.shape).copy())
    for block in blocks(bundle.config):
        if block.kind in ("fusion", "down", "up") and not block.binary:
            state.update((name, torch.from_numpy(value)) for name, value in _split_pair(
                block, *(values[f"{short(block.name)}.{part}"]
                         for part in ("weight", "bias"))).items())
    network.load_state_dict(state, strict=False)
    for name, module in list(network.named_modules()):
        owner, _, child = name.rpartition(".")
        key = short(name)
        if isinstance(module, BitPlaneConv2d):
            setattr(network.get_submodule(owner), child,
                    folded_codes(module, planes[key], bundle.config, values))
        elif isinstance(module, BinaryLayer) and not isinstance(module, BitPlane):
            threshold = values[f"{key}.threshold"]
            dense = dense_weight(values[f"{key}.words"], values[f"{key}.alpha"], len(threshold))
            if module.fused:
                setattr(network.get_submodule(owner), child,
                        FoldedConv(module, dense, threshold, values[f"{key}.rprelu"]))
            else:
                weight = torch.from_numpy(dense)
                module.weight.copy_(weight / module.share)
                setattr(module, "node", _dense_node(module, weight))  # noqa: B010 -- replaces a method
        elif child == "time":
            setattr(network.get_submodule(owner), child, Vector(values[key].reshape(-1)))
    in_channels_last(network)
    return network
