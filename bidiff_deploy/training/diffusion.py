"""Training of a noise predictor: one timestep for each batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..checkpoint.packed import write_packed
from ..checkpoint.record import from_latent
from ..images.resample import pad_reflect
from ..sampling.noise import first_noise
from ..sampling.sampler import Predict, sample
from .crops import CONDITION
from .draws import Draws
from .losses import DistillationLoss, NoiseLoss, load_teacher
from .networks import channels_last, make_module
from .networks.bi_diffsr import BiDiffSR
from .recipe import Recipe, Step
from .validate import Pair
from .weights import latent_weights, load_initial, load_published, published_state

__all__ = ["DiffusionTask", "add_noise", "as_predict", "ddim_update"]

_FINE = 1 << 30
Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class DiffusionTask:
    """A noise predictor under training; see ``task.Task``."""

    given = CONDITION

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.network = cast(BiDiffSR, make_module(recipe.network))
        if recipe.initial:
            load_initial(self.network, folder / recipe.initial, recipe.initial,
                         recipe.scale)

    def objective(self) -> nn.Module:
        """The loss of the recipe, with its teacher if it names one."""
        recipe, distill = self.recipe, self.recipe.distill
        if not distill.teacher:
            return NoiseLoss(self.network, recipe.loss)
        teacher = load_teacher(self.folder / distill.teacher, recipe.network, recipe.schedule,
                               distill, recipe.scale)
        return DistillationLoss(self.network, channels_last(teacher), distill, recipe.loss)

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """x_t, the condition, the timestep (1,), its group (1,), and the noise in x_t. With
        ``per_image``: timesteps (N,)."""
        if self.recipe.per_image:
            return self._each(high, given, draws)
        step = self.drawn_step(draws)
        noisy, target = self.noised(network, step, high, given, draws.noise(high))
        device = high.device
        return (noisy.contiguous(memory_format=torch.channels_last),
                given.contiguous(memory_format=torch.channels_last),
                torch.tensor([float(step.timestep)], device=device),
                torch.tensor([self.recipe.network.group(step.timestep)], device=device), target)

    def _each(self, high: Tensor, given: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        total, power = self.recipe.network.total_step, self.recipe.timestep_power
        timesteps = draws.integers(len(high), 0, total) if power == 1 else [
            int(total * (drawn / _FINE) ** power) for drawn in draws.integers(len(high), 0, _FINE)]
        alphas = torch.from_numpy(self.recipe.schedule.alphas_cumprod[timesteps]).to(high.device)
        alphas, noise = alphas.view(-1, 1, 1, 1), draws.noise(high)
        noisy = alphas.sqrt() * high + (1 - alphas).sqrt() * noise
        return (noisy.contiguous(memory_format=torch.channels_last),
                given.contiguous(memory_format=torch.channels_last),
                torch.tensor(timesteps, dtype=torch.float32, device=high.device),
                torch.zeros(1, dtype=torch.int64, device=high.device), noise)

    def drawn_step(self, draws: Draws) -> Step:
        """The iteration's timestep: one of the recipe's, by share, or any one, uniformly."""
        random, recipe = draws.shared(), self.recipe
        if random.random() < recipe.uniform:
            return Step(int(random.integers(recipe.network.total_step)))
        shares = np.array([step.share for step in recipe.steps])
        return recipe.steps[int(random.choice(len(shares), p=shares / shares.sum()))]

    def noised(self, network: nn.Module, step: Step, photo: Tensor, condition: Tensor,
               noise: Tensor) -> tuple[Tensor, Tensor]:
        """x_t of a step and the network's target, the noise that leads from ``photo`` to it.

        For origin ``photo`` this is the drawn noise, N(0, 1). For the other origins it is the drawn
        noise plus the difference of origin and photo in units of sqrt(1 - alpha).
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
        """x_t of the recipe's step number ``index``, as sampled with ``network``."""
        steps, table = self.recipe.steps[:index + 1], self.recipe.schedule.alphas_cumprod
        start = self.recipe.start
        latent = noise if start is None else add_noise(condition, noise, table[start])
        for now, following in zip(steps, steps[1:]):
            prediction = network(latent.contiguous(memory_format=torch.channels_last), condition,
                                 now.timestep)
            latent = ddim_update(latent, prediction, table[now.timestep],
                                 table[following.timestep])
        return latent

    def restored(self, network: nn.Module, pair: Pair) -> Image:
        """Sampled at the recipe's timesteps with the noise of seed 0."""
        recipe = self.recipe
        condition, (height, width) = pad_reflect(pair.condition[None],
                                                 recipe.network.size_multiple)
        image = sample(as_predict(network), condition, recipe.timesteps, recipe.schedule,
                       first_noise(condition.shape, 0, self.noiseless), start=recipe.start)
        rounded: Image = np.rint(image[0, :, :height, :width] * 255).astype(np.uint8)
        return np.moveaxis(rounded, 0, 2)

    @property
    def noiseless(self) -> bool:
        """Whether sampling starts without noise."""
        return False

    @property
    def sampling(self) -> dict[str, Any]:
        """What a packed checkpoint advises: the recipe's timesteps, and where sampling starts."""
        found: dict[str, Any] = {"timesteps": list(self.recipe.timesteps)}
        return found if self.recipe.start is None else {**found, "start": self.recipe.start}

    def published(self, network: nn.Module) -> dict[str, Tensor]:
        return published_state(network, self.recipe.network)

    def load_published(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        load_published(network, state, self.recipe.network)

    def pack(self, published: dict[str, Tensor], run: Path, output: Path,
             overwrite: bool = False) -> None:
        """Includes the scale, schedule and timesteps of the recipe."""
        recipe = self.recipe
        latent = latent_weights(published, recipe.network, str(run))
        write_packed(output, from_latent(
            latent, recipe.network, name=run.name, origin=str(run),
            scale=None if recipe.network.scales else recipe.scale,
            schedule=recipe.schedule.to_dict(), sampling=self.sampling), overwrite=overwrite)


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


def as_predict(network: torch.nn.Module) -> Predict:
    """The network as the sampler calls it, with float32 arrays (N, 3, H, W) and a timestep, without
    gradients, on the device of its parameters."""
    @torch.no_grad()
    def predict(noisy: Floats, condition: Floats, timestep: int) -> Floats:
        device = next(network.parameters()).device
        inputs = [torch.from_numpy(np.ascontiguousarray(array)).to(device)
                  for array in (noisy, condition)]
        prediction: Floats = network(*inputs, timestep).float().cpu().numpy()
        return prediction
    return predict
