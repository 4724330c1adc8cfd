"""The parts of a recipe that say how it is trained: the optimizer, and the run around it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .values import one_of, positive

__all__ = ["Optimizer", "Run"]

SCHEDULES = ("cosine", "constant", "multistep")
PRECISIONS = ("float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Optimizer:
    """Adam, without weight decay, and the averaged weights that are validated and exported.

    learning_rate  after a linear ``warmup`` of so many iterations
    schedule       cosine: to ``final_share`` of the learning rate at the run's end; constant;
                   multistep: times ``gamma`` at each of the iterations ``milestones``
    clip_norm      the gradient of all parameters is scaled down to this norm; 0: it is not
    ema            decay of the averaged weights (lower at the beginning); 0: they are the present
                   ones
    """

    learning_rate: float = 1e-4
    betas: tuple[float, ...] = (0.9, 0.99)
    schedule: str = "cosine"
    warmup: int = 0
    final_share: float = 0.01
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    clip_norm: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or not self.clip_norm >= 0:
            raise ValueError("optimizer needs learning_rate above 0 and clip_norm >= 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas must be two numbers in [0, 1), not "
                             f"{list(self.betas)}")
        if not 0 <= self.ema < 1 or not 0 <= self.final_share <= 1 or self.warmup < 0:
            raise ValueError("optimizer needs ema in [0, 1), final_share in [0, 1], warmup >= 0")
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        if list(self.milestones) != sorted(set(self.milestones)) or min(
                self.milestones, default=1) < 1 or not 0 < self.gamma <= 1:
            raise ValueError("optimizer.milestones must be ascending iterations from 1, and "
                             "optimizer.gamma in (0, 1]")


@dataclass(frozen=True)
class Run:
    """Length, machine and book-keeping.

    ``minutes`` ends a run early, with its schedule: progress is the larger of the shares of
    iterations and minutes spent (0 minutes: iterations alone count).

    batch               images of an iteration, over all processes
    accumulate          parts of a process's share that are computed one after the other, so that
                        a large batch fits into memory
    threads             of a CPU; 0: torch's choice
    device              auto (a GPU if there is one), cpu, cuda, cuda:1
    precision           in which convolutions are computed; see ``precision``
    compile             whether torch.compile translates the model; needs a C++ compiler or, on a
                        GPU, triton
    report_every        iterations from one line of progress to the next
    validate_every      iterations from one validation to the next
    checkpoint_minutes  from one checkpoint to the next; 0: at the end alone
    keep                how many checkpoints stay, the newest included
    keep_best           whether the one with the best validated PSNR stays as well
    pictures            how many validation photos are shown in TensorBoard; 0: none
    timeout_minutes     how long processes wait for each other before they end
    """

    iterations: int = 1000
    minutes: float = 0.0
    batch: int = 8
    accumulate: int = 1
    seed: int = 0
    threads: int = 0
    device: str = "auto"
    precision: str = "float32"
    compile: bool = False
    report_every: int = 100
    validate_every: int = 1000
    checkpoint_minutes: float = 10.0
    keep: int = 1
    keep_best: bool = False
    pictures: int = 2
    timeout_minutes: float = 30.0

    def __post_init__(self) -> None:
        positive(self, "iterations", "batch", "accumulate", "report_every", "validate_every",
                 "keep")
        if self.minutes < 0 or self.checkpoint_minutes < 0 or self.threads < 0:
            raise ValueError("run.minutes, run.checkpoint_minutes and run.threads can not be "
                             "below 0")
        if not 0 <= self.seed < 1 << 63 or self.pictures < 0 or not self.timeout_minutes > 0:
            raise ValueError("run needs seed from 0 to 2^63 - 1, pictures from 0 and "
                             "timeout_minutes above 0")
        one_of("run.precision", self.precision, PRECISIONS)
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f"run.device must be auto, cpu, cuda or such as cuda:1, not "
                             f"{self.device!r}")
