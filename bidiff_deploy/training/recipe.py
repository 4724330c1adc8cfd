"""Training recipes: YAML files read into frozen dataclasses, unknown keys refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

from ..architecture import NetworkConfig
from ..datasets import check_template
from ..errors import CheckpointError, UsageError
from ..schedule import Schedule

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
        _positive(self, "crop", "candidates")


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
        if self.origin not in ORIGINS:
            raise ValueError(f"a step's origin must be one of {', '.join(ORIGINS)}, not "
                             f"{self.origin!r}")
        if not self.share > 0:
            raise ValueError(f"a step's share must be above 0, not {self.share}")


@dataclass(frozen=True)
class Optimizer:
    """Adam, linear warm-up, cosine decay to ``final_share`` of the learning rate."""

    learning_rate: float = 1e-4
    betas: tuple[float, ...] = (0.9, 0.99)
    warmup: int = 0
    final_share: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or not self.clip_norm > 0:
            raise ValueError("optimizer.learning_rate and optimizer.clip_norm must be above 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas must be two numbers in [0, 1), not "
                             f"{list(self.betas)}")
        if not 0 <= self.ema < 1 or not 0 <= self.final_share <= 1 or self.warmup < 0:
            raise ValueError("optimizer needs ema in [0, 1), final_share in [0, 1], warmup >= 0")


@dataclass(frozen=True)
class Run:
    """Length and book-keeping. ``minutes`` ends a run early, with its schedule: progress is the
    larger of the shares of iterations and minutes spent (0 minutes: iterations alone count)."""

    iterations: int = 1000
    minutes: float = 0.0
    batch: int = 8
    seed: int = 0
    threads: int = 0
    report_every: int = 100
    validate_every: int = 1000
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        _positive(self, "iterations", "batch", "report_every", "validate_every")
        if self.minutes < 0 or self.checkpoint_minutes < 0 or self.threads < 0:
            raise ValueError("run.minutes, run.checkpoint_minutes and run.threads can not be "
                             "below 0")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on besides the photos' pixels.

    ``steps`` are the timesteps that sampling will visit, descending; a number stands for so many
    of them, evenly spaced and noised from photos. ``uniform`` is the share of iterations at a
    timestep drawn from all of the schedule instead, noised from photos: 1 is the published way.
    """

    scale: int
    data: Data
    steps: tuple[Step, ...]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    betas: tuple[float, ...] = (Schedule.beta_start, Schedule.beta_end)
    uniform: float = 0.0
    initial: str = ""  # checkpoint to start from, relative to the recipe
    optimizer: Optimizer = field(default_factory=Optimizer)
    loading: Loading = field(default_factory=Loading)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        if not 2 <= self.scale <= 8:
            raise ValueError(f"scale must be 2 to 8, not {self.scale}")
        if not 0 <= self.uniform <= 1:
            raise ValueError(f"uniform must be from 0 to 1, not {self.uniform}")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be the first and the last one, not {list(self.betas)}")
        self.schedule.check(self.timesteps)
        if self.steps[0].origin == "sample":
            raise ValueError("the first step's origin can not be sample: nothing precedes it")
        unit = self.scale * self.network.size_multiple
        if self.data.crop % unit:
            raise ValueError(f"data.crop={self.data.crop} must be a multiple of {unit}")

    @property
    def timesteps(self) -> tuple[int, ...]:
        return tuple(step.timestep for step in self.steps)

    @property
    def schedule(self) -> Schedule:
        """Linear betas over the network's ``total_step`` timesteps."""
        return Schedule(self.network.total_step, *self.betas)

    @property
    def start(self) -> int | None:
        """Where sampling starts from the noised condition; None: from pure noise."""
        return self.timesteps[0] if self.steps[0].origin == "condition" else None

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, the form ``read_recipe`` takes."""
        return _plain(self)


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Recipe from a YAML file, ``settings`` like ``run.batch=4`` applied on top.

    Raises UsageError, one sentence that names the file and the key, for anything that is no
    recipe: no file, no YAML, unknown keys, wrong types, values out of range.
    """
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: can not be read ({error.strerror}); "
                         "give a recipe file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: a recipe is a mapping with keys such as network, data, steps")
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write it as key=value, such as run.batch=4")
        branch = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise UsageError(f"--set {setting}: {parent} is not a group of keys")
        try:
            branch[leaf] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {setting}: the value is no YAML") from None
    return recipe_from_dict(tree, str(path))


def recipe_from_dict(tree: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Recipe from plain values; ``origin`` names them in errors (UsageError)."""
    steps = tree.get("steps")
    if isinstance(steps, int) and not isinstance(steps, bool):
        total = _build(NetworkConfig, tree.get("network", {}), origin, "network").total_step
        tree = {**tree, "steps": [{"timestep": t}
                                  for t in Schedule(total).leading_timesteps(steps)]}
    return _build(Recipe, tree, origin, "")


def _positive(thing: Any, *names: str) -> None:
    for name in names:
        if getattr(thing, name) < 1:
            raise ValueError(f"{name} must be 1 or more, not {getattr(thing, name)}")


def _plain(value: Any) -> Any:
    if isinstance(value, NetworkConfig):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _build(kind: type, tree: Any, origin: str, where: str) -> Any:
    if kind is Photo and isinstance(tree, str):
        tree = {"path": tree}
    if not isinstance(tree, Mapping):
        raise UsageError(f"{origin}: {where or 'recipe'} must be a mapping, not {tree!r}")
    if kind is NetworkConfig:
        try:
            return NetworkConfig.from_dict(tree, where)
        except CheckpointError as error:
            raise UsageError(f"{origin}: {error}") from None
    hints = typing.get_type_hints(kind)
    unknown = sorted(str(key) for key in set(tree) - set(hints))
    if unknown:
        raise UsageError(f"{origin}: unknown key {', '.join(unknown)} in {where or 'recipe'}; "
                         f"known are {', '.join(sorted(hints))}")
    lacking = [f.name for f in dataclasses.fields(kind)
               if f.default is f.default_factory is dataclasses.MISSING and f.name not in tree]
    if lacking:
        raise UsageError(f"{origin}: {where or 'recipe'} lacks {', '.join(lacking)}; add "
                         f"{'it' if len(lacking) == 1 else 'them'}")
    values = {key: _value(hints[key], value, origin, f"{where}.{key}".lstrip("."))
              for key, value in tree.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None


def _value(hint: Any, value: Any, origin: str, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, origin, where)
    if isinstance(hint, types.GenericAlias):  # tuple[X, ...]
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{origin}: {where} must be a list, not {value!r}")
        return tuple(_value(hint.__args__[0], item, origin, f"{where}[{index}]")
                     for index, item in enumerate(value))
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML reads 1e-3 as a string
            value = float(value)
        except ValueError:
            pass
    if type(value) is not hint:
        raise UsageError(f"{origin}: {where} must be {_KINDS[hint]}, not {value!r}")
    return value


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
