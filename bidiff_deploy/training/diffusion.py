"""Training of a noise predictor: L1 or L2 on the noise, one timestep a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.packed import write_packed
from ..checkpoint.record import from_latent
from .data import CONDITION, Pair
from .distill import DistillationLoss, load_teacher
from .draws import Draws
from .losses import noise_error
from .networks import make_module
from .recipe import Recipe, Step
from .validate import restored
from .weights import latent_weights, load_initial, load_published, published_state

__all__ = ["DiffusionTask"]


class NoiseLoss(nn.Module):
    """``losses.noise_error`` of the tensors of ``DiffusionTask.prepare``."""

    def __init__(self, network: nn.Module, kind: str = "l1") -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor, group: Tensor,
                target: Tensor) -> dict[str, Tensor]:
        prediction = self.network.predict(noisy, condition, timestep, group)
        return {"loss": noise_error(prediction, target, self.kind)}


class DiffusionTask:
    """A noise predictor under training; see ``task.Task``."""

    given = CONDITION

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.network = make_module(recipe.network)
        if recipe.initial:
            load_initial(self.network, folder / recipe.initial, recipe.initial)

    def objective(self, network: nn.Module) -> nn.Module:
        recipe, distill = self.recipe, self.recipe.distill
        if not distill.teacher:
            return NoiseLoss(network, recipe.loss)
        teacher = load_teacher(self.folder / distill.teacher, recipe.network, recipe.schedule,
                               distill)
        return DistillationLoss(network, teacher.to(memory_format=torch.channels_last), distill,
                                recipe.loss)

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """x_t, the condition, the timestep (1,), its group (1,), and the noise in x_t."""
        step = self.drawn_step(draws)
        noisy, target = self.noised(network, step, high, given, draws.noise(high))
        device = high.device
        return (noisy.contiguous(memory_format=torch.channels_last),
                given.contiguous(memory_format=torch.channels_last),
                torch.tensor([float(step.timestep)], device=device),
                torch.tensor([self.recipe.network.group(step.timestep)], device=device), target)

    def drawn_step(self, draws: Draws) -> Step:
        """The iteration's timestep: of the recipe's, by their shares, or of all, uniformly."""
        random, recipe = draws.shared(), self.recipe
        if random.random() < recipe.uniform:
            return Step(int(random.integers(recipe.network.total_step)))
        shares = np.array([step.share for step in recipe.steps])
        return recipe.steps[int(random.choice(len(shares), p=shares / shares.sum()))]

    def noised(self, network: nn.Module, step: Step, photo: Tensor, condition: Tensor,
               noise: Tensor) -> tuple[Tensor, Tensor]:
        """x_t of a step, and the noise that leads from ``photo`` to it: the network's target.

        From origin ``photo`` that noise is the drawn one, N(0, 1). From the other origins it is the
        drawn noise plus what the origin differs from the photo by, in units of sqrt(1 - alpha).
        """
        alpha = self.recipe.schedule.alphas_cumprod[step.timestep]
        if step.origin == "photo":
            return add_noise(photo, noise, alpha), noise
        if step.origin == "condition":
            noisy = add_noise(condition, noise, alpha)
        else:
            noisy = self.sampled(network, self.recipe.steps.index(step), condition, noise)
        return noisy, (noisy - float(alpha)**0.5 * photo) / (1 - float(alpha))**0.5

    @torch.no_grad()
    def sampled(self, network: nn.Module, index: int, condition: Tensor, noise: Tensor) -> Tensor:
        """x_t of the recipe's step ``index`` as the sampler reaches it with ``network``."""
        steps, table = self.recipe.steps[:index + 1], self.recipe.schedule.alphas_cumprod
        start = self.recipe.start
        latent = noise if start is None else add_noise(condition, noise, table[start])
        for now, following in zip(steps, steps[1:]):
            prediction = network(latent.contiguous(memory_format=torch.channels_last), condition,
                                 now.timestep)
            latent = ddim_update(latent, prediction, table[now.timestep],
                                 table[following.timestep])
        return latent

    def restored(self, network: nn.Module, pair: Pair) -> np.ndarray:
        return restored(network, pair, self.recipe)

    def published(self, network: nn.Module) -> dict[str, Tensor]:
        return published_state(network, self.recipe.network)

    def load_published(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        load_published(network, state, self.recipe.network)

    def pack(self, published: dict[str, Tensor], run: Path, output: Path,
             overwrite: bool = False) -> None:
        """With the scale, schedule and timesteps that were trained."""
        recipe = self.recipe
        latent = latent_weights(published, recipe.network, str(run))
        sampling: dict[str, Any] = {"timesteps": list(recipe.timesteps)}
        if recipe.start is not None:
            sampling["start"] = recipe.start
        write_packed(output, from_latent(
            latent, recipe.network, name=run.name, origin=str(run), scale=recipe.scale,
            schedule=recipe.schedule.to_dict(), sampling=sampling), overwrite=overwrite)


def add_noise(image: Tensor, noise: Tensor, alpha: np.float32) -> Tensor:
    """``sampler.add_noise`` in torch, bit for bit on a CPU."""
    return float(np.sqrt(alpha)) * image + float(np.sqrt(np.float32(1) - alpha)) * noise


def ddim_update(latent: Tensor, prediction: Tensor, alpha_t: np.float32,
                alpha_prev: np.float32) -> Tensor:
    """``sampler.ddim_update`` in torch, with its default clip; bit for bit on a CPU."""
    now, following = (tuple(float(np.sqrt(part)) for part in (alpha, np.float32(1) - alpha))
                      for alpha in (alpha_t, alpha_prev))
    image = ((latent - now[1] * prediction) / now[0]).clamp(-1, 1)
    return following[0] * image + following[1] * prediction
