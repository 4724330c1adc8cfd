"""Distillation: a frozen network, usually full precision, teaches one under training.

Both see the same x_t, condition and timestep. Besides the noise the student is held to what the
teacher predicts (mean absolute difference) and to what its blocks give: the L2 distance of both
outputs, each divided by its own L2 norm over channels and positions, so that a binary network need
not match scales. The latter is the feature loss of 2DQuant (Liu et al., NeurIPS 2024,
arXiv 2406.06649, section 3.4) without its factor 1 / CHW, as a mean over blocks and images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint.read import read_checkpoint
from ..errors import CheckpointError, UsageError
from ..networks.base import NOISE_PREDICTOR
from ..networks.bi_diffsr.architecture import blocks
from ..networks.bi_diffsr.config import NetworkConfig
from ..sampling.schedule import Schedule
from .losses import noise_error
from .networks.bi_diffsr import BiDiffSR
from .recipe_distill import Distill
from .weights import torch_network

__all__ = ["DistillationLoss", "feature_distance", "load_teacher"]

_OUTER = ("stem", "head")


class DistillationLoss(nn.Module):
    """The objective of a run with a teacher; the module of ``Task.objective``.

    ``network`` is trained, ``teacher`` frozen and always in evaluation. Called with the tensors of
    ``DiffusionTask.prepare``; gives the weighted ``loss`` and its unweighted parts: ``l1`` or
    ``l2``, whichever ``kind`` is, against the noise, ``output`` and ``features`` against the
    teacher, where their weight is above 0.
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
        """All but the teacher, whose dropout stays off."""
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
        parts = {self.kind: noise_error(prediction, target, self.kind)}
        if weights.output or weights.features:
            config = self.teacher.config
            its_group = timestep.long() * config.dynamic_group // config.total_step
            with torch.no_grad():
                taught = self.teacher.predict(noisy, condition, timestep, its_group, theirs).float()
        if weights.output:
            parts["output"] = (prediction - taught).abs().mean()
        if ours is not None and theirs is not None:
            parts["features"] = torch.stack([feature_distance(ours[name], theirs[name])
                                             for name in self.blocks]).mean()
        shares = {self.kind: weights.target, "output": weights.output, "features": weights.features}
        return {"loss": sum(shares[name] * part for name, part in parts.items()), **parts}


def feature_distance(first: Tensor, second: Tensor) -> Tensor:
    """|| A / ||A|| - B / ||B|| ||, L2 over each image's (C, H, W): the mean over images, a scalar
    from 0 (equal up to a factor) to 2 (opposite). A map of zeros counts as it is."""
    a, b = (nn.functional.normalize(x.float().flatten(1), dim=1) for x in (first, second))
    return torch.linalg.vector_norm(a - b, dim=1).mean()


def load_teacher(path: Path, student: NetworkConfig, schedule: Schedule,
                 distill: Distill) -> BiDiffSR:
    """The network of a teacher's checkpoint, checked against what it is to teach.

    Raises CheckpointError for files that hold no network of this model, of other images or
    timesteps or of another noise schedule, and, where features are compared, of other widths;
    UsageError for blocks that it does not have.
    """
    found = read_checkpoint(path)
    config = found.config
    if found.network.kind != NOISE_PREDICTOR:
        raise CheckpointError(f"{path}: is a feed-forward network, which predicts no noise; a "
                              "teacher is a diffusion model")
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
    return torch_network(found)
