"""Runs a model on data sets: upscales, scores and saves each image."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, UsageError
from ..files import make_directory
from ..images.datasets import ImagePair
from ..images.scores import Scores, bicubic, score
from ..images.write import write_image
from ..sampling.sampler import OnStep
from .benchmark import Benchmark
from .measures import Measure
from .models import Model
from .results import BASELINE, MODEL, Evaluation, ImageResult, SetResult
from .table import SetTable, titles

__all__ = ["evaluate"]

def evaluate(name: str, model: Model, benchmarks: Sequence[Benchmark], *,
             options: dict[str, Any] | None = None, measures: Sequence[Measure] = (),
             save: Path | None = None, overwrite: bool = False,
             on_progress: Callable[[float, str], object] = lambda share, label: None,
             report: Callable[[str], object] = lambda line: None) -> Evaluation:
    """Score ``model`` and bicubic enlargement on every image of the data sets.

    Each result is rounded to 8 bits and compared with its original, with a border of ``scale``
    pixels cropped for PSNR and SSIM. ``measures``: what else is computed, by
    ``measures.open_measures``. ``save``: the folder to write the results to, one subfolder for each
    data set. ``on_progress``: called
    with the share of the work that is done, by pixels, and the image. ``report``: called with each
    line of the table as soon as it is known.

    Raises UsageError, before any work is done, for a model that does not fit the data sets,
    OutputError for results that exist, ImageError for a damaged image.
    """
    _check_names(benchmarks)
    for benchmark in benchmarks:
        model.check(benchmark)
        if save is not None and not overwrite:
            _check_absent(save, benchmark)
    total = sum(pair.height * pair.width for one in benchmarks for pair in one.pairs)
    figures = ["psnr_y", "ssim_y", *(measure.name for measure in measures)]
    done = 0
    sets = []
    settings = {measure.name: measure.settings for measure in measures}
    for line in titles(name, model.scale, model.description, settings):
        report(line)
    for benchmark in benchmarks:
        images = []
        lines = SetTable(benchmark.name, benchmark.low, [pair.name for pair in benchmark.pairs],
                         figures)
        for line in lines.head():
            report(line)
        for pair in benchmark.pairs:
            pixels, label = pair.height * pair.width, f"{benchmark.name}/{pair.name}"

            def on_step(step: int, steps: int, before: int = done, own: int = pixels,
                        label: str = label) -> None:
                on_progress((before + own * step / steps) / total, label)

            on_step(0, 1)
            upscaled, result = _one(model, benchmark, pair, measures, on_step)
            if save is not None:
                make_directory(save / benchmark.name)
                write_image(_target(save, benchmark, pair), upscaled, overwrite=overwrite)
            images.append(result)
            done += pixels
            report(lines.row(result))
        low = None if benchmark.low is None else str(benchmark.low)
        sets.append(SetResult(benchmark.name, low, tuple(images)))
        report(lines.mean(sets[-1]))
    on_progress(1.0, "evaluate")
    return Evaluation(name, model.description, model.scale, dict(options or {}), tuple(sets),
                      settings)


def _one(model: Model, benchmark: Benchmark, pair: ImagePair, measures: Sequence[Measure],
         on_step: OnStep) -> tuple[np.ndarray, ImageResult]:
    truth = pair.read_high()
    low = pair.read_low(truth)
    started = time.perf_counter()
    upscaled, tiles = model.upscale(benchmark, pair, low, on_step)
    seconds = time.perf_counter() - started
    scores: dict[str, Scores] = {}
    for which, found in ((BASELINE, bicubic(low, pair.scale)), (MODEL, upscaled)):
        scores[which] = score(found, truth, pair.scale)
        for measure in measures:
            value = measure.compute(found, truth, pair.scale)
            scores[which][measure.name] = value if math.isfinite(value) else None
    return upscaled, ImageResult(pair.name, pair.height, pair.width, round(seconds, 3), tiles,
                                 scores)


def _target(save: Path, benchmark: Benchmark, pair: ImagePair) -> Path:
    return save / benchmark.name / f"{pair.high.stem}.png"


def _check_names(benchmarks: Sequence[Benchmark]) -> None:
    names = [one.name for one in benchmarks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two data sets are called {twice}; rename the folder of one")


def _check_absent(save: Path, benchmark: Benchmark) -> None:
    for pair in benchmark.pairs:
        target = _target(save, benchmark, pair)
        if target.exists():
            raise OutputError(f"{target} already exists; choose another folder or allow it to be "
                              "replaced with --overwrite")
