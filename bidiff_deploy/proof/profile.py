"""Where the packed engine's time goes, from ONNX Runtime's own profile."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from ..bundle import Bundle
from ..engines.step_graphs import StepGraphs
from .sessions import open_session

BINARY = "binary convolutions"
_PARTS = {
    "full-precision convolutions": {"Conv", "FusedConv", "NhwcFusedConv"},
    "norms and elementwise": {
        "GroupNormSwish", "InstanceNormalization", "GroupNormalization", "Sigmoid", "QuickGelu",
        "Mul", "Add", "Silu", "Swish", "BiasGelu"},
    "attention": {"MatMul", "FusedMatMul", "Softmax", "Attention", "MultiHeadAttention"},
}
RUNS = 3


def profile_step(bundle: Bundle, timestep: int, noisy: np.ndarray, condition: np.ndarray,
                 threads: int) -> dict[str, dict[str, float]]:
    """Seconds a step, after one warm-up: ``parts`` by kind, ``operators`` by type, largest first.

    Kernel times alone; a profiled run is slower than others, so only shares are meaningful.
    """
    graphs = StepGraphs(bundle)
    promoted = graphs.promoted()
    feeds = {"noisy": noisy, "condition": condition,
             **{name: np.asarray(value) for name, value in graphs.constants(timestep).items()}}
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(promoted.model, promoted.constants, threads=threads,
                               profile=str(Path(folder, "step")))
        for _ in range(1 + RUNS):
            session.run(["prediction"], feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    measured = runs[1] if len(runs) > 1 else 0  # from there on the warm-up is over
    parts: dict[str, float] = defaultdict(float)
    operators: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") \
                and event["ts"] >= measured:
            operator, seconds = event["args"]["op_name"], event["dur"] / 1e6 / RUNS
            operators[operator] += seconds
            parts[_part(operator)] += seconds
    return {"parts": _sorted(parts), "operators": _sorted(operators)}


def _part(operator: str) -> str:
    if operator.startswith("Binary"):
        return BINARY
    return next((part for part, names in _PARTS.items() if operator in names), "data movement")


def _sorted(values: dict[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))
