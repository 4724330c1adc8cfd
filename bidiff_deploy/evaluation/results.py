"""The scores of an evaluation as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..images.scores import Scores, mean_scores

__all__ = ["BASELINE", "MODEL", "Evaluation", "ImageResult", "SetResult"]

BASELINE, MODEL = "bicubic", "model"  # names of what is scored


@dataclass(frozen=True)
class ImageResult:
    """One image: size of its original, seconds and tiles of the model, and the scores of the model
    and of bicubic."""

    name: str
    height: int
    width: int
    seconds: float
    tiles: int
    scores: dict[str, Scores]


@dataclass(frozen=True)
class SetResult:
    """One data set. ``low``: folder of its low-resolution images; None: they were computed."""

    name: str
    low: str | None
    images: tuple[ImageResult, ...]

    @property
    def mean(self) -> dict[str, Scores]:
        return {which: mean_scores([image.scores[which] for image in self.images])
                for which in (BASELINE, MODEL)}


@dataclass(frozen=True)
class Evaluation:
    """All scores of one model, and how it was run. ``measures``: the settings of those beyond PSNR
    and SSIM, by name."""

    model: str
    description: str
    scale: int
    options: dict[str, Any]
    sets: tuple[SetResult, ...] = field(default=())
    measures: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; a score that is infinite or cannot be computed is null."""
        return {"model": self.model, "description": self.description, "scale": self.scale,
                "options": self.options, "measures": self.measures, "datasets": [
                    {"name": one.name, "low": one.low, "mean": one.mean, "images": [
                        vars(image) for image in one.images]} for one in self.sets]}
