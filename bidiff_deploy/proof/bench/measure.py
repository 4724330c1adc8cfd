"""Speed and memory of a bundle and of float32 baselines, measured in turns.

All candidates are in one process and take turns, so that other load on the machine affects all of
them. A ratio is the median of the rounds' ratios, with the smallest and the largest. Load time, the
first run and peak memory are measured in a fresh process per candidate.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.record import Bundle, NoisePredictorBundle
from ...engines import ON_GPU, library
from ...errors import EngineError, UsageError
from ...sampling import sampler
from ...sampling.noise import first_noise
from ..check.statistics import snr
from . import candidates
from .candidates import BASELINES, PACKED
from .profile import BINARY, StepProfile

WARM_UP = 3
ROUNDS = 10
# Threads of a pool spin for some milliseconds after a run, during the next candidate's turn.
PAUSE_SECONDS = 0.02
BUSY_LOAD = 0.5
# Two float32 runs of one network have a higher ratio unless they compute different functions.
SAME_SNR = 10.0


@dataclass(frozen=True)
class Measured:
    """One candidate.

    seconds            time per step, one value per round
    load_seconds, first_run_seconds, peak_memory (bytes)  in a fresh process
    cpu_seconds        processor time of a step, of all threads, in that process
    snr                dB of its prediction against the packed engine's, None for the latter
    ratio              (median, smallest, largest) of its time over the packed engine's
    """

    name: str
    description: str
    seconds: list[float]
    load_seconds: float
    first_run_seconds: float
    peak_memory: int
    cpu_seconds: float
    snr: float | None = None
    ratio: tuple[float, float, float] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class BenchResult:
    """Figures of one bundle at one size.

    what               a step, or the run of a network without steps
    steps              number of them per image
    overhead_seconds   time per image outside the steps: noise, updates
    profile            see ``profile.StepProfile``
    warnings           sentences on why the figures may be wrong
    busy               whether other programs were running, so that all times may be wrong
    """

    bundle: str
    size: tuple[int, int]
    threads: int
    steps: int
    rounds: int
    load_average: tuple[float, float]
    overhead_seconds: float
    measured: list[Measured]
    profile: dict[str, Any]
    unavailable: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    busy: bool = False
    what: str = "step"

    @property
    def binary_share(self) -> float:
        """Share of the packed engine's kernel time that its binary layers take."""
        total = sum(self.profile["parts"].values())
        return self.profile["parts"].get(BINARY, 0.0) / total if total else 0.0

    def image_seconds(self, one: Measured) -> float:
        """Time per image: computed, not measured."""
        return self.steps * one.median + self.overhead_seconds

    def images_per_cpu_second(self, one: Measured) -> float:
        """How many images a second of one processor's time computes, without what is outside the
        steps."""
        return 1 / (self.steps * one.cpu_seconds)

    def ceiling(self, one: Measured) -> float:
        """The ratio to ``one`` if binary layers took no time (Amdahl's law)."""
        return one.median / (self.measured[0].median * (1 - self.binary_share))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, seconds and bytes."""
        values = asdict(self)
        for entry, one in zip(values["measured"], self.measured):
            entry["median_seconds"] = one.median
            entry["image_seconds"] = self.image_seconds(one)
            entry["images_per_cpu_second"] = self.images_per_cpu_second(one)
            entry["ceiling"] = self.ceiling(one) if one.ratio else None
            if one.snr is not None and not np.isfinite(one.snr):
                entry["snr"] = str(one.snr)
        return {**values, "binary_share": self.binary_share}


def bench_bundle(bundle: Bundle, *, size: tuple[int, int], threads: int,
                 against: Sequence[str] = ("onnxruntime", "onnxruntime-minus-sign"),
                 steps: int | None = None, rounds: int = ROUNDS, bounds: bool = False,
                 device: int | None = None, on_progress: Callable[[float], None] | None = None
                 ) -> BenchResult:
    """Measure ``bundle`` at ``size`` (height, width) and the baselines ``against``.

    ``steps``: steps per image (default: all that the bundle visits), of a network that has steps.
    ``bounds``: also measure the
    machine's rates, for ``profile``. ``device``: number of the GPU for baselines on a GPU.
    ``on_progress``: called with the share done, 0 to 1. Raises UsageError for unknown baselines,
    sizes that the network cannot run at, or a device that no baseline uses; EngineError if the
    packed engine cannot run. Baselines that cannot run are listed in ``unavailable``.
    """
    multiple = bundle.network.size_multiple(bundle.config)
    if size[0] % multiple or size[1] % multiple:
        raise UsageError(f"size {size[0]}x{size[1]} must be multiples of {multiple}")
    if unknown := [name for name in against if name not in BASELINES]:
        raise UsageError(f"{unknown[0]!r} cannot be measured against; use one of "
                         f"{', '.join(BASELINES)}")
    if device is not None and not set(ON_GPU).intersection(against):
        raise UsageError(f"device {device} is a GPU, which none of the baselines uses; measure "
                         f"against {', '.join(ON_GPU[:-1])} or {ON_GPU[-1]}, or leave the device "
                         "out")
    if library.library_path() is None:
        raise EngineError(library.missing_reason())
    if isinstance(bundle, NoisePredictorBundle):
        visited = sampler.pick_timesteps(bundle.timesteps, steps, bundle.default_start)
    elif steps is not None:
        raise UsageError(f"steps {steps} is for diffusion bundles; a feed-forward one has no time "
                         "steps, so leave steps out")
    else:
        visited = (bundle.steps[0].timestep,)
    timestep = visited[-1]
    names = list(dict.fromkeys(
        [PACKED, *(name for group in against for name in BASELINES[group])]))
    report = on_progress or (lambda share: None)
    warnings: list[str] = []
    unavailable: dict[str, str] = {}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY_LOAD:
        warnings.append(f"the machine is busy (load average {load:.2f} at the start), so figures "
                        "may be wrong")
    with tempfile.TemporaryDirectory() as temporary, pinned(threads):
        folder = Path(temporary)
        candidates.prepare(names, bundle, timestep, folder)
        fresh: dict[str, dict[str, Any]] = {}
        for index, name in enumerate(names):
            found = _fresh_process(name, bundle, timestep, size, threads, folder, device or 0)
            if "error" in found:
                unavailable[name] = found["error"]
            else:
                fresh[name] = found
            report(0.3 * (index + 1) / len(names))
        if PACKED in unavailable:
            raise EngineError(f"{bundle.path} cannot be measured: {unavailable[PACKED]}")
        feeds = candidates.inputs(bundle, size)
        with StepProfile(bundle, timestep, threads) as profiled:
            loaded = {name: candidates.load(name, bundle.path, timestep, threads, folder,
                                            device or 0) for name in fresh}
            seconds, predictions = _take_turns(loaded, profiled, feeds, rounds,
                                               lambda share: report(0.3 + 0.6 * share))
            descriptions = {name: candidate.description for name, candidate in loaded.items()}
            for candidate in loaded.values():
                candidate.close()
            # Baselines are unloaded before rates are measured: some have threads that never sleep.
            del loaded, candidate
            profile = profiled.result(statistics.median(seconds[PACKED]), bounds=bounds)
    measured = [Measured(
        name, descriptions[name], times,
        **{key: value for key, value in fresh[name].items() if key != "description"},
        snr=None if name == PACKED else snr(predictions[PACKED], predictions[name]),
        ratio=None if name == PACKED else _ratio(times, seconds[PACKED]))
        for name, times in seconds.items()]
    warnings += [f"{one.name} computes another function ({one.snr:.1f} dB)" for one in measured
                 if one.snr is not None and one.snr < SAME_SNR
                 and candidates.FOLDED.get(one.name, True) and "bf16" not in one.name]
    packed = measured[0]
    uneven = max(packed.seconds) > 1.5 * min(packed.seconds)
    if uneven:
        warnings.append("the packed engine's rounds differ by more than half: other programs were "
                        "running")
    return BenchResult(
        str(bundle.path), size, threads, len(visited), rounds,
        (load, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0),
        _overhead(bundle, visited, size), measured, profile, unavailable, warnings,
        busy=uneven or load > BUSY_LOAD,
        what="step" if isinstance(bundle, NoisePredictorBundle) else "run")


def _take_turns(loaded: dict[str, candidates.Candidate], profiled: StepProfile,
                feeds: candidates.Feeds, rounds: int, report: Callable[[float], None]
                ) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    times: dict[str, list[float]] = {name: [] for name in loaded}
    predictions = {}
    for index in range(WARM_UP + rounds):
        for name, candidate in loaded.items():
            time.sleep(PAUSE_SECONDS)
            # A loop runs one network repeatedly. The first run of a turn has the caches of another
            # candidate, so the second is timed.
            candidate(feeds)
            started = time.perf_counter()
            predictions[name] = candidate(feeds)
            elapsed = time.perf_counter() - started
            if index >= WARM_UP:
                times[name].append(elapsed)
            if name == PACKED:
                profiled.run(feeds, counts=index >= WARM_UP)
        report((index + 1) / (WARM_UP + rounds))
    return times, predictions


def _ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    ratios = [a / b for a, b in zip(slow, fast)]
    return statistics.median(ratios), min(ratios), max(ratios)


def _fresh_process(name: str, bundle: Bundle, timestep: int, size: tuple[int, int], threads: int,
                   folder: Path, device: int) -> dict[str, Any]:
    arguments = [name, bundle.path, timestep, *size, threads, folder, device]
    done = subprocess.run([sys.executable, "-m", candidates.__name__, *map(str, arguments)],
                          capture_output=True, text=True)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": f"it failed in a separate process: {lines[-1]}"}


def _overhead(bundle: Bundle, visited: tuple[int, ...], size: tuple[int, int]) -> float:
    """Seconds of an image's loop with a network that takes no time."""
    if not isinstance(bundle, NoisePredictorBundle):
        return 0.0
    started = time.perf_counter()
    noise = first_noise((1, 3, *size), 0, bundle.noiseless)
    condition = np.zeros_like(noise)
    sampler.sample(lambda latent, *_: latent, condition, visited, bundle.schedule, noise,
                   start=bundle.default_start)
    return time.perf_counter() - started


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Restricts this process, and those that it starts, to ``threads`` CPUs."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
