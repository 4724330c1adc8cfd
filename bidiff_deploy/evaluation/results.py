"""What an evaluation has found, in plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..images.scores import Scores, mean_scores

__all__ = ["BASELINE", "MODEL", "Evaluation", "ImageResult", "SetResult"]

BASELINE, MODEL = "bicubic", "model"  # names of what is scored


@dataclass(frozen=True)
class ImageResult:
    """One image: the sides of its original, the model's seconds, in how many tiles it worked, and
    scores by what is scored."""

    name: str
    height: int
    width: int
    seconds: float
    tiles: int
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
