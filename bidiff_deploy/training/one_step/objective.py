"""The losses of a student of one call.

The student's result is (x - sqrt(1 - a) eps) / sqrt(a), eps its prediction at the recipe's
timestep, a the alpha there, x the start: the noised condition, or sqrt(a) times the condition.
DFOSD takes the low-resolution image itself as x; images here are not centred at 0, and with sqrt(a)
a student that predicts nothing returns the condition.

The discriminator learns in the same iteration, from the same weights as the student: the released
code of TAD-SR updates it first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...sampling.schedule import Schedule
from ..networks.bi_diffsr import BiDiffSR
from ..photo_losses import photo_loss, with_luma_of
from ..recipe_one_step import OneStep
from . import similarity
from .discriminator import Judge, judge_losses, student_loss
from .scores import noised, score_distillation
from .wide import widened

__all__ = ["OneRunLoss", "OneStepLoss", "judged_blocks"]


def judged_blocks(teacher: BiDiffSR) -> list[str]:
    """The blocks whose outputs are judged, as in TAD-SR: those that halve the image, the last of
    the encoder, and the middle."""
    encoder = [block for block in teacher.blocks if block.name.startswith("encoder.")]
    names = [block.name for block in encoder if block.kind == "down" or block is encoder[-1]]
    return [*names, "middle.1"]


class OneStepLoss(nn.Module):
    """The losses of ``options``, of the tensors that ``prepare`` of the tasks returns.

    Returns ``loss``, the weighted sum and the discriminator's own loss, and unweighted parts:
    ``image``, ``trajectory``, ``score``, ``fooled`` (the discriminator, as the student's loss),
    ``judge`` (its own loss), ``dists`` or ``features``, and ``wide_image``, ``wide_trajectory`` and
    ``copied`` with a wide teacher, and those of ``photo_losses``. ``vgg``: for DISTS; None: the
    teacher's features.
    """

    alphas: Tensor

    def __init__(self, network: nn.Module, options: OneStep, schedule: Schedule,
                 teacher: BiDiffSR | None = None, vgg: similarity.Vgg | None = None) -> None:
        super().__init__()
        self.network, self.options, self.teacher, self.vgg = network, options, teacher, vgg
        self.register_buffer("alphas", torch.tensor(schedule.alphas_cumprod), persistent=False)
        self.wide = widened(cast(BiDiffSR, network), options.wide.copies) \
            if options.wide.copies else None
        self.judge: Judge | None = None
        self.judged = judged_blocks(teacher) if teacher is not None else []
        if teacher is not None and options.discriminator.weight:
            widths = self._widths(teacher)
            self.judge = Judge(teacher.config.inner_channel, widths, options.discriminator.classes,
                               options.discriminator.rate)

    def train(self, mode: bool = True) -> OneStepLoss:
        """Training mode for all but the teacher, whose dropout stays off."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, start: Tensor, condition: Tensor, photo: Tensor, taught: Tensor,
                score_noise: Tensor, score_step: Tensor, judge_noise: Tensor,
                judge_step: Tensor) -> dict[str, Tensor]:
        """``start``, ``condition``, ``photo``: float32 (N, 3, H, W), ``start`` the low-resolution
        image for a network without a loop; ``taught`` and the noise the same, or empty where no
        loss needs them; ``score_step``, ``judge_step``: int64, (N,), or (1,) for a teacher with
        groups of timesteps."""
        options = self.options
        weights = None if self.wide is None else self.wide.student()
        result = self._result(self.network, weights, start, condition)
        parts = self._regression(result, photo, taught)
        shares = {"image": options.image, "trajectory": options.trajectory.weight}
        details = {name: parts.pop(name) for name in [*parts] if name not in shares}
        if self.wide is not None:
            wide = self._result(self.wide, None, start, condition)
            for name, part in self._regression(wide, photo, taught).items():
                if name in shares:
                    parts[f"wide_{name}"] = part
                    shares[f"wide_{name}"] = shares[name]
            parts["copied"] = (result - wide.detach()).abs().mean()
            shares["copied"] = options.wide.weight
        if options.score.weight:
            alpha = self.alphas[score_step].view(-1, 1, 1, 1)
            parts["score"] = score_distillation(
                result, taught, lambda image: noised(image, score_noise, alpha),
                lambda noisy: self._taught_noise(noisy, condition, score_step))
            shares["score"] = options.score.weight
        # Only what is seen in luma: colours that a teacher's features do not mind would stay wrong.
        seen = with_luma_of(photo, result) if options.luma_only else result
        if options.perceptual.weight:
            name = "features" if self.vgg is None else "dists"
            parts[name] = self._dissimilarity(seen, photo, condition)
            shares[name] = options.perceptual.weight
        loss = torch.stack([shares[name] * part for name, part in parts.items()]).sum() \
            if parts else result.new_zeros(())
        if self.judge is not None:
            parts["fooled"], parts["judge"] = self._judged(seen, photo, condition, judge_noise,
                                                           judge_step)
            loss = loss + options.discriminator.weight * parts["fooled"] + parts["judge"]
        return {"loss": loss, **parts, **details}

    def _result(self, network: nn.Module, weights: Mapping[str, Tensor] | None, start: Tensor,
                condition: Tensor) -> Tensor:
        inputs = (start, condition, self.options.timestep)
        prediction = network(*inputs) if weights is None else functional_call(
            network, dict(weights), inputs)
        alpha = self.alphas[self.options.timestep]
        result: Tensor = (start - (1 - alpha).sqrt() * prediction.float()) / alpha.sqrt()
        return result

    def _regression(self, result: Tensor, photo: Tensor, taught: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.options.image:
            found = photo_loss(result, photo, self.options.kind)
            found["image"] = found.pop(self.options.kind)
        if self.options.trajectory.weight:
            found["trajectory"] = (result - taught).square().mean()
        return found

    # -- the teacher ------------------------------------------------------------------------------
    def _group(self, timestep: Tensor) -> Tensor:
        config = self._known_teacher.config
        return timestep[:1] * config.dynamic_group // config.total_step

    @property
    def _known_teacher(self) -> BiDiffSR:
        assert self.teacher is not None, "OneStep has checked that there is one"
        return self.teacher

    def _taught_noise(self, noisy: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
        return self._known_teacher.predict(noisy, condition, timestep.float(),
                                           self._group(timestep)).float()

    def _features(self, noisy: Tensor, condition: Tensor, timestep: Tensor) -> list[Tensor]:
        outputs: dict[str, Tensor] = {}
        self._known_teacher.predict(noisy, condition, timestep.float(), self._group(timestep),
                                    outputs, self.judged[-1])
        return [outputs[name].float() for name in self.judged]

    @torch.no_grad()
    def _widths(self, teacher: BiDiffSR) -> list[int]:
        side = teacher.config.size_multiple
        device = next(teacher.parameters()).device
        image = torch.zeros(1, 3, side, side, device=device)
        return [x.shape[1] for x in self._features(
            image, image, torch.zeros(1, dtype=torch.int64, device=device))]

    def _judged(self, result: Tensor, photo: Tensor, condition: Tensor, noise: Tensor,
                timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The student's loss and the discriminator's."""
        judge, kind = self.judge, self.options.discriminator.loss
        assert judge is not None
        if self.training:
            judge.iterate()
        alpha = self.alphas[timestep].view(-1, 1, 1, 1)
        with torch.no_grad():
            real = self._features(noised(photo, noise, alpha), condition, timestep)
        fake = self._features(noised(result, noise, alpha), condition, timestep)
        own = judge_losses(judge(real, timestep), judge([x.detach() for x in fake], timestep), kind)
        frozen = {name: value.detach() for name, value in judge.named_parameters()}
        return student_loss(functional_call(judge, frozen, (fake, timestep)), kind), own

    def _dissimilarity(self, result: Tensor, photo: Tensor, condition: Tensor) -> Tensor:
        def features(image: Tensor) -> list[Tensor]:
            if self.vgg is not None:
                found: list[Tensor] = self.vgg(image)
                return found
            lowest = torch.zeros(1, dtype=torch.int64, device=image.device)
            return [image, *self._features(image, condition, lowest)]

        def distance(first: Tensor, second: Tensor) -> Tensor:
            ours = features(first)
            with torch.no_grad():
                theirs = features(second)
            alpha, beta = ((self.vgg.alpha, self.vgg.beta) if self.vgg is not None
                           else (similarity.equal_factors(ours),) * 2)
            return similarity.dissimilarity(ours, theirs, alpha, beta).mean()

        if self.options.perceptual.edges:
            return similarity.with_edges(distance, result, photo)
        return distance(result, photo)


class OneRunLoss(OneStepLoss):
    """The same of a network without a loop, whose result is its output."""

    def _result(self, network: nn.Module, weights: Mapping[str, Tensor] | None, start: Tensor,
                condition: Tensor) -> Tensor:
        result: Tensor = network(start)
        return result.float()
