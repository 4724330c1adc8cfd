"""The packed engine's time by operator, from ONNX Runtime's profile.

The profiled session takes its turns in the same rounds as the engine itself, so that a machine that
is busy for a while affects both.
"""

from __future__ import annotations

import bisect
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
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
    WINOGRAD_CONV,
)
from ..sessions import open_session
from .roofline import measure_rates, roofline

BINARY = "binary layers"  # including the norms and shuffles that are fused with them
_PARTS = {
    "full-precision layers": {"Conv", "FusedConv", "NhwcFusedConv", CONV3X3, WINOGRAD_CONV,
                              PAIR_CONV, NORM_CONV},
    "norms and elementwise": {
        GROUP_NORM_SWISH, "InstanceNormalization", "GroupNormalization", "Sigmoid", "QuickGelu",
        "Mul", "Add", "Div", "Silu", "Swish", "BiasGelu", "LeakyRelu", "Resize", "Upsample",
        "LayerNormalization"},
    "attention": {"MatMul", "FusedMatMul", "Softmax", ATTENTION, "MultiHeadAttention"},
}
_BINARY = (BINARY_CONV, NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP)


class StepProfile:
    """A session of one step that records the time of every node."""

    def __init__(self, bundle: Bundle, timestep: int, threads: int) -> None:
        graphs = StepGraphs(bundle)
        self._graph, self._threads = parameterized_graph(graphs), threads
        self._constants = {name: np.asarray(value)
                           for name, value in graphs.constants(timestep).items()}
        self._folder = tempfile.TemporaryDirectory()
        self._session = open_session(
            self._graph.serialized(), self._graph.constants, threads=threads, arena=True,
            profile=str(Path(self._folder.name, "step")))
        self._shape: tuple[int, ...] = ()
        self._counted: list[int] = []  # which of the runs count
        self._runs = 0

    def __enter__(self) -> StepProfile:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, feeds: Mapping[str, np.ndarray], *, counts: bool = True) -> None:
        """Two steps, of which the second counts: the first has the caches of another candidate.
        ``feeds``: the graph's maps."""
        self._shape = next(iter(feeds.values())).shape
        for _ in range(2):
            self._session.run(None, {**feeds, **self._constants})
        self._runs += 2
        if counts:
            self._counted.append(self._runs - 1)

    def result(self, step_seconds: float, *, bounds: bool = False) -> dict[str, Any]:
        """Seconds per step: ``parts`` by kind, ``operators`` by type, largest first; with
        ``bounds`` also ``roofline``, see ``roofline.roofline``. Ends the profile.

        Only kernel times are counted, the median of each node's runs. Their sum is at most
        ``step_seconds``, the time of an unprofiled step: ``scale`` is what all were multiplied by.
        """
        events = json.loads(Path(self._session.end_profiling()).read_text())
        del self._session  # before rates are measured
        starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
        counted = set(self._counted)
        nodes: dict[tuple[str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                run = bisect.bisect_right(starts, event["ts"]) - 1
                if run in counted:  # if several nodes share a name, all of them count
                    nodes[event["name"], event["args"]["op_name"]][run] += event["dur"] / 1e6
        operators: dict[str, float] = defaultdict(float)
        for (_, operator), durations in nodes.items():
            operators[operator] += statistics.median(durations.values())
        scale = min(1.0, step_seconds / (sum(operators.values()) or step_seconds))
        parts: dict[str, float] = defaultdict(float)
        for operator in operators:
            operators[operator] *= scale
            parts[_part(operator)] += operators[operator]
        found: dict[str, Any] = {"parts": _sorted(parts), "operators": _sorted(operators),
                                 "scale": scale}
        if bounds:
            batch, _, height, width = self._shape
            found["roofline"] = roofline(self._graph.model, height, width, batch,
                                         measure_rates(self._threads), found, _part)
        return found


def _part(operator: str) -> str:
    if operator in _BINARY:
        return BINARY
    return next((part for part, names in _PARTS.items() if operator in names), "data movement")


def _sorted(values: dict[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))
