"""What a page is asked to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pictures import Input

if TYPE_CHECKING:
    from ..bundle.record import NoisePredictorBundle


@dataclass(frozen=True)
class Request:
    """What a page is asked to show.

    name        what the page calls the bundle
    checkpoint  a file to compare the bundle with, read with ``options_file`` if there is one
    against     baselines to measure; None: no latency at all
    size        (height, width) of the network's input for latency, counts and parity
    """

    bundle: NoisePredictorBundle
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
