"""Runs of the reference in a file, for checks on devices without torch.

The file is Polygraphy's RunResults as JSON. Its runner ``inputs`` contains the feeds, and with each
the hash of the bundle and whether its check passed; the runners ``torch``, ``torch-channels-last``
and that of the backend contain the predictions.

What a later check proves: that the bundle is the one whose parts were compared with the checkpoint;
on a CPU, that each fused operator returns what its definition does, and that the kernels' integer
sums are those of the standard operators; and that predictions are those of the reference, as far as
their signal-to-noise ratio shows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...bundle.manifest import manifest_digest
from ...bundle.record import Bundle, NoisePredictorBundle
from ...errors import EngineError, UsageError, one_line
from ...files import atomic_file
from ...operators.names import BINARY_CONV
from .bundle_layers import BundleLayers, EngineValues
from .layers import LayerOp
from .operators import EXACT, OperatorCheck, check_operators
from .result import CheckResult, StepCheck, first_wrong
from .runners import CPU_BACKENDS, FLOOR, INSTALL, REFERENCE, EngineRunner
from .statistics import PREDICTION, compare_step, snr

INPUTS = "inputs"
_MAX_BYTES = 4 << 30  # 10 steps of an image of 6 megapixels
_DIGEST, _PASSED = "bundle", "passed"
_SHAPES = {"noisy": 4, "condition": 4, "timestep": 1}


@dataclass(frozen=True, eq=False)
class Run:
    """One step: the feed, and the prediction and seconds of each runner by name."""

    feed: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]
    seconds: dict[str, float]


def save_runs(path: str, runs: Sequence[Run], bundle: Bundle, passed: bool, *,
              overwrite: bool = False) -> None:
    """Write runs of a check to ``path``, ``passed``: its verdict. Raises OutputError, and
    EngineError without Polygraphy."""
    checked = {_DIGEST: _digest(bundle), _PASSED: np.array([passed], np.uint8)}
    with _polygraphy() as comparator:
        results = comparator.RunResults()
        results[INPUTS] = [comparator.IterationResult({**run.feed, **checked}, runner_name=INPUTS)
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
    steps, operators = [], list[OperatorCheck]()
    feeds, references, floors = _load(path)
    notes = ["the layers were not compared: saved runs contain predictions only; "
             f"{_origin(bundle, feeds[0])}"]
    with EngineRunner(bundle, backend, threads=threads, device=device) as engine:
        parts = (_Operators(bundle, CPU_BACKENDS[backend], threads) if backend in CPU_BACKENDS
                 else None)
        for feed, reference, floor in zip(feeds, references, floors):
            feed = {name: feed[name] for name in _SHAPES}
            found, timestep = engine.infer(feed), int(feed["timestep"][0])
            checked = parts(feed, timestep) if parts else []
            operators += checked
            steps.append(StepCheck(timestep, compare_step(reference, found),
                                   compare_step(reference, floor), engine.engine.precision,
                                   wrong=first_wrong((), (), checked)))
        description = engine.engine.description
    return CheckResult(
        str(bundle.path), path, description, "torch, as saved", feeds[0]["noisy"].shape[2:],
        operators=tuple(operators), steps=tuple(steps), notes=tuple(notes))


class _Operators:
    """Compares the fused operators of a step with their definitions, and the integer sums of each
    binary layer in the kernels with those of the standard operators."""

    def __init__(self, bundle: NoisePredictorBundle, packed: bool, threads: int | None) -> None:
        self._layers = BundleLayers(bundle)
        self._values = EngineValues(self._layers, (), packed=packed, threads=threads)
        self._ops = [LayerOp(self._layers, packed=kind, threads=threads)
                     for kind in ((True, False) if packed else ())]

    def __call__(self, feed: Mapping[str, np.ndarray], timestep: int) -> list[OperatorCheck]:
        maps = {name: feed[name] for name in ("noisy", "condition")}
        run, inside = self._values(maps, timestep)
        found = check_operators(self._layers, run, inside, timestep)
        constants, values = self._layers.constants(timestep), {**inside, **run}
        for layer in self._layers.layers if self._ops else ():
            words, threshold = (np.asarray(constants[layer.inputs[at]]) for at in (1, 3))
            ours, right = (op.sums(values[layer.inputs[0]], words, threshold) for op in self._ops)
            found.append(OperatorCheck(f"sums of {layer.name}", BINARY_CONV, timestep,
                                       snr(right, ours), EXACT))
        return found


def _digest(bundle: Bundle) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(manifest_digest(bundle.manifest)), np.uint8)


def _origin(bundle: Bundle, feed: Mapping[str, Any]) -> str:
    if _DIGEST not in feed:
        return "the file does not say of which bundle"
    if not np.array_equal(feed[_DIGEST], _digest(bundle)):
        return "they were saved by a check of another bundle"
    return "they were saved by a check of this bundle, which " + (
        "passed" if np.any(feed.get(_PASSED)) else "failed")


def _load(path: str) -> tuple[list[dict[str, Any]], ...]:
    with _polygraphy() as comparator:
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
                raise ValueError("it is not a file" if found.st_size <= _MAX_BYTES else
                                 f"it has more than {_MAX_BYTES >> 30} GiB")
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
