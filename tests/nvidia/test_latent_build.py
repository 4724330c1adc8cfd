"""NVIDIA's builder compiles the graphs of a latent network, as export-onnx writes them."""

from __future__ import annotations

import onnx
import pytest

from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines.tensorrt.api import open_tensorrt
from bidiff_deploy.engines.tensorrt.build.builder import Settings
from bidiff_deploy.engines.tensorrt.build.network import configure, parse
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.export.one_file import one_file_model
from bidiff_deploy.graphs.lowering import TensorRtGraph

pytestmark = pytest.mark.nvidia
# What is exported, and a side of its input.
PARTS = {"step": ({"step": 14}, 32), "encoder": ({"part": "encoder"}, 64),
         "decoder": ({"part": "decoder"}, 16)}


def for_parser(model: onnx.ModelProto) -> TensorRtGraph:
    inputs = {value.name: tuple(dim.dim_value or dim.dim_param
                                for dim in value.type.tensor_type.shape.dim)
              for value in model.graph.input}
    return TensorRtGraph(model.SerializeToString(), inputs,
                         tuple(value.name for value in model.graph.output), 17)


@pytest.mark.parametrize("what", PARTS)
def test_it_is_built_for_a_range_of_sizes(latent, what):
    options, side = PARTS[what]
    graph = for_parser(one_file_model(read_checkpoint(latent.packed("ditsr_tiny")), **options))
    low, high = (1, side, side), (1, 2 * side, 4 * side)
    settings = Settings("rtx", False, Profile(low, low, high), capabilities=(89,))
    api = open_tensorrt(rtx=True)
    builder = api.builder()
    parsed = parse(api, builder, graph, None)
    plan = builder.build_serialized_network(
        parsed.network, configure(api, builder, parsed.network, graph, settings, []))
    assert plan is not None, api.log.text()
    assert plan.nbytes > 1_000_000
