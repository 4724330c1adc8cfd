"""The random numbers of one iteration, a function of the run's seed and the iteration alone.

No generator keeps state between iterations. So a resumed run draws the same numbers, and processes
that share a batch agree on its timestep without communication, while each draws the noise of its
own images, the same that one process would draw for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draws", "Purpose", "drawn_scale"]


class Purpose(IntEnum):
    """Streams of random numbers; none depends on how many another yields."""

    SHARED, NOISE, DROPOUT, SCORE, JUDGE, STEP, SCALE = range(7)


def drawn_scale(scales: Sequence[int], seed: int, iteration: int) -> int:
    """The upscaling factor of an iteration's batch, each of ``scales`` equally often."""
    random = np.random.default_rng([seed, Purpose.SCALE, iteration])
    return scales[int(random.integers(len(scales)))]


@dataclass(frozen=True)
class Draws:
    """The random numbers of images ``first``, ``first + 1``, ... in iteration ``iteration``.

    ``first`` counts images from the start of the run. ``device``: where noise is created; its
    values depend on the type of device.
    """

    seed: int
    iteration: int
    first: int
    device: torch.device = torch.device("cpu")

    def shared(self) -> np.random.Generator:
        """A new generator, the same for every image of the iteration and at each call."""
        return np.random.default_rng([self.seed, Purpose.SHARED, self.iteration])

    def noise(self, like: Tensor, purpose: Purpose = Purpose.NOISE, *, uniform: bool = False,
              period: int = 0) -> Tensor:
        """N(0, 1) with the shape and dtype of ``like``, (N, C, H, W); one stream for each image.

        ``uniform``: from [0, 1) instead. ``period``: image n + period has the noise of image n.
        """
        generator = torch.Generator(self.device)
        out = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        for index, image in enumerate(out):
            number = self.first + index
            generator.manual_seed(self._number(purpose, number % period if period else number))
            if uniform:
                image.uniform_(generator=generator)
            else:
                image.normal_(generator=generator)
        return out

    def integers(self, count: int, first: int, end: int,
                 purpose: Purpose = Purpose.STEP) -> list[int]:
        """A whole number from ``first`` to ``end`` - 1 for each of ``count`` images."""
        return [int(np.random.default_rng([self.seed, purpose, self.first + index])
                    .integers(first, end)) for index in range(count)]

    def seed_dropout(self) -> None:
        """Seed torch's global generators, from which dropout draws, for these images."""
        torch.manual_seed(self._number(Purpose.DROPOUT, self.first))

    def _number(self, purpose: Purpose, index: int) -> int:
        words = np.random.SeedSequence([self.seed, purpose, index]).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))
