"""The parts of a recipe that say what is trained on: photos, crops, timesteps."""

from __future__ import annotations

from dataclasses import dataclass

from ..images.datasets import check_template
from .values import one_of, positive

__all__ = ["Data", "Loading", "Photo", "Step"]

ORIGINS = ("photo", "condition", "sample")


@dataclass(frozen=True)
class Photo:
    """One photo: a file, or a folder of them, and the part of it that is used.

    ``path`` is absolute, relative to the recipe, or begins with the name of an installed package
    (``skimage/data/coffee.png``). ``box`` is (top, left, height, width) in pixels, all of the
    photo if empty. ``weight`` is how often a photo is drawn, relative to the others. ``low`` is the
    file or folder of the low-resolution images, whose names follow from the photos' by ``template``
    (``{}x4``, no extensions); where it is empty they are made.
    """

    SHORT = "path"

    path: str
    box: tuple[int, ...] = ()
    weight: float = 1.0
    low: str = ""
    template: str = "{}"

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.box and (len(self.box) != 4 or min(self.box) < 0 or min(self.box[2:]) < 1):
            raise ValueError(f"box of {self.path} must be [top, left, height, width], not "
                             f"{list(self.box)}")
        if not self.weight > 0:
            raise ValueError(f"weight of {self.path} must be above 0, not {self.weight}")


@dataclass(frozen=True)
class Data:
    """Photos and how crops are cut from them; sizes are in output pixels."""

    train: tuple[Photo, ...]
    validate: tuple[Photo, ...] = ()
    sizes: tuple[float, ...] = (1.0,)  # shares of its size at which each photo is used
    crop: int = 64
    candidates: int = 1  # of this many crops the one that bicubic restores worst is kept
    aligned: bool = True  # crops begin at pixels of the low-resolution image, as inputs do
    flip: bool = True
    rotate: bool = True  # by quarter turns; with ``flip`` as well, all eight orientations
    shuffle_colors: bool = False
    skip_unreadable: bool = False  # leave photos out that can not be read, instead of ending

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("data.train names no photo")
        positive(self, "crop", "candidates")
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            raise ValueError(f"data.sizes must be shares above 0 and up to 1, not "
                             f"{list(self.sizes)}")


@dataclass(frozen=True)
class Loading:
    """How crops get into memory; the crops are the same whatever stands here.

    ``workers`` are processes that cut crops ahead of training, 0: the training process itself.
    Decoded photos are kept in ``memory_gb`` of memory (all processes together) and, if ``cache``
    names a folder (absolute or relative to the recipe), uncompressed in files there.
    """

    workers: int = 0
    memory_gb: float = 4.0
    cache: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 256 or not 0 <= self.memory_gb < float("inf"):
            raise ValueError("loading needs workers from 0 to 256 and memory_gb from 0")


@dataclass(frozen=True)
class Step:
    """One timestep that is trained.

    ``origin`` is the picture that is noised to x_t: ``photo`` the photo itself (as published),
    ``condition`` the upsampled input (where sampling starts there), ``sample`` what the sampler
    reaches from the earlier steps with the present weights. ``share`` is how often the step is
    drawn, relative to the others.
    """

    timestep: int
    origin: str = "photo"
    share: float = 1.0

    def __post_init__(self) -> None:
        one_of("a step's origin", self.origin, ORIGINS)
        if not self.share > 0:
            raise ValueError(f"a step's share must be above 0, not {self.share}")
