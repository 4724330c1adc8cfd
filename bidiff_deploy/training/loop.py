"""The training loop: L1 on the noise, one timestep a batch, EMA, checkpoints, exact resume."""

from __future__ import annotations

import csv
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor

from ..errors import CheckpointError, OutputError, UsageError
from ..files import make_directory
from ..progress import duration
from ..sampler import add_noise, ddim_update
from .allocator import keep_freed_memory
from .data import load_pairs, open_crops
from .network import BiDiffSR
from .recipe import Recipe, Step
from .state import load_network, load_published, published_state, read_run, write_run
from .validate import as_predict, validate

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
LOG_COLUMNS = ("iteration", "minutes", "loss", "learning_rate", "psnr_y", "gain_over_bicubic")
Report = Callable[[str], None]


class Trainer:
    """The state of one run of a recipe; relative paths in it are relative to ``folder``."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        run, data, optimizer = recipe.run, recipe.data, recipe.optimizer
        if run.threads:
            torch.set_num_threads(run.threads)
        keep_freed_memory()
        torch.manual_seed(run.seed)
        self.generator = torch.Generator().manual_seed(run.seed)
        self.crops = open_crops(recipe, folder)
        self.held_out = load_pairs(data.validate, folder, recipe.scale)
        self.network = BiDiffSR(recipe.network)
        if recipe.initial:
            found = load_network(folder / recipe.initial)
            if found.config != recipe.network:
                raise CheckpointError(f"{recipe.initial}: has other network options than the "
                                      "recipe; make them equal")
            self.network.load_state_dict(found.state_dict())
        self.network.to(memory_format=torch.channels_last)  # faster convolutions on a CPU
        self.average = BiDiffSR(recipe.network).to(memory_format=torch.channels_last)
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=optimizer.learning_rate,
                                          betas=optimizer.betas, fused=True)
        self.iteration = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1; the learning rate follows it."""
        run = self.recipe.run
        timed = self.seconds / 60 / run.minutes if run.minutes else 0.0
        return min(1.0, max(self.iteration / run.iterations, timed))

    def learning_rate(self) -> float:
        optimizer = self.recipe.optimizer
        warm = min(1.0, (self.iteration + 1) / (optimizer.warmup + 1))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return optimizer.learning_rate * warm * (
            optimizer.final_share + (1 - optimizer.final_share) * cosine)

    def noised(self, step: Step, photo: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x_t of a step, and the noise that leads from ``photo`` to it: the network's target.

        From origin ``photo`` that noise is the drawn N(0, 1). From the other origins it is the
        drawn noise plus what the origin differs from the photo by, in units of sqrt(1 - alpha).
        """
        noise = torch.randn(photo.shape, generator=self.generator)
        table = self.recipe.schedule.alphas_cumprod
        if step.origin == "photo":
            return self._add_noise(photo, noise, table[step.timestep]), noise
        if step.origin == "condition":
            noisy = self._add_noise(condition, noise, table[step.timestep])
        else:
            noisy = self._sampled(self.recipe.steps.index(step), condition, noise)
        alpha = float(table[step.timestep])
        return noisy, (noisy - alpha**0.5 * photo) / (1 - alpha) ** 0.5

    def train_once(self) -> float:
        """One iteration; returns its loss. Raises UsageError if training diverged."""
        recipe = self.recipe
        step = self._drawn_step()
        photo, condition = self.crops.batch(self.iteration * recipe.run.batch, recipe.run.batch)
        noisy, noise = self.noised(step, photo, condition)
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        prediction = self.network(noisy.contiguous(memory_format=torch.channels_last),
                                  condition, step.timestep)
        loss = (prediction - noise).abs().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(),
                                              recipe.optimizer.clip_norm)
        if not torch.isfinite(norm):
            raise UsageError(f"training diverged at iteration {self.iteration}; lower "
                             "optimizer.learning_rate or optimizer.clip_norm")
        self.optimizer.step()
        self.iteration += 1
        # Early on the average must not remember the initial weights.
        decay = min(recipe.optimizer.ema, self.iteration / (self.iteration + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()),
                             1 - decay)
        return loss.item()

    def validate(self) -> tuple[float, float]:
        """Mean PSNR-Y of the averaged weights on the held-out photos, and its gain over bicubic;
        NaN without such photos."""
        scores = validate(self.average, self.held_out, self.recipe)
        if not scores:
            return math.nan, math.nan
        bicubic, ours = (sum(column) / len(scores) for column in zip(*scores))
        return ours, ours - bicubic

    def state(self) -> dict[str, Any]:
        """Everything a resume needs, in types that torch loads with ``weights_only=True``."""
        config = self.recipe.network
        return {
            "params": published_state(self.network, config),
            "params_ema": published_state(self.average, config),
            "recipe": self.recipe.to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),  # dropout draws from it
            "iteration": self.iteration,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        load_published(self.network, state["params"], self.recipe.network)
        load_published(self.average, state["params_ema"], self.recipe.network)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]

    def _drawn_step(self) -> Step:
        def uniform() -> float:
            return float(torch.rand((), generator=self.generator))

        steps = self.recipe.steps
        if self.recipe.uniform and uniform() < self.recipe.uniform:
            return Step(int(uniform() * self.recipe.network.total_step))
        shares = torch.tensor([step.share for step in steps])
        return steps[int(torch.multinomial(shares, 1, generator=self.generator))]

    def _add_noise(self, image: Tensor, noise: Tensor, alpha: float) -> Tensor:
        return torch.from_numpy(add_noise(image.numpy(), noise.numpy(), alpha))

    def _sampled(self, index: int, condition: Tensor, noise: Tensor) -> Tensor:
        """x_t of step ``index`` as the sampler reaches it with the present weights."""
        steps, table = self.recipe.steps[:index + 1], self.recipe.schedule.alphas_cumprod
        x = noise if self.recipe.start is None else self._add_noise(
            condition, noise, table[self.recipe.start])
        predict = as_predict(self.network)
        latent, given = x.numpy(), condition.numpy()
        for now, following in zip(steps, steps[1:]):
            latent = ddim_update(latent, predict(latent, given, now.timestep),
                                 table[now.timestep], table[following.timestep])
        return torch.from_numpy(latent)


def train(recipe: Recipe, folder: Path, out: Path, resume: bool = False,
          report: Report | None = None) -> Path:
    """Run a recipe into the folder ``out``; returns its checkpoint's path.

    ``folder``: what relative paths in the recipe are relative to. ``out`` gets ``checkpoint.pt``
    and ``log.csv``. SIGTERM and SIGINT end the run after the iteration in progress, with a
    checkpoint that ``resume`` continues exactly. ``report`` gets lines of progress (default:
    stderr). Raises OutputError if ``out`` already holds a run (or, on resume, none),
    CheckpointError if that run is of another recipe, UsageError for photos that can not be used.
    """
    say = report or (lambda line: print(line, file=sys.stderr, flush=True))
    checkpoint = out / CHECKPOINT
    if resume and not checkpoint.exists():
        raise OutputError(f"{checkpoint}: no run to resume; start one without --resume")
    if not resume and checkpoint.exists():
        raise OutputError(f"{checkpoint}: exists; continue it with --resume or name another folder")
    trainer = Trainer(recipe, folder)
    if resume:
        trainer.load_state(read_run(checkpoint, recipe))
    make_directory(out)
    if not resume:
        (out / LOG).unlink(missing_ok=True)  # of a run that ended before its first checkpoint
    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda got, _: stopped.append(got))
                for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _loop(trainer, out, stopped, say)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    write_run(checkpoint, trainer.state())
    say(f"{checkpoint}: iteration {trainer.iteration}"
        + (", stopped; continue with --resume" if stopped else ""))
    return checkpoint


def _loop(trainer: Trainer, out: Path, stopped: list[int], say: Report) -> None:
    run = trainer.recipe.run
    began, saved = time.monotonic() - trainer.seconds, time.monotonic()
    losses: list[float] = []  # since the last validation
    reported = trainer.seconds, trainer.iteration
    while trainer.progress < 1 and not stopped:
        losses.append(trainer.train_once())
        trainer.seconds = time.monotonic() - began
        done = trainer.progress >= 1
        if trainer.iteration % run.report_every == 0 or done:
            rate = (trainer.iteration - reported[1]) / max(trainer.seconds - reported[0], 1e-9)
            left = trainer.seconds * (1 / trainer.progress - 1)
            reported = trainer.seconds, trainer.iteration
            recent = losses[-run.report_every:]
            say(f"iteration {trainer.iteration}  loss {sum(recent) / len(recent):.4f}  "
                f"{rate:.2f} it/s  about {duration(left)} left")
        if trainer.iteration % run.validate_every == 0 or done:
            scores = trainer.validate()
            say(f"iteration {trainer.iteration}  PSNR-Y {scores[0]:.2f} dB, "
                f"{scores[1]:+.2f} dB over bicubic")
            _log(out / LOG, trainer, sum(losses) / len(losses), scores)
            losses.clear()
        if run.checkpoint_minutes and time.monotonic() - saved >= 60 * run.checkpoint_minutes:
            write_run(out / CHECKPOINT, trainer.state())
            saved = time.monotonic()


def _log(path: Path, trainer: Trainer, loss: float, scores: tuple[float, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(LOG_COLUMNS)
        writer.writerow([trainer.iteration, f"{trainer.seconds / 60:.2f}", f"{loss:.5f}",
                         f"{trainer.learning_rate():.3e}", f"{scores[0]:.3f}", f"{scores[1]:.3f}"])
