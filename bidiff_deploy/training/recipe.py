"""Training recipes: YAML files read into frozen dataclasses, unknown keys refused.

What stands in ``data``, ``loading`` and ``steps`` is in ``recipe_data``, what stands in
``optimizer`` and ``run`` in ``recipe_run``, what stands in ``distill`` in ``recipe_distill``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..networks import DEFAULT, NETWORKS
from ..networks.base import NOISE_PREDICTOR
from ..networks.bi_diffsr.config import NetworkConfig
from ..sampling.schedule import Schedule
from .published_options import is_published, recipe_tree
from .recipe_data import ORIGINS, Data, Loading, Photo, Step
from .recipe_distill import Distill
from .recipe_run import Optimizer, Run
from .values import build, one_of, plain

__all__ = ["Data", "Distill", "Loading", "ORIGINS", "Optimizer", "Photo", "Recipe", "Run", "Step",
           "read_recipe", "recipe_from_dict"]

LOSSES = ("l1", "l2")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on besides the photos' pixels.

    ``model`` is the kind of network, bi-diffsr or bbcu, of which ``network`` are the options; for
    bbcu none of ``steps``, ``betas``, ``uniform`` and ``loss`` has a meaning.
    ``steps`` are the timesteps that sampling will visit, descending; a number stands for so many
    of them, evenly spaced and noised from photos. ``uniform`` is the share of iterations at a
    timestep drawn from all of the schedule instead, noised from photos: 1 is the published way.
    ``loss`` is the one against the noise, l1 or l2, see ``losses``.
    """

    scale: int
    data: Data
    steps: tuple[Step, ...] = ()
    model: str = DEFAULT
    network: Any = field(default_factory=NetworkConfig)
    betas: tuple[float, ...] = (Schedule.beta_start, Schedule.beta_end)
    uniform: float = 0.0
    loss: str = "l1"
    initial: str = ""  # checkpoint to start from, relative to the recipe
    distill: Distill = field(default_factory=Distill)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loading: Loading = field(default_factory=Loading)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        if not 2 <= self.scale <= 8:
            raise ValueError(f"scale must be 2 to 8, not {self.scale}")
        one_of("model", self.model, tuple(NETWORKS))
        one_of("loss", self.loss, LOSSES)
        network = NETWORKS[self.model]
        if network.kind == NOISE_PREDICTOR:
            self._check_diffusion()
        elif self.steps:
            raise ValueError(f"steps are of a diffusion model; leave them out for {self.model}")
        elif self.loss != LOSSES[0]:
            raise ValueError(f"loss is of a diffusion model; leave it out for {self.model}, which "
                             "learns by l1 between pictures")
        elif self.distill.teacher:
            raise ValueError(f"distill is of a diffusion model; leave it out for {self.model}")
        elif network.fixed_scale(self.network) not in (None, self.scale):
            raise ValueError(f"network.scale={self.network.scale} must be scale={self.scale}")
        unit = self.scale * network.size_multiple(self.network)
        if self.data.crop % unit:
            raise ValueError(f"data.crop={self.data.crop} must be a multiple of {unit}")

    def _check_diffusion(self) -> None:
        if not 0 <= self.uniform <= 1:
            raise ValueError(f"uniform must be from 0 to 1, not {self.uniform}")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be the first and the last one, not {list(self.betas)}")
        self.schedule.check(self.timesteps)
        if self.steps[0].origin == "sample":
            raise ValueError("the first step's origin can not be sample: nothing precedes it")

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
        return plain(self)


def read_recipe(path: Path, settings: Sequence[str] = (),
                say: Callable[[str], object] | None = None) -> Recipe:
    """Recipe from a YAML file, ``settings`` like ``run.batch=4`` applied on top.

    The file may also be an option file of the authors, see ``published_options``; ``say`` is told
    what of it has no counterpart (default: a line on stderr). Raises UsageError, one sentence that
    names the file and the key, for anything that is no recipe: no file, no YAML, unknown keys,
    wrong types, values out of range.
    """
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: can not be read ({error.strerror}); "
                         "give a recipe file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no YAML ({' '.join(str(error).split())}); "
                         "give a recipe file") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: a recipe is a mapping with keys such as network, data, steps")
    if is_published(tree):
        tree, notes = recipe_tree(tree, path)
        for note in notes:
            if say is not None:
                say(note)
            elif os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
                print(note, file=sys.stderr)
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
    try:
        one_of("model", model := str(tree.get("model", DEFAULT)), tuple(NETWORKS))
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None
    network = NETWORKS[model]
    steps, given = tree.get("steps"), tree.get("network", {})
    if network.kind == NOISE_PREDICTOR:
        if "steps" not in tree:
            raise UsageError(f"{origin}: recipe lacks steps; add them")
        if isinstance(steps, int) and not isinstance(steps, bool):
            total = build(network.config_class, given, origin, "network").total_step
            tree = {**tree, "steps": [{"timestep": t}
                                      for t in Schedule(total).leading_timesteps(steps)]}
    elif isinstance(given, Mapping) and hasattr(network.config_class, "scale"):
        tree = {**tree, "network": {"scale": tree.get("scale"), **given}}
    return build(Recipe, tree, origin, hints={"network": network.config_class})
