"""Time of each part of a latent network's bundle, and its share of an image.

The encoder and the decoder run once an image and the network once a step, so a step alone says
little: with one step most of the time is the autoencoder's. Candidates take turns in one process.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...bundle.record import LatentBundle
from ...engines import open_engine
from ...engines.latent import LatentDiffusion
from ...errors import BidiffError, UsageError
from ...images.resample import enlarge
from ...networks.base import DECODER, ENCODER, STEP
from ...sampling.sampler import pick_timesteps
from ..check.statistics import snr
from .candidates import PACKED
from .measure import BUSY_LOAD, PAUSE_SECONDS, WARM_UP, pinned

__all__ = ["BASELINES", "LatentBench", "PARTS", "bench_latent"]

PARTS = (ENCODER, STEP, DECODER)
BACKENDS = {PACKED: "onnxruntime", "onnxruntime": "onnxruntime-stock"}
BASELINES = tuple(name for name in BACKENDS if name != PACKED)


@dataclass(frozen=True)
class LatentBench:
    """Figures of one bundle at one size.

    size          height and width of the low-resolution image
    steps         of an image
    descriptions  of each candidate; the first is the bundle's own engine
    seconds       of each candidate's parts, one value a round
    agreement     dB of each baseline's step against the first candidate's
    busy          whether other programs were running, so that all times may be wrong
    """

    bundle: str
    size: tuple[int, int]
    threads: int
    steps: int
    rounds: int
    load_average: tuple[float, float]
    descriptions: dict[str, str]
    seconds: dict[str, dict[str, list[float]]]
    agreement: dict[str, float]
    unavailable: dict[str, str] = field(default_factory=dict)
    busy: bool = False

    def median(self, name: str, part: str) -> float:
        return statistics.median(self.seconds[name][part])

    def parts(self, name: str) -> dict[str, float]:
        """Seconds of an image, by part."""
        return {part: self.median(name, part) * (self.steps if part == STEP else 1)
                for part in PARTS}

    def image_seconds(self, name: str) -> float:
        """Time per image: computed of the medians, not measured."""
        return sum(self.parts(name).values())

    def ratio(self, name: str, part: str) -> tuple[float, float, float]:
        """(median, smallest, largest) of the rounds' ratios of a baseline's time to the first
        candidate's."""
        first = next(iter(self.seconds))
        ratios = [a / b for a, b in zip(self.seconds[name][part], self.seconds[first][part])]
        return statistics.median(ratios), min(ratios), max(ratios)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, in seconds."""
        agreement = {name: value if np.isfinite(value) else str(value)
                     for name, value in self.agreement.items()}
        return {**asdict(self), "agreement": agreement,
                "image_seconds": {name: self.image_seconds(name) for name in self.seconds},
                "parts": {name: self.parts(name) for name in self.seconds},
                "ratios": {name: {part: self.ratio(name, part) for part in PARTS}
                           for name in self.agreement}}


def bench_latent(bundle: LatentBundle, *, size: tuple[int, int], threads: int,
                 against: Sequence[str] = BASELINES, steps: int | None = None, rounds: int = 10,
                 on_progress: Callable[[float], None] | None = None) -> LatentBench:
    """Measure the parts of ``bundle`` for a low-resolution image of ``size`` (height, width).

    ``against``: of BASELINES. Raises UsageError for others, for sizes that the network cannot run
    at, and for more steps than there are; EngineError if the bundle's own engine cannot run.
    """
    if unknown := [name for name in against if name not in BASELINES]:
        raise UsageError(f"{unknown[0]!r} cannot be measured against a latent network; use "
                         f"{', '.join(BASELINES)}")
    multiple = bundle.network.size_multiple(bundle.config)
    if size[0] % multiple or size[1] % multiple:
        raise UsageError(f"size {size[0]}x{size[1]} must be multiples of {multiple}; for a latent "
                         "network it is that of the low-resolution image")
    visited = pick_timesteps(bundle.timesteps, steps)
    before = _load()
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:
        stack.enter_context(pinned(threads))
        engines: dict[str, LatentDiffusion] = {}
        for name in (PACKED, *against):
            try:
                engine = stack.enter_context(open_engine(bundle, threads=threads,
                                                         backend=BACKENDS[name]))
            except BidiffError as error:
                if name == PACKED:
                    raise
                unavailable[name] = str(error)
                continue
            assert isinstance(engine, LatentDiffusion)
            engines[name] = engine
        seconds, predictions = _take_turns(engines, size, visited[-1], rounds, on_progress)
        descriptions = {name: engine.description for name, engine in engines.items()}
    own = [max(times) / min(times) for times in seconds[PACKED].values()]
    after = _load()
    return LatentBench(
        str(bundle.path), size, threads, len(visited), rounds, (before, after), descriptions,
        seconds, {name: snr(predictions[PACKED], predictions[name])
                  for name in engines if name != PACKED},
        unavailable, busy=max(own) > 1.5 or before > BUSY_LOAD)


def _take_turns(engines: dict[str, LatentDiffusion], size: tuple[int, int], timestep: int,
                rounds: int, report: Callable[[float], None] | None
                ) -> tuple[dict[str, dict[str, list[float]]], dict[str, np.ndarray]]:
    first = next(iter(engines.values()))
    rng = np.random.default_rng(0)
    condition = rng.random((1, 3, *size), np.float32) * np.float32(2) - np.float32(1)
    large = enlarge(condition, first.scale)
    latent = rng.standard_normal((1, first.latent_channels, *size), np.float32)
    seconds: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in PARTS} for name in engines}
    predictions: dict[str, np.ndarray] = {}
    for index in range(WARM_UP + rounds):
        for part in PARTS:
            for name, engine in engines.items():
                time.sleep(PAUSE_SECONDS)
                started = time.perf_counter()
                found = (engine.encode(large) if part == ENCODER
                         else engine.predict(latent, condition, timestep) if part == STEP
                         else engine.decode(latent))
                elapsed = time.perf_counter() - started
                if index >= WARM_UP:
                    seconds[name][part].append(elapsed)
                if part == STEP:
                    predictions[name] = found
        if report is not None:
            report((index + 1) / (WARM_UP + rounds))
    return seconds, predictions


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
