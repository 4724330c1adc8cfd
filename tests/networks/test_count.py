"""Counts compared with the paper, published checkpoints' shapes and the nodes of graphs."""

from __future__ import annotations

import math

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.errors import UsageError
from bidiff_deploy.networks.bi_diffsr.architecture import blocks
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.networks.bi_diffsr.costs import count
from bidiff_deploy.operators.value_names import short
from support.seeds import examples

PUBLISHED = NetworkConfig()


def test_the_published_network_is_counted_exactly():
    found = count(PUBLISHED, 256, 256)
    assert found.parameters == 51_280_387
    assert found.binary_parameters == 48_211_968
    assert found.float_parameters == 51_280_387 - 48_211_968
    assert found.binary_macs == 98_650_030_080
    assert found.float_macs == 33_625_735_168
    assert found.attention_macs == 2 * 512 * (32 * 32) ** 2
    # Linear layers: 64 -> 256 -> 64, and 64 -> C of each residual block.
    assert found.time_macs == 2 * 64 * 256 + 64 * sum(
        block.channels for block in blocks(PUBLISHED) if block.kind == "residual")


def test_the_paper_s_numbers():
    found = count(PUBLISHED, 256, 256)
    assert f"{found.paper_parameters / 1e6:.2f}" == "4.58"
    assert found.paper_parameters == 4_575_043
    assert found.paper_operations == 98_650_030_080 / 64 + 33_625_735_168 + 1_073_741_824
    assert abs(found.paper_operations / 36.67e9 - 1) < 0.015


def test_shapes_of_the_published_biconvs():
    """(channels, kernel, map): how many, as counted in the published implementation."""
    shapes: dict[tuple[int, int, int], int] = {}
    for layer in count(PUBLISHED, 256, 256).layers:
        if layer.binary:
            key = (layer.shape[0], layer.shape[2], layer.height)
            shapes[key] = shapes.get(key, 0) + 1
    assert shapes == {(32, 3, 256): 2, (64, 3, 256): 4, (64, 3, 128): 2, (128, 3, 128): 6,
                      (128, 3, 64): 2, (256, 3, 64): 12, (256, 1, 64): 6, (512, 3, 32): 16,
                      (512, 1, 32): 6}


@pytest.mark.parametrize("name", ["full", "small", "tiny"])
def test_parameters_are_those_of_published_checkpoints(reference, name):
    layout = reference.layout(name)
    sizes = {key: math.prod(shape) for key, shape in layout["shapes"].items()}
    found = count(NetworkConfig.from_dict(layout["network"]), 64, 64)
    assert found.parameters == sum(sizes.values())
    assert found.binary_parameters == sum(size for key, size in sizes.items()
                                          if key.endswith("binary_conv.weight"))


# Of each operator of a step graph: which inputs are sign words, and which are weights.
WORDS = {"NormBinaryConv": (3,), "BinaryFusion": (2, 6), "BinaryDown": (1, 5), "BinaryUp": (1, 5)}
WEIGHTS = {"Conv3x3": (1,), "PairConv": (2,), "NormConv": (3,), "Attention": (3, 4)}


def macs_of_graph(path, height, width):
    """Multiply-accumulates by the name of the layer, from nodes and tensor shapes alone.

    All but two operators leave the map's height and width as they are, and those two convolve
    before they change them.
    """
    graph = onnx.load(path, load_external_data=False).graph
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    size = {value.name: (height, width) for value in graph.input}
    found = {}
    for node in graph.node:
        rows, columns = size[node.input[0]]
        for place in WORDS.get(node.op_type, ()):
            words, threshold = node.input[place], node.input[place + 2]
            cout, k, _, _ = dims[words]
            found[words.removesuffix(".words")] = (
                cout * dims[threshold][0] * k * k * rows * columns)
        for place in WEIGHTS.get(node.op_type, ()):
            weight = node.input[place]
            found[weight.removesuffix(".weight")] = math.prod(dims[weight]) * rows * columns
        if node.op_type == "Attention":
            for product in ("scores", "mixed"):
                found[f"{node.output[0]}.{product}"] = (
                    dims[node.input[3]][1] * (rows * columns) ** 2)
        if node.op_type == "BinaryDown":
            rows, columns = rows // 2, columns // 2
        elif node.op_type == "BinaryUp":
            rows, columns = rows * 2, columns * 2
        size[node.output[0]] = rows, columns
    return found


@pytest.mark.parametrize("name, height, width", [
    ("tiny", 32, 32), ("tiny", 24, 64), ("small", 32, 32), ("small", 64, 40), ("full", 256, 256)])
def test_counts_equal_those_of_the_graph(reference, name, height, width):
    bundle = reference.bundle(name, [1960, 1920, 0] if name == "full" else [0])
    config = NetworkConfig.from_dict(reference.layout(name)["network"])
    expected = {short(layer.name): layer.macs for layer in count(config, height, width).layers}
    assert macs_of_graph(bundle / "step_0000.onnx", height, width) == expected


@examples(30)
@given(inner=st.sampled_from([4, 16, 64]), levels=st.integers(1, 4), blocks=st.integers(1, 3),
       fp=st.sets(st.sampled_from([64, 32, 16])), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_counts_grow_with_the_image(inner, levels, blocks, fp, rows, columns):
    config = NetworkConfig(inner_channel=inner, norm_groups=2, res_blocks=blocks, image_size=64,
                           channel_mults=tuple(1 << level for level in range(levels)),
                           fp_res=tuple(fp))
    once = count(config, rows * config.size_multiple, columns * config.size_multiple)
    twice = count(config, 2 * once.height, 2 * once.width)
    assert twice.parameters == once.parameters
    assert twice.binary_macs == 4 * once.binary_macs
    assert twice.float_macs == 4 * once.float_macs
    assert twice.attention_macs == 16 * once.attention_macs
    assert 0 < once.binary_parameters < once.parameters
    names = [layer.name for layer in once.layers]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("height, width", [(250, 256), (256, 4), (0, 8), (-8, 8),
                                           ((1 << 20) + 8, 8)])
def test_sizes_that_the_network_cannot_run_at(height, width):
    with pytest.raises(UsageError, match="multiples of 8") as caught:
        count(PUBLISHED, height, width)
    assert f"{height}x{width}" in str(caught.value)
