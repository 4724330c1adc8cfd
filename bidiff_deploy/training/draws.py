"""The random numbers of one iteration, a function of the run's seed and the iteration alone.

No generator keeps state between iterations. So a resumed run draws the same numbers, and processes
that share a batch agree on its timestep without communication, while each draws the noise of its
own images, the same that one process would draw for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class _Purpose(IntEnum):
    SHARED, NOISE, DROPOUT = range(3)


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
        return np.random.default_rng([self.seed, _Purpose.SHARED, self.iteration])

    def noise(self, like: Tensor) -> Tensor:
        """N(0, 1) with the shape and dtype of ``like``, (N, C, H, W); one stream for each image."""
        generator = torch.Generator(self.device)
        out = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        for index, image in enumerate(out):
            generator.manual_seed(self._number(_Purpose.NOISE, self.first + index))
            image.normal_(generator=generator)
        return out

    def seed_dropout(self) -> None:
        """Seed torch's global generators, from which dropout draws, for these images."""
        torch.manual_seed(self._number(_Purpose.DROPOUT, self.first))

    def _number(self, purpose: _Purpose, index: int) -> int:
        words = np.random.SeedSequence([self.seed, purpose, index]).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))
