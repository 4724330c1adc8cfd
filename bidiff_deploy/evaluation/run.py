"""A model over data sets: pictures made, scored, kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import ImagePair
from ..errors import OutputError, UsageError
from ..files import make_directory
from ..images import write_image
from .benchmark import Benchmark
from .models import Model
from .scores import Scores, bicubic, mean_scores, score

__all__ = ["Evaluation", "ImageResult", "evaluate"]

Perceptual = Callable[[np.ndarray, np.ndarray], float]
BASELINE, MODEL = "bicubic", "model"  # names of what is scored


@dataclass(frozen=True)
class ImageResult:
    """One image: the sides of its original, the model's seconds, and scores by what is scored."""

    name: str
    height: int
    width: int
    seconds: float
    scores: dict[str, Scores]


@dataclass(frozen=True)
class SetResult:
    """One data set. ``low``: folder of its low-resolution images; None: they were made."""

    name: str
    low: str | None
    images: tuple[ImageResult, ...]

    @property
    def mean(self) -> dict[str, Scores]:
        return {which: mean_scores([image.scores[which] for image in self.images])
                for which in (BASELINE, MODEL)}


@dataclass(frozen=True)
class Evaluation:
    """What was found, and what with."""

    model: str
    description: str
    scale: int
    options: dict[str, Any]
    sets: tuple[SetResult, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; a figure that is infinite or can not be told is null."""
        return {"model": self.model, "description": self.description, "scale": self.scale,
                "options": self.options, "datasets": [
                    {"name": one.name, "low": one.low, "mean": one.mean, "images": [
                        vars(image) for image in one.images]} for one in self.sets]}


def evaluate(name: str, model: Model, benchmarks: Sequence[Benchmark], *,
             options: dict[str, Any] | None = None, lpips: Perceptual | None = None,
             save: Path | None = None, overwrite: bool = False,
             on_progress: Callable[[float, str], object] = lambda share, label: None
             ) -> Evaluation:
    """Score ``model`` and bicubic enlargement on every image of the data sets.

    Each picture is rounded to 8 bits and compared with its original, a border of ``scale`` pixels
    cut off for PSNR and SSIM. ``lpips`` as ``perceptual.open_lpips`` gives it. ``save``: a folder
    that gets the pictures, one folder a data set. ``on_progress``: called with the share of the
    work that is done, by pixels, and what is worked on.

    Raises UsageError for what does not fit before any work is done, OutputError for pictures that
    exist, ImageError for an image that is damaged.
    """
    _check_names(benchmarks)
    for benchmark in benchmarks:
        model.check(benchmark)
        if save is not None and not overwrite:
            _check_absent(save, benchmark)
    total = sum(pair.height * pair.width for one in benchmarks for pair in one.pairs)
    done = 0
    sets = []
    for benchmark in benchmarks:
        images = []
        for pair in benchmark.pairs:
            pixels, label = pair.height * pair.width, f"{benchmark.name}/{pair.name}"

            def on_step(step: int, steps: int, before: int = done, own: int = pixels,
                        label: str = label) -> None:
                on_progress((before + own * step / steps) / total, label)

            on_step(0, 1)
            picture, result = _one(model, benchmark, pair, lpips, on_step)
            if save is not None:
                make_directory(save / benchmark.name)
                write_image(_target(save, benchmark, pair), picture, overwrite=overwrite)
            images.append(result)
            done += pixels
        sets.append(SetResult(benchmark.name, benchmark.low and str(benchmark.low), tuple(images)))
    on_progress(1.0, "done")
    return Evaluation(name, model.description, model.scale, dict(options or {}), tuple(sets))


def _one(model: Model, benchmark: Benchmark, pair: ImagePair, lpips: Perceptual | None,
         on_step: Callable[[int, int], object]) -> tuple[np.ndarray, ImageResult]:
    truth = pair.read_high()
    low = pair.read_low(truth)
    started = time.perf_counter()
    picture = model.picture(benchmark, pair, low, on_step)
    seconds = time.perf_counter() - started
    scores: dict[str, Scores] = {}
    for which, found in ((BASELINE, bicubic(low, pair.scale)), (MODEL, picture)):
        scores[which] = score(found, truth, pair.scale)
        if lpips is not None:
            scores[which]["lpips"] = lpips(found, truth)
    return picture, ImageResult(pair.name, pair.height, pair.width, round(seconds, 3), scores)


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
