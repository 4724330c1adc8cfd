"""The section ``one_step`` of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..checks import whole_number
from ..sampling.schedule import Schedule
from .values import one_of

__all__ = ["MIN_ALPHA", "PHOTO_LOSSES", "Discriminator", "OneStep", "Perceptual", "Score",
           "Trajectory", "Wide"]

# Of the timestep of the one call. Below it an error of the prediction is larger in the image.
MIN_ALPHA = 0.5
NOISES = ("normal", "uniform")
PHOTO_LOSSES = ("l1", "l2", "psnr", "luma")


def _weight(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"one_step.{name} must be 0 or more, not {value}")


def _range(name: str, values: tuple[int, ...]) -> None:
    if values and (len(values) != 2 or not 0 <= values[0] < values[1]):
        raise ValueError(f"one_step.{name} must be the first timestep and the one after the last, "
                         f"not {list(values)}")


@dataclass(frozen=True)
class Trajectory:
    """Mean square error to the image that the teacher samples from the same noise (TAD-SR).

    steps  timesteps of the teacher's loop, evenly spaced, from pure noise; 0: the timesteps and the
           start that its checkpoint advises, else 50
    cache  folder for these images, absolute or relative to the recipe; empty: none, so the whole
           loop runs in each iteration
    """

    SHORT = "weight"

    weight: float = 0.0
    steps: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        _weight("trajectory.weight", self.weight)
        whole_number("one_step.trajectory.steps", self.steps, 0)


@dataclass(frozen=True)
class Score:
    """Score distillation (TAD-SR), see ``scores``.

    timesteps  first, and the one after the last; empty: the lowest twentieth of the schedule
    noise      normal; or uniform, as the released code draws it, by an oversight
    """

    SHORT = "weight"

    weight: float = 0.0
    timesteps: tuple[int, ...] = ()
    noise: str = "normal"

    def __post_init__(self) -> None:
        _weight("score.weight", self.weight)
        _range("score.timesteps", self.timesteps)
        one_of("one_step.score.noise", self.noise, NOISES)


@dataclass(frozen=True)
class Discriminator:
    """The discriminator on noised results (TAD-SR, DFOSD), see ``discriminator``.

    weight     of the student's loss; TAD-SR has 0.02, users of DFOSD 0.5 to 0.8
    loss       hinge, as in TAD-SR; logistic, as in DFOSD
    timesteps  first, and the one after the last; empty: all but the last fifteenth, as in TAD-SR
    noise      normal; or uniform, as in TAD-SR's released code
    classes    logits of each pixel
    rate       its learning rate relative to the student's
    """

    SHORT = "weight"

    weight: float = 0.0
    loss: str = "hinge"
    timesteps: tuple[int, ...] = ()
    noise: str = "normal"
    classes: int = 64
    rate: float = 1.0

    def __post_init__(self) -> None:
        _weight("discriminator.weight", self.weight)
        one_of("one_step.discriminator.loss", self.loss, ("hinge", "logistic"))
        _range("discriminator.timesteps", self.timesteps)
        one_of("one_step.discriminator.noise", self.noise, NOISES)
        whole_number("one_step.discriminator.classes", self.classes, 1, 1024)
        if not 0 < self.rate < math.inf:
            raise ValueError("one_step.discriminator.rate must be above 0")


@dataclass(frozen=True)
class Perceptual:
    """The perceptual term (DFOSD), see ``similarity``: DISTS where both files are given, else the
    same formula on the teacher's features.

    edges  also compare the images' edges
    vgg    weights of VGG16 on ImageNet as torchvision has them, relative to the recipe
    dists  the learned weights of DISTS (``weights.pt`` of dingkeyan93/DISTS)
    """

    SHORT = "weight"

    weight: float = 0.0
    edges: bool = True
    vgg: str = ""
    dists: str = ""

    def __post_init__(self) -> None:
        _weight("perceptual.weight", self.weight)
        if bool(self.vgg) != bool(self.dists):
            raise ValueError("one_step.perceptual needs both vgg and dists, or neither")


@dataclass(frozen=True)
class Wide:
    """A teacher ``copies`` times as wide that shares the student's tensors (GPD), see ``wide``.

    weight  of the mean absolute difference of both results; GPD has 3
    """

    SHORT = "copies"

    copies: int = 0
    weight: float = 3.0

    def __post_init__(self) -> None:
        _weight("wide.weight", self.weight)
        whole_number("one_step.wide.copies", self.copies, 0, 8)
        if self.copies == 1:
            raise ValueError("one_step.wide.copies=1 is the student itself; give 2 or more")


@dataclass(frozen=True)
class OneStep:
    """A student of one call, or a network without a loop. Losses with weight 0 are not computed.

    timestep  of the call; a network without a loop has none, and neither ``noise`` nor ``wide``
    noise     start from the noised condition; false: from sqrt(alpha) times the condition, so that
              the result is a function of the image alone
    teacher   checkpoint of a noise predictor, relative to the recipe, for a student that has a
              timestep of the same schedule
    image     weight of the error of the result against the photo, of ``kind``, see
              ``photo_losses``
    luma_only  the discriminator and the perceptual loss see the photo with the result's luma, so
              that the result's colours are learned by ``image`` alone
    """

    timestep: int = 0
    noise: bool = True
    teacher: str = ""
    image: float = 0.0
    kind: str = "l1"
    luma_only: bool = False
    trajectory: Trajectory = field(default_factory=Trajectory)
    score: Score = field(default_factory=Score)
    discriminator: Discriminator = field(default_factory=Discriminator)
    perceptual: Perceptual = field(default_factory=Perceptual)
    wide: Wide = field(default_factory=Wide)

    def __post_init__(self) -> None:
        whole_number("one_step.timestep", self.timestep, 0)
        _weight("image", self.image)
        one_of("one_step.kind", self.kind, PHOTO_LOSSES)
        for name in self.needs_teacher:
            if not self.teacher:
                raise ValueError(f"one_step.{name} needs one_step.teacher, a checkpoint")
        if self.teacher and not self.needs_teacher:
            raise ValueError("one_step.teacher is used by none of its losses; leave it out")
        if self.luma_only and not (self.discriminator.weight or self.perceptual.weight):
            raise ValueError("one_step.luma_only changes what discriminator and perceptual see, "
                             "and neither has a weight; leave it out")
        if self.wide.copies and not (self.image or self.trajectory.weight):
            raise ValueError("one_step.wide trains its teacher with image or trajectory; give one "
                             "a weight above 0")

    @property
    def losses(self) -> list[str]:
        """The losses that are computed; none: no one-step training."""
        return [name for name, weight in (
            ("image", self.image), ("trajectory", self.trajectory.weight),
            ("score", self.score.weight), ("discriminator", self.discriminator.weight),
            ("perceptual", self.perceptual.weight)) if weight]

    @property
    def needs_teacher(self) -> list[str]:
        """The losses that read the teacher."""
        alone = {"image", "perceptual" if self.perceptual.vgg else ""}
        return [name for name in self.losses if name not in alone]

    @property
    def samples(self) -> bool:
        """Whether images that the teacher samples are needed."""
        return bool(self.trajectory.weight or self.score.weight)

    def check(self, schedule: Schedule, crops: int) -> None:
        """Raise ValueError for timesteps that the schedule does not have or that amplify errors,
        and for a cache of crops that never come again."""
        self.check_crops(crops)
        self.check_teacher(schedule)
        table = schedule.alphas_cumprod
        whole_number("one_step.timestep", self.timestep, 1, schedule.total_steps - 1)
        alpha = float(table[self.timestep])
        if alpha < MIN_ALPHA:
            last = int((table >= MIN_ALPHA).sum()) - 1
            raise ValueError(
                f"one_step.timestep={self.timestep}: alpha is {alpha:.2g} there, so an error of "
                f"the prediction is {math.sqrt((1 - alpha) / alpha):.3g} times as large in the "
                f"image; choose a timestep of at most {last}, where alpha is {MIN_ALPHA} or more")

    def check_teacher(self, schedule: Schedule) -> None:
        """Raise ValueError for timesteps that the teacher's schedule does not have."""
        total = schedule.total_steps
        for name in ("score", "discriminator"):
            timesteps = getattr(self, name).timesteps
            if timesteps and timesteps[1] > total:
                raise ValueError(f"one_step.{name}.timesteps must end at {total} or before, not "
                                 f"{timesteps[1]}")
        whole_number("one_step.trajectory.steps", self.trajectory.steps, 0, total)

    def check_crops(self, crops: int) -> None:
        """Raise ValueError for a cache of crops that never come again."""
        if self.trajectory.cache and not crops:
            raise ValueError("one_step.trajectory.cache needs data.crops, the number of different "
                             "crops: otherwise no crop comes a second time")
