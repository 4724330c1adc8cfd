"""What a page is asked to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pictures import Input

if TYPE_CHECKING:
    from ..bundle.record import LatentBundle, NoisePredictorBundle


@dataclass(frozen=True)
class Request:
    """What a page is asked to show.

    name        what the page calls the bundle
    checkpoint  a file to compare the bundle with, read with ``options_file`` if there is one
    against     baselines to measure; None: no latency at all
    size        (height, width) of the output for latency, counts and parity
    """

    bundle: NoisePredictorBundle | LatentBundle
    name: str
    inputs: Sequence[Input] = ()
    checkpoint: str | None = None
    options_file: str | None = None
    backend: str = "onnxruntime"
    threads: int | None = None
    size: tuple[int, int] = (256, 256)
    steps: int | None = None
    seed: int = 0
    against: Sequence[str] | None = ()
    rounds: int = 10

    @property
    def visited(self) -> tuple[int, ...]:
        """The timesteps that a loop visits."""
        from ..bundle.record import NoisePredictorBundle
        from ..sampling.sampler import pick_timesteps

        start = (self.bundle.default_start if isinstance(self.bundle, NoisePredictorBundle)
                 else None)
        return pick_timesteps(self.bundle.timesteps, self.steps, start)

    @property
    def input_size(self) -> tuple[int, int]:
        """``size`` as the network's input has it: a latent network's is the low-resolution image's.
        """
        from ..networks.base import LATENT

        factor = self.bundle.scale if self.bundle.network.kind == LATENT else 1
        return self.size[0] // factor, self.size[1] // factor
