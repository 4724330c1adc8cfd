"""What files of ``export-onnx`` share: the network's nodes, indices of padded images, types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from ..checkpoint.record import Checkpoint
from ..graphs.opset import OPSET
from ..networks.base import STEP
from ..operators.node_writer import IR_VERSION, NodeWriter
from ..version import __version__
from .standard_network import standard_network

__all__ = ["COLORS", "FileWriter", "NOISE_SIDE"]

NOISE_SIDE = 128  # of the field of noise, which is repeated over larger images
COLORS = 3
_SIDE = 8  # of the input that channels are inferred at, in multiples of the network's unit


class FileWriter(NodeWriter):
    """Writes the nodes around the network, and the network's nodes with prefix ``network/``."""

    def __init__(self, checkpoint: Checkpoint, half: bool, plain: bool) -> None:
        super().__init__()
        self.checkpoint, self.network = checkpoint, checkpoint.network
        self.half, self.plain = half, plain
        self.unit = self.network.size_multiple(checkpoint.config)

    def indices(self, size: str, axis: int, label: str, unit: int,
                noisy: bool = True) -> tuple[str, str]:
        """Indices of an axis that is padded to a multiple of ``unit``: in the image, as
        ``pad_reflect`` mirrors it, and in the field of noise, if there is one."""

        def op(kind: str, *inputs: str | int, name: str) -> str:
            values = [self.constant(np.int64(value), f"int_{value}") if isinstance(value, int)
                      else value for value in inputs]
            return self.op(kind, *values, name=f"{label}/{name}")

        side = op("Gather", size, axis, name="side")
        units = op("Div", op("Add", side, unit - 1, name="at_least"), unit, name="units")
        index = op("Range", 0, op("Mul", units, unit, name="padded"), 1, name="index")
        twice = op("Mul", op("Sub", side, 1, name="last"), 2, name="twice")
        period = op("Max", twice, 1, name="period")
        forth = op("Mod", index, period, name="forth")
        mirrored = op("Min", forth, op("Sub", period, forth, name="back"), name="mirrored")
        return mirrored, op("Mod", index, NOISE_SIDE, name="repeated") if noisy else ""

    def written(self, timestep: int | None, inputs: Sequence[str], output: str | None = None,
                part: str = STEP) -> str:
        """The output of a part of the network for ``inputs``, in the order of its own inputs."""
        store, prefix = numpy_helper.from_array, "network" if part == STEP else part
        model = (self.network.build_graph(self.checkpoint, store, timestep) if part == STEP
                 else self.network.build_part(self.checkpoint, store, part)).model
        result: str = model.graph.output[0].name
        names = {value.name: name for value, name in zip(model.graph.input, inputs)}
        if output is not None:
            names[result] = output
        nodes, constants = standard_network(model, _SIDE * self.unit, half=self.half,
                                            plain=self.plain)

        def named(name: str) -> str:  # "" is an input that is left out
            return names.get(name, name and f"{prefix}/{name}")

        for node in nodes:
            node.name = named(node.output[0])
            for values in (node.input, node.output):
                values[:] = [named(name) for name in values]
        self.nodes += nodes
        for name, value in constants.items():
            self.initializer(named(name), value)
        return named(result)

    # -- types ------------------------------------------------------------------------------------
    def widened(self, name: str) -> str:
        """An input of the model as float32."""
        if not self.half:
            return name
        return self.op("Cast", name, to=TensorProto.FLOAT, name=f"{name}/float")

    def last(self, name: str) -> str:
        """The name of the float32 value that becomes output ``name`` of the model."""
        return f"{name}/float" if self.half else name

    def finished(self, y: str, output: str, shape: Sequence[int | str], inputs: Sequence[str],
                 facts: Mapping[str, Any], channels: Mapping[str, int] | None = None
                 ) -> ModelProto:
        """The model of the nodes, checked, with ``facts`` as metadata. ``channels``: of inputs that
        are no images."""
        kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        if self.half:
            self.op("Cast", y, to=kind, name=output)
        graph = helper.make_graph(
            self.nodes, "bidiff_deploy",
            [helper.make_tensor_value_info(
                name, kind, ("N", (channels or {}).get(name, COLORS), "H", "W"))
             for name in inputs],
            [helper.make_tensor_value_info(output, kind, shape)],
            list(self.initializers.values()))
        model = helper.make_model(graph, ir_version=IR_VERSION, producer_name="bidiff_deploy",
                                  producer_version=__version__,
                                  opset_imports=[helper.make_opsetid("", OPSET)])
        helper.set_model_props(model, {key: json.dumps(value, sort_keys=True)
                                       for key, value in facts.items()})
        checker.check_model(model, full_check=True)
        return model
