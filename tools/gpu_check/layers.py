"""Times single operators by every path, for comparison with the memory floor and cuDNN."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tools.checks.cuda_operators import Branch, Call, Gpu

from .shapes import Layer

_MAX_BUFFERS = 24


def time_layers(gpu: Gpu, layers: Sequence[Layer], *, batch: int, repeats: int, rounds: int,
                bandwidth: float, cache: int, seed: int = 0,
                progress: Callable[[int, int], None] | None = None) -> list[dict[str, Any]]:
    """One entry for each layer, with float16 maps: milliseconds by path, medians of ``repeats`` of
    a graph of ``rounds``, cold (maps rotate over more memory than a cache) and warm (one set).

    Each entry: layer, count in a step, batch, bytes, operations, floor_ms, launches and workspace
    by path, paths: {path: {cold_ms, warm_ms, spread, teraops, of_floor}}. ``bandwidth``: bytes a
    second, for the floor; 0: unknown. ``cache``: bytes that maps rotate over.
    """
    found = []
    for number, layer in enumerate(layers):
        size = layer.bytes_moved(batch, 2)
        buffers = max(1, min(_MAX_BUFFERS, -(-cache // size)))
        if size * buffers * 2 > gpu.free_memory:
            buffers = 1
        calls = [make_call(gpu, layer, batch, seed + index) for index in range(buffers)]
        floor = 1e3 * size / bandwidth if bandwidth else None
        entry: dict[str, Any] = {
            "layer": layer.name, "count": layer.count, "batch": batch, "bytes": size,
            "operations": layer.operations(batch), "floor_ms": floor,
            "workspace_bytes": calls[0].workspace_bytes, "buffers": buffers, "launches": {},
            "paths": {}}
        for path in gpu.paths:
            entry["launches"][path] = [launch.kernel for launch in calls[0].launches(path)]
            cold = [calls[0].time(path, rounds=rounds, others=calls[1:]) for _ in range(repeats)]
            warm = [calls[0].time(path, rounds=rounds * buffers) for _ in range(repeats)]
            median = statistics.median(cold)
            entry["paths"][path] = {
                "cold_ms": median, "warm_ms": statistics.median(warm),
                "spread": max(cold) / min(cold) - 1 if min(cold) > 0 else None,
                "teraops": 1e-9 * layer.operations(batch) / median if median > 0 else None,
                "of_floor": median / floor if floor else None}
        found.append(entry)
        gpu.close()
        if progress is not None:
            progress(number + 1, len(layers))
    return found


def make_call(gpu: Gpu, layer: Layer, batch: int, seed: int) -> Call:
    """The layer with all its inputs in the network, float16 maps."""
    random = np.random.default_rng(seed)
    channels = layer.conv_channels

    def vector(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    # One random map, repeated, is faster to make than a whole batch.
    one = random.standard_normal((1, layer.channels, layer.size, layer.size)).astype(np.float16)
    x = np.repeat(one, batch, axis=0)
    words = (channels, layer.k, layer.k, -(-channels // 32))
    branches = [Branch(random.integers(-2**31, 2**31, words).astype(np.int32), vector(channels),
                       vector(channels), vector(3, channels)) for _ in range(layer.branches)]
    match layer.operator:
        case "BinaryConv":
            return gpu.call("BinaryConv", x, branches, residual=x)
        case "NormBinaryConv":
            return gpu.call("NormBinaryConv", x, branches, time=vector(channels),
                            scale=vector(channels), bias=vector(channels),
                            groups=32 if layer.channels % 32 == 0 else 1)
        case "BinaryFusion":
            return gpu.call("BinaryFusion", x, branches, second=x)
    return gpu.call(layer.operator, x, branches)


def best_path(entry: dict[str, Any]) -> str:
    """The fastest path in an entry of time_layers."""
    return min(entry["paths"], key=lambda path: float(entry["paths"][path]["cold_ms"]))


def step_total(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds of a step's entries in total: by path, and with the best path of each."""
    paths = list(entries[0]["paths"]) if entries else []
    total = {path: sum(entry["count"] * entry["paths"][path]["cold_ms"] for entry in entries)
             for path in paths}
    total["best"] = sum(entry["count"] * entry["paths"][best_path(entry)]["cold_ms"]
                        for entry in entries)
    return total


def time_cudnn(layers: Sequence[Layer], *, batch: int, repeats: int, rounds: int,
               device: int = 0) -> dict[str, float]:
    """Milliseconds of one float16 convolution of the same shape by cuDNN, channels_last, with the
    weights folded, as a CUDA graph; without sign, RPReLU and residual. Needs torch with CUDA."""
    torch = import_torch_cuda()
    found = {}
    for layer in layers:
        channels = layer.conv_channels
        with torch.inference_mode(), torch.cuda.device(device):
            torch.backends.cudnn.benchmark = True
            x = torch.randn(batch, channels, layer.size, layer.size, device="cuda",
                            dtype=torch.float16).to(memory_format=torch.channels_last)
            weight = torch.randn(channels, channels, layer.k, layer.k, device="cuda",
                                 dtype=torch.float16).to(memory_format=torch.channels_last)
            run = captured(torch, functools.partial(
                torch.nn.functional.conv2d, x, weight, padding=layer.k // 2), rounds)
            found[layer.name] = statistics.median(
                timed(torch, run) / rounds for _ in range(repeats))
    return found


def import_torch_cuda() -> Any:
    """torch, if it can use the GPU. Raises EngineError with the reason otherwise."""
    from bidiff_deploy.errors import EngineError
    try:
        import torch
    except ImportError:
        raise EngineError("torch is not installed; pip install a build of torch with CUDA") \
            from None
    if not torch.cuda.is_available():
        raise EngineError(f"torch {torch.__version__} does not use the GPU; pip install a build of "
                          "torch whose CUDA fits the driver")
    return torch


def captured(torch: Any, work: Callable[[], Any], rounds: int) -> Callable[[], None]:
    """``rounds`` runs of ``work`` as one CUDA graph, captured after three warm-up runs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            work()
    graph.replay()
    replay: Callable[[], None] = graph.replay
    return replay


def timed(torch: Any, run: Callable[[], None]) -> float:
    """Milliseconds on the GPU of one call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
