"""The packed engine's time by operator, from ONNX Runtime's profile."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.record import Bundle
from ...bundle.step_graphs import StepGraphs
from ...graphs.lowering import parameterized_graph
from ...operators.names import (
    ATTENTION,
    BINARY_CONV,
    BINARY_DOWN,
    BINARY_FUSION,
    BINARY_UP,
    CONV3X3,
    GROUP_NORM_SWISH,
    NORM_BINARY_CONV,
    NORM_CONV,
    PAIR_CONV,
)
from ..sessions import open_session
from .roofline import measure_rates, roofline

BINARY = "binary layers"  # including the norms and shuffles that are fused with them
_PARTS = {
    "full-precision layers": {"Conv", "FusedConv", "NhwcFusedConv", CONV3X3, PAIR_CONV, NORM_CONV},
    "norms and elementwise": {
        GROUP_NORM_SWISH, "InstanceNormalization", "GroupNormalization", "Sigmoid", "QuickGelu",
        "Mul", "Add", "Silu", "Swish", "BiasGelu"},
    "attention": {"MatMul", "FusedMatMul", "Softmax", ATTENTION, "MultiHeadAttention"},
}
_BINARY = (BINARY_CONV, NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP)
WARM_UP, RUNS = 3, 7


def profile_step(bundle: Bundle, timestep: int, noisy: np.ndarray, condition: np.ndarray,
                 threads: int, *, bounds: bool = False) -> dict[str, Any]:
    """Seconds per step after warm-up: ``parts`` by kind, ``operators`` by type, largest first; with
    ``bounds`` also ``roofline``, see ``roofline.roofline``.

    Only kernel times are counted, the median of each node's runs.
    """
    graphs = StepGraphs(bundle)
    graph = parameterized_graph(graphs)
    feeds = {"noisy": noisy, "condition": condition,
             **{name: np.asarray(value) for name, value in graphs.constants(timestep).items()}}
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(graph.serialized(), graph.constants, threads=threads, arena=True,
                               profile=str(Path(folder, "step")))
        for _ in range(WARM_UP + RUNS):
            session.run(["prediction"], feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    measured = runs[WARM_UP] if len(runs) > WARM_UP else 0  # when the warm-up ended
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") \
                and event["ts"] >= measured:
            nodes[event["name"], event["args"]["op_name"]].append(event["dur"] / 1e6)
    parts: dict[str, float] = defaultdict(float)
    operators: dict[str, float] = defaultdict(float)
    for (_, operator), durations in nodes.items():
        # Usually one node per name; if several share a name, all of them count.
        seconds = statistics.median(durations) * len(durations) / RUNS
        operators[operator] += seconds
        parts[_part(operator)] += seconds
    found: dict[str, Any] = {"parts": _sorted(parts), "operators": _sorted(operators)}
    if bounds:
        del session
        batch, _, height, width = noisy.shape
        found["roofline"] = roofline(graph.model, height, width, batch, measure_rates(threads),
                                     found, _part)
    return found


def _part(operator: str) -> str:
    if operator in _BINARY:
        return BINARY
    return next((part for part, names in _PARTS.items() if operator in names), "data movement")


def _sorted(values: dict[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))
