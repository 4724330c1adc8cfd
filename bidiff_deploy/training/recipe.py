"""Training recipes: YAML files read into frozen dataclasses; unknown keys are refused."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.yaml_text import load_yaml, read_text
from ..checks import whole_number
from ..errors import UsageError, one_line, quoted
from ..images.metrics import WINDOW
from ..networks import DEFAULT, NETWORKS
from ..networks.base import NOISE_PREDICTOR, ONE_RUN
from ..networks.bi_diffsr.config import NetworkConfig
from ..sampling.schedule import Schedule
from .published_options import is_published, recipe_tree
from .recipe_one_step import PHOTO_LOSSES, OneStep
from .recipe_parts import Data, Distill, Loading, Optimizer, Photo, Run, Step
from .values import build, one_of, plain

__all__ = ["Data", "Distill", "Loading", "Optimizer", "Photo", "Recipe", "Run", "Step",
           "read_recipe", "recipe_from_dict"]

LOSSES = {NOISE_PREDICTOR: ("l1", "l2"), ONE_RUN: PHOTO_LOSSES}


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on except the photos' pixels.

    scale    the upscaling factor; not stated for a network of several, ``network.scales``, of which
             each batch draws one
    steps    the timesteps that sampling visits, descending; a number: that many, evenly spaced
             and noised from photos
    model    the network, bi-diffsr or bbcu; bbcu has no ``steps``, ``betas``, ``uniform``
    network  the options of the network
    betas    first and last of the schedule
    uniform  share of iterations at a timestep drawn from the whole schedule, noised from photos;
             1 is the published training
    per_image  with ``uniform: 1``, each image of a batch has its own timestep; only for networks
             whose parameters do not depend on groups of timesteps (``dynamic_group`` 1)
    timestep_power  with ``per_image``: timesteps are the whole part of ``total_step`` times u to
             this power, u uniform in [0, 1); above 1 low ones, which decide details, are drawn
             more often
    loss     of a diffusion model against the noise, l1 or l2, see ``losses``; of another network
             against the photo, see ``photo_losses``
    initial  checkpoint to start from, relative to the recipe; empty: fresh weights. It may have
             another dropout or binarizer: then the tensors that both have are taken
    one_step a student of one call, instead of ``steps``, ``uniform``, ``loss`` and ``distill``; of
             a network without a loop, instead of ``loss``
    """

    scale: int
    data: Data
    steps: tuple[Step, ...] = ()
    model: str = DEFAULT
    network: Any = field(default_factory=NetworkConfig)
    betas: tuple[float, ...] = (Schedule.beta_start, Schedule.beta_end)
    uniform: float = 0.0
    per_image: bool = False
    timestep_power: float = 1.0
    loss: str = "l1"
    initial: str = ""
    distill: Distill = field(default_factory=Distill)
    one_step: OneStep = field(default_factory=OneStep)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loading: Loading = field(default_factory=Loading)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        one_of("model", self.model, tuple(NETWORKS))
        network = NETWORKS[self.model]
        named = "each of network.scales" if network.scales(self.network) else "scale"
        for scale in self.scales:
            whole_number(named, scale, 2, 8)
        if network.kind not in LOSSES:
            raise ValueError(f"model {self.model} is not trained here; export its published "
                             "checkpoint")
        one_of(f"loss of {self.model}", self.loss, LOSSES[network.kind])
        if network.kind == NOISE_PREDICTOR:
            self._check_diffusion()
        else:
            for key, given in (("steps", self.steps), ("distill", self.distill.teacher),
                               ("one_step.timestep", self.one_step.timestep),
                               ("one_step.noise", not self.one_step.noise),
                               ("one_step.wide", self.one_step.wide.copies),
                               ("per_image", self.per_image),
                               ("timestep_power", self.timestep_power != 1)):
                if given:
                    raise ValueError(f"{key} applies only to diffusion models; remove it for "
                                     f"{self.model}, which is trained between images")
        fixed = network.fixed_scale(self.network)
        if fixed not in (None, self.scale):
            raise ValueError(f"network.scale={fixed} must be scale={self.scale}")
        unit = math.lcm(*self.scales) * network.size_multiple(self.network)
        if self.data.crop % unit:
            raise ValueError(f"data.crop={self.data.crop} must be a multiple of {unit}")
        if self.one_step != OneStep() and not self.one_step.losses:
            raise ValueError("one_step has no loss; give image, trajectory, score, discriminator "
                             "or perceptual a weight above 0")
        luma = self.loss == "luma" or self.one_step.image and self.one_step.kind == "luma"
        if luma and self.data.crop < len(WINDOW):
            raise ValueError(f"data.crop={self.data.crop} must be at least {len(WINDOW)} for the "
                             "loss luma, which computes SSIM")
        if network.kind == ONE_RUN and self.one_step.losses:
            if self.loss != "l1":
                raise ValueError(f"one_step has its own losses; leave loss={self.loss} out, and "
                                 "give one_step.image and one_step.kind")
            self.one_step.check_crops(self.data.crops)

    def _check_diffusion(self) -> None:
        if self.scale != self.scales[0]:
            raise ValueError(f"network.scales={list(self.scales)} takes the place of "
                             f"scale={self.scale}; leave scale out")
        if len(self.scales) > 1 and (self.one_step.losses or self.distill.teacher):
            raise ValueError("network.scales has no one_step and no distill; leave them out")
        if len(self.scales) > 1 and any(photo.low for photo in
                                        (*self.data.train, *self.data.validate)):
            raise ValueError("low-resolution images in files are of one scale; leave low out for "
                             "network.scales")
        if not 0 <= self.uniform <= 1:
            raise ValueError(f"uniform must be from 0 to 1, not {self.uniform}")
        if self.per_image and (self.uniform != 1 or self.network.dynamic_group != 1
                               or self.distill.teacher):
            raise ValueError("per_image needs uniform: 1, no distill, and a network with "
                             "dynamic_group 1, such as binarizer: none")
        if not 1 <= self.timestep_power <= 4 or (self.timestep_power != 1 and not self.per_image):
            raise ValueError(f"timestep_power={self.timestep_power} must be from 1 to 4, and 1 "
                             "without per_image")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be the first and the last one, not {list(self.betas)}")
        if self.network.preconditioning and self.schedule != Schedule(self.network.total_step):
            raise ValueError(f"network.preconditioning is of the published betas; leave "
                             f"betas={list(self.betas)} out")
        if self.one_step.losses:
            if not self.one_step.timestep:
                raise ValueError("one_step.timestep must state the timestep of the one call")
            if self.distill.teacher or self.uniform:
                raise ValueError("one_step has its own losses; leave distill and uniform out")
            self.one_step.check(self.schedule, self.data.crops)
            if self.steps != (Step(self.one_step.timestep, "condition"),):
                raise ValueError("one_step states its one timestep; leave steps out")
        self.schedule.check(self.timesteps)
        if self.steps[0].origin == "sample":
            raise ValueError("the first step's origin cannot be sample: nothing precedes it")

    @property
    def noise_predictor(self) -> bool:
        """Whether the network is called in a loop over timesteps, or in one step of it."""
        return bool(NETWORKS[self.model].kind == NOISE_PREDICTOR)

    @property
    def timesteps(self) -> tuple[int, ...]:
        return tuple(step.timestep for step in self.steps)

    @property
    def scales(self) -> tuple[int, ...]:
        """The upscaling factors that are trained."""
        found: tuple[int, ...] = NETWORKS[self.model].scales(self.network)
        return found or (self.scale,)

    @property
    def schedule(self) -> Schedule:
        """Linear betas over the network's ``total_step`` timesteps."""
        first, last = self.betas
        return Schedule(self.network.total_step, first, last)

    @property
    def start(self) -> int | None:
        """Timestep at which sampling starts from the noised condition; None: from pure noise."""
        return self.timesteps[0] if self.steps[0].origin == "condition" else None

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, the form ``recipe_from_dict`` takes."""
        return {name: plain(value) for name, value in vars(self).items()}


def read_recipe(path: Path, settings: Sequence[str] = (),
                say: Callable[[str], object] | None = None) -> Recipe:
    """The recipe in a YAML file, changed by ``settings`` like ``run.batch=4``.

    The file may also be an option file of the authors, see ``published_options``; ``say`` receives
    a line on the options that were ignored (default: stderr). Raises UsageError, one sentence that
    names the file and the key, for a file that is missing or not YAML, for unknown keys, wrong
    types and values out of range.
    """
    tree = _read_yaml(path)
    if is_published(tree):
        tree, notes = recipe_tree(tree, path)
        for note in notes:
            if say is not None:
                say(note)
            elif os.environ.get("RANK", "0") == "0":  # only one of torchrun's processes prints
                print(note, file=sys.stderr)
    for setting in settings:
        _apply(setting, tree)
    return recipe_from_dict(tree, str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = load_yaml(read_text(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}); "
                         "give a recipe file") from None
    except ValueError as error:
        raise UsageError(f"{path}: is not YAML ({one_line(error)}); give a recipe file") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: a recipe is a mapping with keys such as network, data, steps")
    return tree


def _apply(setting: str, tree: dict[str, Any]) -> None:
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
        branch[leaf] = load_yaml(value)
    except ValueError as error:
        raise UsageError(f"--set {quoted(setting)}: the value is not YAML "
                         f"({one_line(error)})") from None


def recipe_from_dict(tree: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Recipe from plain values; errors (UsageError) begin with ``origin``."""
    try:
        one_of("model", model := str(tree.get("model", DEFAULT)), tuple(NETWORKS))
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None
    network = NETWORKS[model]
    steps, given = tree.get("steps"), tree.get("network", {})
    if network.kind == NOISE_PREDICTOR:
        one_step = tree.get("one_step")
        if "steps" not in tree and isinstance(one_step, Mapping) and one_step.get("timestep"):
            tree = {**tree, "steps": [{"timestep": one_step["timestep"], "origin": "condition"}]}
        several = given.get("scales") if isinstance(given, Mapping) else None
        if several and "scale" not in tree and isinstance(several, (list, tuple)):
            tree = {**tree, "scale": several[0]}
        if "steps" not in tree:
            lacks = "one_step.timestep, that of the one call; state it" if one_step \
                else "steps; add them"
            raise UsageError(f"{origin}: recipe lacks {lacks}")
        if isinstance(steps, int) and not isinstance(steps, bool):
            total = build(network.config_class, given, origin, "network").total_step
            tree = {**tree, "steps": [{"timestep": t}
                                      for t in Schedule(total).leading_timesteps(steps)]}
    elif isinstance(given, Mapping) and hasattr(network.config_class, "scale"):
        tree = {**tree, "network": {"scale": tree.get("scale"), **given}}
    return build(Recipe, tree, origin, hints={"network": network.config_class})
