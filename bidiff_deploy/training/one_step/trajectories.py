"""Images that a teacher samples, each computed once and kept on disk.

A file's name is a hash of everything that its image is a function of: the teacher's file, its
schedule and timesteps, the crop's condition and the noise. So any run with the same teacher, crops
and seed reads it, and no other. The type of device and the crops sampled with it change the last
bits; what was written first counts, so a resumed run repeats the other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...checkpoint.read import read_checkpoint
from ...checkpoint.record import at_scale
from ...errors import CheckpointError, UsageError
from ...files import atomic_file, make_directory
from ...networks.base import NOISE_PREDICTOR
from ...sampling.schedule import DEFAULT_STEPS, Schedule
from ..diffusion import add_noise, ddim_update
from ..losses import load_teacher
from ..networks.bi_diffsr import BiDiffSR
from ..recipe import Recipe
from ..recipe_parts import Distill
from ..weights import torch_network

__all__ = ["Teacher", "Trajectories", "open_teacher"]


@dataclass(frozen=True)
class Teacher:
    """A frozen noise predictor and how it is sampled.

    digest     SHA-256 of its checkpoint
    timesteps  of its loop, descending
    start      the first of them if the loop begins at the noised condition; None: at pure noise
    """

    network: BiDiffSR
    digest: str
    schedule: Schedule
    timesteps: tuple[int, ...]
    start: int | None = None

    @torch.no_grad()
    def sampled(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The image of its loop, float32 (N, 3, H, W) in [0, 1], from ``noise`` of that shape."""
        table = self.schedule.alphas_cumprod
        latent = noise if self.start is None else add_noise(condition, noise, table[self.start])
        alphas = [table[t] for t in self.timesteps] + [np.float32(1)]
        condition = condition.contiguous(memory_format=torch.channels_last)
        for timestep, now, following in zip(self.timesteps, alphas, alphas[1:]):
            latent = latent.contiguous(memory_format=torch.channels_last)
            prediction = self.network(latent, condition, timestep)
            latent = ddim_update(latent, prediction, now, following)
        return latent.clamp(0, 1)


def open_teacher(recipe: Recipe, folder: Path) -> Teacher:
    """The recipe's teacher, frozen. Raises CheckpointError for one that does not fit the student.
    """
    path, steps = folder / recipe.one_step.teacher, recipe.one_step.trajectory.steps
    if recipe.noise_predictor:
        schedule = recipe.schedule
        network = load_teacher(path, recipe.network, schedule, Distill(), recipe.scale)
    else:
        network, schedule = _of_another_kind(path, recipe)
    network.requires_grad_(False).eval()
    found = read_checkpoint(path)
    timesteps, start = found.sampling.get("timesteps"), found.sampling.get("start")
    if steps or not timesteps:
        timesteps, start = schedule.leading_timesteps(steps or DEFAULT_STEPS), None
    if "noise" in found.sampling:
        raise CheckpointError(f"{path}: starts from no noise and so has one result for an image; "
                              "use a model that starts from noise as teacher")
    return Teacher(network, found.sha256, schedule,
                   tuple(t for t in timesteps if start is None or t <= start), start)


def _of_another_kind(path: Path, recipe: Recipe) -> tuple[BiDiffSR, Schedule]:
    """The teacher of a network without a loop."""
    found = at_scale(read_checkpoint(path), recipe.scale)
    if found.network.kind != NOISE_PREDICTOR or found.scale not in (None, recipe.scale):
        raise CheckpointError(f"{path}: a teacher must be a diffusion model of scale "
                              f"{recipe.scale}; give another")
    unit, schedule = found.network.size_multiple(found.config), Schedule(**found.schedule)
    if recipe.data.crop % unit:
        raise UsageError(f"data.crop={recipe.data.crop} must be a multiple of {unit} for the "
                         f"teacher {path}")
    try:
        recipe.one_step.check_teacher(schedule)
    except ValueError as error:
        raise UsageError(f"{error}, for the teacher {path}") from None
    return cast(BiDiffSR, torch_network(found)), schedule


class Trajectories:
    """The images that ``teacher`` samples; ``folder`` keeps them, None: nothing does."""

    def __init__(self, teacher: Teacher, folder: Path | None) -> None:
        self.teacher, self._folder = teacher, folder
        self._about = json.dumps([teacher.digest, teacher.schedule.to_dict(),
                                  list(teacher.timesteps), teacher.start]).encode()

    def images(self, condition: Tensor, noise: Tensor) -> Tensor:
        """``Teacher.sampled``, from the folder where it has them. Raises OutputError if the folder
        cannot be written."""
        if self._folder is None:
            return self.teacher.sampled(condition, noise)
        paths = [self._path(*pair) for pair in zip(condition.cpu(), noise.cpu())]
        found = [_read(path, condition[0].shape) for path in paths]
        missing = [index for index, image in enumerate(found) if image is None]
        if missing:
            made = self.teacher.sampled(condition[missing], noise[missing]).cpu()
            for index, image in zip(missing, made):
                found[index] = image
                _write(paths[index], image)
        return torch.stack([cast(Tensor, image) for image in found]).to(condition.device)

    def _path(self, condition: Tensor, noise: Tensor) -> Path:
        assert self._folder is not None
        key = hashlib.sha256(self._about)
        for tensor in (condition, noise):
            key.update(tensor.contiguous().numpy().tobytes())
        name = key.hexdigest()[:32]
        return self._folder / name[:2] / f"{name}.npy"


def _read(path: Path, shape: torch.Size) -> Tensor | None:
    """The image in a file; None if there is none, or not one of that shape."""
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = image.shape == tuple(shape) and image.dtype == np.float32
    return torch.from_numpy(image) if fits else None


def _write(path: Path, image: Tensor) -> None:
    make_directory(path.parent)
    with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
        np.save(file, image.contiguous().numpy())
