"""The part of a recipe that says what is learned from a teacher."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Distill"]


@dataclass(frozen=True)
class Distill:
    """Learning from another network's predictions, as ``distill`` computes it.

    teacher   its checkpoint, relative to the recipe; empty: nothing is learned from a teacher
    target    weight of the loss against the noise, as it is without a teacher
    output    weight of the mean absolute difference of both predictions
    features  weight of the distance of both networks' block outputs
    blocks    of which blocks ("encoder.1", "middle.0"); none named: all but the first and last
    """

    SHORT = "teacher"

    teacher: str = ""
    target: float = 1.0
    output: float = 1.0
    features: float = 0.0
    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        weights = self.target, self.output, self.features
        if not all(0 <= weight < float("inf") for weight in weights):
            raise ValueError("distill.target, distill.output and distill.features must be 0 or "
                             "more")
        if self.teacher and not any(weights):
            raise ValueError("distill needs a weight above 0 for target, output or features")
