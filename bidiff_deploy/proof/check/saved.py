"""Runs of the reference in a file, for checks on devices without torch.

The file is Polygraphy's RunResults as JSON. Its runner ``inputs`` contains the feeds; the runners
``torch``, ``torch-channels-last`` and that of the backend contain the predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...bundle.record import NoisePredictorBundle
from ...errors import EngineError, UsageError, one_line
from ...files import atomic_file
from .result import CheckResult, StepCheck
from .runners import FLOOR, INSTALL, REFERENCE, EngineRunner
from .statistics import PREDICTION, compare_step

INPUTS = "inputs"
_SHAPES = {"noisy": 4, "condition": 4, "timestep": 1}


@dataclass(frozen=True, eq=False)
class Run:
    """One step: the feed, and the prediction and seconds of each runner by name."""

    feed: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]
    seconds: dict[str, float]


def save_runs(path: str, runs: Sequence[Run], *, overwrite: bool = False) -> None:
    """Write runs to ``path``. Raises OutputError, and EngineError without Polygraphy."""
    with _polygraphy() as comparator:
        results = comparator.RunResults()
        results[INPUTS] = [comparator.IterationResult(dict(run.feed), runner_name=INPUTS)
                           for run in runs]
        for name in runs[0].predictions:
            results[name] = [comparator.IterationResult(
                {PREDICTION: run.predictions[name]}, run.seconds[name], name) for run in runs]
        with atomic_file(path, overwrite) as temporary:
            results.save(str(temporary))


def check_saved(bundle: NoisePredictorBundle, path: str, *, backend: str = "onnxruntime",
                device: int | None = None, threads: int | None = None) -> CheckResult:
    """Compare ``bundle`` in ``backend`` (on GPU ``device`` if it runs on one) with the torch runs
    in ``path``, step by step.

    Needs Polygraphy, not torch. Raises UsageError for a file that contains no such runs or has
    timesteps that the bundle lacks, EngineError for a backend that cannot run.
    """
    steps = []
    feeds, references, floors = _load(path)
    with EngineRunner(bundle, backend, threads=threads, device=device) as engine:
        for feed, reference, floor in zip(feeds, references, floors):
            found = engine.infer(feed)
            steps.append(StepCheck(int(feed["timestep"][0]), compare_step(reference, found),
                                   compare_step(reference, floor), engine.engine.precision))
        description = engine.engine.description
    return CheckResult(
        str(bundle.path), path, description, "torch, as saved", feeds[0]["noisy"].shape[2:],
        steps=tuple(steps),
        notes=("the layers were not compared: saved runs contain predictions only",))


def _load(path: str) -> tuple[list[dict[str, Any]], ...]:
    with _polygraphy() as comparator:
        try:
            results = comparator.RunResults.load(path)
            runs = [[dict(one.items()) for one in results[name]]
                    for name in (INPUTS, REFERENCE, FLOOR)]
            if len({len(run) for run in runs}) != 1 or not runs[0]:
                raise ValueError("it has runs of different lengths")
            for feed in runs[0]:
                if any(np.ndim(feed[name]) != axes for name, axes in _SHAPES.items()):
                    raise ValueError("its inputs have other shapes")
            for one in runs[1] + runs[2]:
                if np.ndim(one[PREDICTION]) != 4:
                    raise ValueError("its predictions have other shapes")
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
        except Exception as error:  # Polygraphy raises its own classes for damaged files
            raise UsageError(f"{path} contains no runs of `bidiff-deploy check --save` "
                             f"({one_line(error, 200)}); write it again") from None
    return tuple(runs)


@contextmanager
def _polygraphy() -> Iterator[Any]:
    """Polygraphy's module ``comparator``, without its log on stdout."""
    try:
        from polygraphy import comparator
        from polygraphy.logger import G_LOGGER
    except ImportError:
        raise EngineError(INSTALL) from None
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        yield comparator
