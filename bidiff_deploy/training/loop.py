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
from .data import Crops, load_pairs
from .network import BiDiffSR
from .recipe import Recipe, Step
from .state import from_published_state, published_state, write_atomically
from .validate import add_noise, alphas_cumprod, sample_from_condition, validate

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
LOG_COLUMNS = ("iteration", "minutes", "loss", "learning_rate", "psnr_y", "gain_over_bicubic")


class Trainer:
    """One run of a recipe; ``folder`` is what relative photo paths are relative to."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        run, optimizer = recipe.run, recipe.optimizer
        if run.threads:
            torch.set_num_threads(run.threads)
        torch.manual_seed(run.seed)
        self.generator = torch.Generator().manual_seed(run.seed)
        data = recipe.data
        self.crops = Crops(load_pairs(data.train, folder, recipe.scale, data.crop), data,
                           recipe.scale)
        self.held_out = load_pairs(data.validate, folder, recipe.scale)
        schedule = recipe.schedule
        self.table = alphas_cumprod(recipe.network.total_step, schedule.beta_start,
                                    schedule.beta_end)
        self.timesteps = [step.timestep for step in recipe.steps]
        self.network = BiDiffSR(recipe.network).to(memory_format=torch.channels_last)
        self.average = BiDiffSR(recipe.network).to(memory_format=torch.channels_last)
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=optimizer.learning_rate,
                                          betas=optimizer.betas, foreach=True)
        self.iteration = 0
        self.seconds = 0.0

    def predict(self, noisy: Tensor, condition: Tensor, timestep: int) -> Tensor:
        """The network in its present mode."""
        return self.network.predict(noisy, condition, torch.tensor([float(timestep)]),
                             torch.tensor([self.recipe.network.group(timestep)]))

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1; the learning rate follows it."""
        run = self.recipe.run
        share = self.iteration / run.iterations
        return min(1.0, max(share, self.seconds / 60 / run.minutes if run.minutes else 0.0))

    def learning_rate(self) -> float:
        optimizer = self.recipe.optimizer
        warm = min(1.0, (self.iteration + 1) / (optimizer.warmup + 1))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return optimizer.learning_rate * warm * (
            optimizer.final_share + (1 - optimizer.final_share) * cosine)

    def noised(self, step: Step, photo: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x_t of a step and the noise that leads from ``photo`` to it, the network's target.

        From origin ``photo`` that noise is the drawn N(0, 1). From the other origins it also holds
        the difference of the origin to the photo: what is left when the photo is subtracted.
        """
        noise = torch.randn(photo.shape, generator=self.generator)
        alpha = float(self.table[step.timestep])
        if step.origin == "photo":
            return add_noise(photo, noise, alpha), noise
        if step.origin == "condition":
            noisy = add_noise(condition, noise, alpha)
        else:
            with torch.no_grad():
                noisy = sample_from_condition(self.predict, condition, noise, self.timesteps,
                                              self.table, self.recipe.steps.index(step))
        return noisy, (noisy - alpha**0.5 * photo) / (1 - alpha) ** 0.5

    def train_once(self) -> float:
        """One iteration; returns its loss."""
        recipe = self.recipe
        shares = torch.tensor([step.share for step in recipe.steps])
        step = recipe.steps[int(torch.multinomial(shares, 1, generator=self.generator))]
        photo, condition = self.crops.draw(recipe.run.batch, self.generator)
        condition = condition.contiguous(memory_format=torch.channels_last)
        noisy, noise = self.noised(step, photo, condition)
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = (self.predict(noisy, condition, step.timestep) - noise).abs().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(),
                                              recipe.optimizer.clip_norm)
        if not torch.isfinite(norm):
            raise UsageError(f"training diverged at iteration {self.iteration}: lower "
                             "optimizer.learning_rate or optimizer.clip_norm")
        self.optimizer.step()
        self.iteration += 1
        decay = min(recipe.optimizer.ema, self.iteration / (self.iteration + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()),
                             1 - decay)
        return loss.item()

    def validate(self) -> tuple[float, float]:
        """Mean PSNR-Y of the averaged weights on the held-out photos, and its gain over bicubic."""
        scores = validate(self.average, self.held_out, self.timesteps, self.table,
                          self.recipe.scale, self.recipe.network.size_multiple)
        ours = sum(score for _, score in scores) / len(scores)
        return ours, ours - sum(bicubic for bicubic, _ in scores) / len(scores)

    def state(self) -> dict[str, Any]:
        config = self.recipe.network
        return {
            "params": published_state(dict(self.network.named_parameters()), config),
            "params_ema": published_state(dict(self.average.named_parameters()), config),
            "recipe": self.recipe.to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "iteration": self.iteration,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        config = self.recipe.network
        self.network.load_state_dict(from_published_state(state["params"], config))
        self.average.load_state_dict(from_published_state(state["params_ema"], config))
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]


def train(recipe: Recipe, folder: Path, out: Path, resume: bool = False,
          report: Callable[[str], None] | None = None) -> Path:
    """Run a recipe into the folder ``out``; returns its checkpoint's path.

    ``out`` gets ``checkpoint.pt`` and ``log.csv``. SIGTERM and SIGINT end the run after the
    iteration in progress, with a checkpoint that ``resume`` continues exactly. Raises OutputError
    if ``out`` already holds a run (or, on resume, none), CheckpointError if that run is of another
    recipe, UsageError for photos that can not be used.
    """
    say = report or (lambda line: print(line, file=sys.stderr, flush=True))
    checkpoint = out / CHECKPOINT
    if resume and not checkpoint.exists():
        raise OutputError(f"{checkpoint}: no run to resume; start one without --resume")
    if not resume and checkpoint.exists():
        raise OutputError(f"{checkpoint}: exists; continue it with --resume or name another folder")
    trainer = Trainer(recipe, folder)
    if resume:
        trainer.load_state(read_checkpoint(checkpoint, recipe))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: can not be written ({error.strerror})") from None
    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda got, _: stopped.append(got))
                for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _loop(trainer, out, stopped, say)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    write_atomically(checkpoint, trainer.state())
    say(f"{checkpoint}: iteration {trainer.iteration}"
        + (", stopped; continue with --resume" if stopped else ""))
    return checkpoint


def _loop(trainer: Trainer, out: Path, stopped: list[int], say: Callable[[str], None]) -> None:
    run = trainer.recipe.run
    began, saved, losses = time.monotonic() - trainer.seconds, time.monotonic(), []
    reported = trainer.seconds, trainer.iteration
    while trainer.progress < 1 and not stopped:
        losses.append(trainer.train_once())
        trainer.seconds = time.monotonic() - began
        done = trainer.progress >= 1
        if trainer.iteration % run.report_every == 0 or done:
            rate = (trainer.iteration - reported[1]) / max(trainer.seconds - reported[0], 1e-9)
            left = trainer.seconds * (1 / trainer.progress - 1)
            reported = trainer.seconds, trainer.iteration
            say(f"iteration {trainer.iteration}  loss {sum(losses) / len(losses):.4f}  "
                f"{rate:.2f} it/s  {left / 60:.0f} min left")
        if trainer.iteration % run.validate_every == 0 or done:
            scores = trainer.validate() if trainer.held_out else (math.nan, math.nan)
            say(f"iteration {trainer.iteration}  PSNR-Y {scores[0]:.2f} dB, "
                f"{scores[1]:+.2f} dB over bicubic")
            _log(out / LOG, trainer, sum(losses) / len(losses), scores)
            losses.clear()
        if run.checkpoint_minutes and time.monotonic() - saved >= 60 * run.checkpoint_minutes:
            write_atomically(out / CHECKPOINT, trainer.state())
            saved = time.monotonic()


def _log(path: Path, trainer: Trainer, loss: float, scores: tuple[float, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(LOG_COLUMNS)
        writer.writerow([trainer.iteration, f"{trainer.seconds / 60:.2f}", f"{loss:.5f}",
                         f"{trainer.learning_rate():.3e}", f"{scores[0]:.3f}", f"{scores[1]:.3f}"])


def read_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any]:
    """A run's own checkpoint. Raises CheckpointError if it is none, or of another recipe."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damaged bytes happen to provoke
        raise CheckpointError(f"{path}: can not be read as a training checkpoint "
                              f"({type(error).__name__}); start the run anew") from None
    if not isinstance(state, dict) or "optimizer" not in state:
        raise CheckpointError(f"{path}: holds no training state; name the folder of a run")
    stored, given = state["recipe"], recipe.to_dict()
    changed = [key for key in given if key != "run" and stored.get(key) != given[key]]
    if changed:
        raise CheckpointError(f"{path}: was made by another recipe ({', '.join(changed)} differ); "
                              "resume with the recipe and settings it was started with")
    return state
