"""Times DoReFa-Net's layers of several bits against ONNX Runtime's float32 Conv.

A layer is that of an exported network, cut out of its graph: residues, binary convolutions, the sum
of weights at borders, the shortcut. ``quantised`` is the same layer as one float32 convolution of
whole codes (Mul, Clip, Round, Conv, Add), ``Conv`` the convolution alone. All run in one process
and thread with the same input, in interleaved rounds after warm-up. Times are the process's CPU
time, which other programs disturb less.

    python tools/bench_bit_planes.py --bits 1x2,2x2,1x4
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator

import numpy as np
import onnx
from bench_binary_conv import WARM_UP, make_session, start_pool
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.checkpoint.record import from_latent
from bidiff_deploy.engines import library
from bidiff_deploy.networks import parameters
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig

LAYERS = ((64, 3, 128), (128, 3, 64), (256, 3, 32))  # channels, k, height = width
REPEATS = 3  # runs in a round
X, Y = "e1/n1", "e1.c1/y"  # input and output of the first binary layer in a graph


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bits", default="1x1,1x2,2x2,1x4,4x4",
                        help="bits of weights x activations")
    arguments = parser.parse_args()

    import onnxruntime

    bits = [tuple(map(int, pair.split("x"))) for pair in arguments.bits.split(",")]
    start_pool(1)
    print(f"kernel {library.selected_kernel()}, onnxruntime {onnxruntime.__version__}, 1 thread, "
          f"load average {os.getloadavg()[0]:.2f}; CPU ms are medians, x the quantised layer's "
          "median over ours, (least, most) of the rounds")
    for channels, k, size in LAYERS:
        measure(channels, k, size, bits, arguments.rounds)
    return 0


def measure(channels: int, k: int, size: int, bits: list[tuple[int, ...]], rounds: int) -> None:
    rng = np.random.default_rng(channels)
    models = {"Conv": dense(channels, k, rng, False), "quantised": dense(channels, k, rng, True),
              **{f"{w}x{a}": layer(channels, w, a, rng) for w, a in bits}}
    sessions = {name: make_session(model.SerializeToString()) for name, model in models.items()}
    x = rng.uniform(-0.5, 1.5, (1, channels, size, size)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for round_number in range(WARM_UP + rounds):
        for name, session in sessions.items():
            start = time.process_time()
            for _ in range(REPEATS):
                session.run(None, {X: x})
            if round_number >= WARM_UP:
                times[name].append(1e3 * (time.process_time() - start) / REPEATS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{channels}@{size}k{k}: Conv {medians['Conv']:.2f}, quantised "
          f"{medians['quantised']:.2f}", end="")
    for name in list(times)[2:]:
        ratios = [a / b for a, b in zip(times["quantised"], times[name])]
        print(f" | {name} {medians[name]:.2f} {medians['quantised'] / medians[name]:.2f}x "
              f"({min(ratios):.2f}, {max(ratios):.2f})", end="")
    print(flush=True)


def layer(channels: int, weight_bits: int, activation_bits: int,
          rng: np.random.Generator) -> onnx.ModelProto:
    """The first binary layer of an exported network."""
    config = NetworkConfig(
        inner_channel=channels, norm_groups=1, channel_mults=(1,), res_blocks=1, fp_res=(),
        binarizer="dorefa", weight_bits=weight_bits, activation_bits=activation_bits)
    latent = {name: (0.1 * rng.standard_normal(parameter.shape)).astype(np.float32)
              for name, parameter in parameters(config).items()}
    checkpoint = from_latent(latent, config, name="bench")
    graph = checkpoint.network.build_graph(checkpoint, numpy_helper.from_array, 1).model
    nodes = list(needed(graph.graph))
    read = {name for node in nodes for name in node.input}
    return model(nodes, [tensor for tensor in graph.graph.initializer if tensor.name in read], Y,
                 graph.opset_import, graph.functions)


def needed(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes between X and Y."""
    wanted, kept = {Y}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output) and X not in node.output:
            wanted.update(node.input)
            kept.append(node)
    return reversed(kept)


def dense(channels: int, k: int, rng: np.random.Generator, quantised: bool) -> onnx.ModelProto:
    """One float32 convolution, alone or with what a quantised layer has around it."""
    constants = {"most": np.float32(3), "zero": np.float32(0),
                 "taps": rng.standard_normal((channels, channels, k, k)).astype(np.float32)}
    around = [helper.make_node("Mul", [X, "most"], ["scaled"]),
              helper.make_node("Clip", ["scaled", "zero", "most"], ["clipped"]),
              helper.make_node("Round", ["clipped"], ["codes"])]
    nodes = [*(around if quantised else []),
             helper.make_node("Conv", ["codes" if quantised else X, "taps"], ["sums"],
                              pads=[k // 2] * 4)]
    if quantised:
        nodes.append(helper.make_node("Add", ["sums", X], [Y]))
    used = {name for node in nodes for name in node.input}
    return model(nodes, [numpy_helper.from_array(np.asarray(value), name)
                         for name, value in constants.items() if name in used],
                 nodes[-1].output[0], [helper.make_opsetid("", 18)], [])


def model(nodes, tensors, output: str, opsets, functions) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, None, None])
            for name in (X, output)]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=functions)


if __name__ == "__main__":
    raise SystemExit(main())
