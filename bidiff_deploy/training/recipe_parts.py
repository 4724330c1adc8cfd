"""The groups of a recipe: data, loading, steps, distill, optimizer and run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..checks import whole_number
from ..images.datasets import check_template
from .values import one_of

__all__ = ["Data", "Degrade", "Distill", "Kernel", "Loading", "Optimizer", "Photo", "Run", "Step"]

ORIGINS = ("photo", "condition", "sample")
SCHEDULES = ("cosine", "constant", "multistep")
PRECISIONS = ("float32", "bfloat16", "float16")
KERNELS = ("bicubic", "area", "lanczos", "blur")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Photo:
    """One photo: a file, or a folder of them, and the part of it that is used.

    path      absolute, relative to the recipe, or starting with the name of an installed package
              (``skimage/data/coffee.png``)
    box       (top, left, height, width) in pixels; empty: the whole photo
    weight    how often the photo is drawn, relative to the others
    low       file or folder of the low-resolution images; empty: they are made from the photos
    template  name of a low-resolution image from its photo's, without extensions: ``{}x4``
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
class Kernel:
    """How photos are reduced, one of KERNELS; ``share``: how often, relative to the others."""

    SHORT = "name"

    name: str
    share: float = 1.0

    def __post_init__(self) -> None:
        one_of("a kernel's name", self.name, KERNELS)
        if not self.share > 0:
            raise ValueError(f"share of kernel {self.name} must be above 0, not {self.share}")


@dataclass(frozen=True)
class Degrade:
    """Low-resolution images made crop by crop, as ``degrade`` describes; without kernels they are
    made once, by Matlab's bicubic.

    noisy    share of crops with noise of a standard deviation of up to ``noise`` levels of 255;
             blurred ones always have noise
    jpeg     share of crops saved as JPEG, of a ``quality`` from the first to the last, half of
             them with halved chroma
    """

    kernels: tuple[Kernel, ...] = ()
    noisy: float = 0.0
    noise: float = 2.0
    jpeg: float = 0.0
    quality: tuple[int, ...] = (60, 95)

    def __post_init__(self) -> None:
        if not 0 <= self.noisy <= 1 or not 0 <= self.jpeg <= 1:
            raise ValueError("data.degrade.noisy and data.degrade.jpeg must be shares from 0 to 1")
        if (self.noisy or self.jpeg) and not self.kernels:
            raise ValueError("data.degrade needs kernels, such as [bicubic]")
        if not 0 <= self.noise <= 64:
            raise ValueError(f"data.degrade.noise must be from 0 to 64, not {self.noise}")
        if len(self.quality) != 2 or not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError("data.degrade.quality must be two ascending numbers from 1 to 100, "
                             f"not {list(self.quality)}")


@dataclass(frozen=True)
class Data:
    """Photos and how crops are cut from them; sizes are in output pixels.

    sizes            each photo is used at each of these shares of its size
    crops            number of different crops, which come again and again; 0: without end
    candidates       crops drawn for each one used: the one that bicubic restores worst; a long run
                     with more than 1 learns to sharpen what is out of focus, which it rarely sees
    aligned          crops start at pixels of the low-resolution image, as inputs do
    rotate           by quarter turns; with ``flip``, all eight orientations
    degrade          kernels, JPEG and noise of the low-resolution images
    skip_unreadable  leave photos out that cannot be read, instead of ending the run
    """

    train: tuple[Photo, ...]
    validate: tuple[Photo, ...] = ()
    sizes: tuple[float, ...] = (1.0,)
    crop: int = 64
    crops: int = 0
    candidates: int = 1
    aligned: bool = True
    flip: bool = True
    rotate: bool = True
    shuffle_colors: bool = False
    degrade: Degrade = field(default_factory=Degrade)
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("data.train names no photo")
        if self.degrade.kernels and any(photo.low for photo in self.train):
            raise ValueError("data.degrade makes low-resolution images; leave low out of "
                             "data.train")
        whole_number("data.crop", self.crop, 1)
        whole_number("data.crops", self.crops, 0)
        whole_number("data.candidates", self.candidates, 1)
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            raise ValueError(f"data.sizes must be shares above 0 and up to 1, not "
                             f"{list(self.sizes)}")


@dataclass(frozen=True)
class Loading:
    """How crops get into memory; the crops do not depend on it.

    workers    processes that cut crops ahead of training; 0: the training process itself
    memory_gb  memory for decoded photos, of all processes together
    cache      folder for decoded photos, uncompressed, absolute or relative to the recipe; empty:
               none
    """

    workers: int = 0
    memory_gb: float = 4.0
    cache: str = ""

    def __post_init__(self) -> None:
        whole_number("loading.workers", self.workers, 0, 256)
        if not 0 <= self.memory_gb < float("inf"):
            raise ValueError(f"loading.memory_gb must be 0 or more, not {self.memory_gb}")


@dataclass(frozen=True)
class Step:
    """One timestep that is trained.

    origin  image that is noised to x_t: ``photo`` the photo itself (as published), ``condition``
            the upsampled input (where sampling starts there), ``sample`` what the sampler reaches
            from the earlier steps with the current weights
    share   how often the step is drawn, relative to the others
    """

    timestep: int
    origin: str = "photo"
    share: float = 1.0

    def __post_init__(self) -> None:
        one_of("a step's origin", self.origin, ORIGINS)
        if not self.share > 0:
            raise ValueError(f"a step's share must be above 0, not {self.share}")


@dataclass(frozen=True)
class Distill:
    """Learning from another network's predictions, as ``losses`` computes it.

    teacher   its checkpoint, relative to the recipe; empty: no teacher
    target    weight of the loss against the noise, the only one without a teacher
    output    weight of the mean absolute difference of both predictions, with preconditioning
              divided as in the loss
    features  weight of the distance of both networks' block outputs
    blocks    blocks to compare ("encoder.1", "middle.0"); empty: all but the first and last
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


@dataclass(frozen=True)
class Optimizer:
    """Adam without weight decay, and the averaged weights that are validated and exported.

    learning_rate  reached after a linear ``warmup`` of that many iterations
    schedule       cosine: to ``final_share`` of the learning rate at the run's end; constant;
                   multistep: times ``gamma`` at each of the iterations ``milestones``
    clip_norm      the gradient of all parameters is scaled down to this norm; 0: never
    ema            decay of the averaged weights (lower at the beginning); 0: the current weights
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
        whole_number("optimizer.warmup", self.warmup, 0)
        if not 0 <= self.ema < 1 or not 0 <= self.final_share <= 1:
            raise ValueError("optimizer needs ema in [0, 1) and final_share in [0, 1]")
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        if list(self.milestones) != sorted(set(self.milestones)) or min(
                self.milestones, default=1) < 1 or not 0 < self.gamma <= 1:
            raise ValueError("optimizer.milestones must be ascending iterations from 1, and "
                             "optimizer.gamma in (0, 1]")


@dataclass(frozen=True)
class Run:
    """Length, machine and records of a run.

    ``minutes`` ends a run early, together with its schedule: progress is the larger of the shares
    of iterations and minutes spent (0: iterations alone count).

    batch               images of an iteration, over all processes
    accumulate          parts of a process's share that are computed one after the other, so that
                        a large batch fits into memory
    threads             CPU threads; 0: torch's choice
    device              auto (a GPU if there is one), cpu, cuda, cuda:1
    precision           type of convolutions, see ``optimizer``
    compile             use torch.compile, which needs a C++ compiler or, on a GPU, triton
    report_every        iterations between lines of progress
    validate_every      iterations between validations
    checkpoint_minutes  minutes between checkpoints; 0: only at the end
    keep                number of checkpoints kept, the newest included
    keep_best           also keep the checkpoint with the best validated PSNR
    state               small file (.safetensors) relative to the recipe, written with each
                        checkpoint; a resume without checkpoint begins there; empty: none
    pictures            number of validation images shown in TensorBoard; 0: none
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
    state: str = ""
    pictures: int = 2
    timeout_minutes: float = 30.0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "accumulate", "report_every", "validate_every", "keep"):
            whole_number(f"run.{name}", getattr(self, name), 1)
        whole_number("run.threads", self.threads, 0)
        whole_number("run.pictures", self.pictures, 0)
        whole_number("run.seed", self.seed, 0, (1 << 63) - 1)
        if self.minutes < 0 or self.checkpoint_minutes < 0 or not self.timeout_minutes > 0:
            raise ValueError("run.minutes and run.checkpoint_minutes must be 0 or more, and "
                             "run.timeout_minutes above 0")
        if self.state and not self.state.endswith(".safetensors"):
            raise ValueError(f"run.state must end in .safetensors, not {self.state!r}")
        one_of("run.precision", self.precision, PRECISIONS)
        if not _DEVICE.fullmatch(self.device):
            raise ValueError("run.device must be auto, cpu, cuda or a GPU such as cuda:1, not "
                             f"{self.device!r}")
