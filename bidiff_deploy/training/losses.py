"""Losses of a noise predictor: against the noise in its input, and against a teacher.

With a teacher, a frozen network that is usually full precision, both networks see the same x_t,
condition and timestep. The loss adds the mean absolute difference of both predictions and the
distance of the outputs of both networks' blocks: each output is divided by its L2 norm over
channels and positions, so that a binary network need not match scales. The latter is the feature
loss of 2DQuant (Liu et al., NeurIPS 2024, arXiv 2406.06649, section 3.4) without its factor
1 / CHW, as a mean over blocks and images.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..checkpoint.read import read_checkpoint
from ..checkpoint.record import at_scale
from ..errors import CheckpointError, UsageError
from ..networks.base import NOISE_PREDICTOR
from ..networks.bi_diffsr.architecture import blocks
from ..networks.bi_diffsr.config import NetworkConfig
from ..sampling.schedule import Schedule
from .networks.bi_diffsr import BiDiffSR
from .recipe_parts import Distill
from .weights import torch_network

__all__ = ["DistillationLoss", "NoiseLoss", "feature_distance", "load_teacher", "noise_error"]

_OUTER = ("stem", "head")


def noise_error(prediction: Tensor, noise: Tensor, kind: str,
                deviation: Tensor | None = None) -> Tensor:
    """The mean of |prediction - noise| for ``l1``, the loss of BI-DiffSR, or of its square for
    ``l2``, the loss of DDPM (Ho et al., NeurIPS 2020, equation 14): a float32 scalar.

    ``deviation``: of a preconditioned network; the difference is divided by it, so that all
    timesteps of noised photos weigh alike (Karras et al., arXiv 2206.00364, equation 8)."""
    difference = prediction.float() - noise
    if deviation is not None:
        difference = difference / deviation
    return difference.abs().mean() if kind == "l1" else difference.square().mean()


class NoiseLoss(nn.Module):
    """``noise_error`` of the tensors that ``DiffusionTask.prepare`` returns."""

    def __init__(self, network: BiDiffSR, kind: str = "l1") -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor, group: Tensor,
                target: Tensor) -> dict[str, Tensor]:
        prediction = self.network.predict(noisy, condition, timestep, group)
        return {"loss": noise_error(prediction, target, self.kind,
                                    self.network.deviation(timestep))}


class DistillationLoss(nn.Module):
    """The loss with a teacher, of the tensors that ``DiffusionTask.prepare`` returns.

    ``network`` is trained; ``teacher`` is frozen and always in evaluation mode. Returns the
    weighted ``loss`` and its unweighted parts: ``l1`` or ``l2`` (``kind``) against the noise, and
    ``output`` and ``features`` against the teacher where their weight is above 0.
    """

    def __init__(self, network: BiDiffSR, teacher: BiDiffSR, distill: Distill,
                 kind: str = "l1") -> None:
        super().__init__()
        self.network = network
        self.teacher = teacher.requires_grad_(False).eval()
        self.distill, self.kind = distill, kind
        self.blocks = distill.blocks or tuple(
            block.name for block in teacher.blocks if block.kind not in _OUTER)

    def train(self, mode: bool = True) -> DistillationLoss:
        """Training mode for all but the teacher, whose dropout stays off."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor, group: Tensor,
                target: Tensor) -> dict[str, Tensor]:
        """``timestep`` float32 (1,), ``group`` int64 (1,), the others float32 (N, 3, H, W)."""
        weights = self.distill
        ours: dict[str, Tensor] | None = {} if weights.features else None
        theirs: dict[str, Tensor] | None = {} if weights.features else None
        prediction = self.network.predict(noisy, condition, timestep, group, ours).float()
        deviation = self.network.deviation(timestep)
        parts = {self.kind: noise_error(prediction, target, self.kind, deviation)}
        if weights.output or weights.features:
            config = self.teacher.config
            teacher_group = timestep.long() * config.dynamic_group // config.total_step
            with torch.no_grad():
                taught = self.teacher.predict(noisy, condition, timestep, teacher_group,
                                              theirs).float()
        if weights.output:
            parts["output"] = noise_error(prediction, taught, "l1", deviation)
        if ours is not None and theirs is not None:
            parts["features"] = torch.stack([feature_distance(ours[name], theirs[name])
                                             for name in self.blocks]).mean()
        shares = {self.kind: weights.target, "output": weights.output, "features": weights.features}
        loss = functools.reduce(torch.add, (shares[name] * part for name, part in parts.items()))
        return {"loss": loss, **parts}


def feature_distance(first: Tensor, second: Tensor) -> Tensor:
    """|| A / ||A|| - B / ||B|| ||, L2 over each image's (C, H, W), mean over images: a scalar from
    0 (equal up to a factor) to 2 (opposite). A map of zeros stays zero."""
    a, b = (nn.functional.normalize(x.float().flatten(1), dim=1) for x in (first, second))
    distances: Tensor = torch.linalg.vector_norm(a - b, dim=1)
    return distances.mean()


def load_teacher(path: Path, student: NetworkConfig, schedule: Schedule, distill: Distill,
                 scale: int | None = None) -> BiDiffSR:
    """The network of a teacher's checkpoint, checked against the student. ``scale``: chooses one of
    a network of several.

    Raises CheckpointError for a network that predicts no noise, has other channels, timesteps or
    betas, more levels or, if features are compared, other widths; UsageError for blocks that it
    does not have.
    """
    found = at_scale(read_checkpoint(path), scale)
    config = found.config
    if found.network.kind != NOISE_PREDICTOR:
        raise CheckpointError(f"{path}: is a feed-forward network, which predicts no noise; use a "
                              "diffusion model as teacher")
    alike = ["in_channel", "out_channel", "total_step"]
    if distill.features:
        alike += ["inner_channel", "channel_mults", "res_blocks"]
    for name in alike:
        if getattr(config, name) != getattr(student, name):
            raise CheckpointError(f"{path}: the teacher's {name} is {getattr(config, name)}, the "
                                  f"student's {getattr(student, name)}; make them equal"
                                  + ("" if name in alike[:3] else " or set distill.features to 0"))
    if config.levels > student.levels:
        raise CheckpointError(f"{path}: the teacher halves images {config.levels - 1} times, more "
                              f"than the student ({student.levels - 1}); make their levels equal")
    stated = Schedule(**found.schedule)
    if stated != schedule:
        raise CheckpointError(f"{path}: the teacher was trained with betas from "
                              f"{stated.beta_start:g} to {stated.beta_end:g}, the recipe has "
                              f"{schedule.beta_start:g} to {schedule.beta_end:g}; make them equal")
    known = [block.name for block in blocks(config) if block.kind not in _OUTER]
    for name in distill.blocks:
        if name not in known:
            raise UsageError(f"distill.blocks: the networks have no block {name!r}; they have "
                             f"{', '.join(known)}")
    return cast(BiDiffSR, torch_network(found))
