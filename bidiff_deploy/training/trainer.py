"""The state of a run: weights, their average, the optimizer, and one iteration of it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .allocator import keep_freed_memory
from .batches import batches
from .data import load_pairs, open_crops
from .distributed import Processes, pick_device
from .draws import Draws
from .optimizer import learning_rate, make_optimizer
from .precision import Precision
from .recipe import Recipe
from .task import make_task

__all__ = ["Trainer", "ValidationOutOfMemory"]


class ValidationOutOfMemory(UsageError):
    """A validation photo does not fit into memory; the last iteration is whole."""


class Trainer:
    """One run of a recipe in one process, of ``processes`` all told.

    Relative paths in the recipe are relative to ``folder``. Photos are opened at the first
    iteration or validation. Raises UsageError for a device or precision that is not to be had,
    CheckpointError for ``initial`` weights of another network.
    """

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes | None = None,
                 say: Callable[[str], object] | None = None) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        run = recipe.run
        self.processes = processes or Processes(pick_device(run.device))
        self.device = self.processes.device
        if run.batch % (self.processes.ranks * run.accumulate):
            raise UsageError(f"run.batch={run.batch} can not be shared out among "
                             f"{self.processes.ranks} processes in {run.accumulate} parts each; "
                             "make it a multiple")
        if run.threads:
            torch.set_num_threads(run.threads)
        keep_freed_memory()
        self.precision = Precision(run.precision, self.device)
        torch.manual_seed(run.seed)
        self.task = make_task(recipe, folder)
        # Faster convolutions on a CPU and on tensor cores.
        self.network = self.task.network.to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.objective = self.task.objective(self.network).to(self.device)
        self.optimizer = make_optimizer(recipe.optimizer, self.objective.parameters())
        self.model = self.processes.distribute(self.objective)
        if run.compile:
            self.model.compile()
        self.iteration = 0
        self.seconds = 0.0
        self.best = float("-inf")
        self._crops = self._batches = self._pairs = None

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1; the learning rate follows it."""
        run = self.recipe.run
        timed = self.seconds / 60 / run.minutes if run.minutes else 0.0
        return min(1.0, max(self.iteration / run.iterations, timed))

    @property
    def crops(self):
        """The crops of the training photos, as ``data.Crops`` cuts them."""
        if self._crops is None:
            self._crops = open_crops(self.recipe, self.folder, self.processes.rank,
                                     self.processes.ranks, self.say, self.task.given)
        return self._crops

    @property
    def pairs(self):
        """This process's share of the validation photos."""
        if self._pairs is None:
            self._pairs = self.processes.share(
                load_pairs(self.recipe.data.validate, self.folder, self.recipe.scale))
        return self._pairs

    def open_photos(self) -> None:
        """Find, check and decode them now. Raises as ``data.open_crops`` does."""
        _ = self.crops, self.pairs

    def learning_rate(self) -> float:
        return learning_rate(self.recipe.optimizer, self.iteration, self.progress)

    def train_once(self) -> dict[str, float]:
        """One iteration; returns the loss, and its parts, of this process's images.

        Raises UsageError if training diverged, does not fit into memory, or lost a process.
        """
        if self._batches is None:
            self._batches = batches(
                self.crops, self.recipe.run.batch, start=self.iteration,
                rank=self.processes.rank, ranks=self.processes.ranks,
                workers=self.recipe.loading.workers, pin=self.device.type == "cuda")
        return self.train_on(*next(self._batches))

    def train_on(self, high: Tensor, given: Tensor) -> dict[str, float]:
        """``train_once`` on this batch: photos, and what comes with them."""
        try:
            with self.processes.told():
                losses = self._backward(high, given)
            self._update()
        except torch.OutOfMemoryError:
            raise UsageError(f"an iteration does not fit into the memory of {self.device}; raise "
                             "run.accumulate, or lower run.batch or data.crop") from None
        self.iteration += 1
        # Early on the average must not remember the initial weights.
        decay = min(self.recipe.optimizer.ema, self.iteration / (self.iteration + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()),
                             1 - decay)
        return losses

    def validate(self) -> list[dict[str, Any]]:
        """What ``validate.measured`` says of every validation photo under the averaged weights,
        with the pictures of as many as ``run.pictures``. Raises ValidationOutOfMemory."""
        from .validate import measured

        shown = self.recipe.run.pictures
        found = []
        for index, pair in enumerate(self.pairs):
            first = index * self.processes.ranks + self.processes.rank < shown
            try:
                picture = self.task.restored(self.average, pair)
            except (torch.OutOfMemoryError, MemoryError):
                height, width = pair.high.shape[:2]
                raise ValidationOutOfMemory(
                    f"validating {pair.name}, {height}x{width} pixels, does not fit into the "
                    f"memory of {self.device}; give it a box in data.validate, or name a smaller "
                    "photo") from None
            found.append(measured(pair, picture, pictures=first))
        return self.processes.gather(found)

    def state(self) -> dict[str, Any]:
        """Everything a resume needs, in types that torch loads with ``weights_only=True``."""
        return {
            "params": self.task.published(self.network),
            "params_ema": self.task.published(self.average),
            "recipe": self.recipe.to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self._beside_the_network(),
            "scaler": self.precision.scaler.state_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "best": self.best,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self.task.load_published(self.network, state["params"])
        self.task.load_published(self.average, state["params_ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, value in self._beside_the_network().items():
                value.copy_(state["objective"][name])
        if state["scaler"]:
            self.precision.scaler.load_state_dict(state["scaler"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.best = state["best"]
        self.close()

    def close(self) -> None:
        """End the processes that cut crops."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def _backward(self, high: Tensor, given: Tensor) -> dict[str, float]:
        """Gradients of this process's images, in as many parts as the recipe says."""
        run, parts = self.recipe.run, self.recipe.run.accumulate
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        first = self.iteration * run.batch + self.processes.rank * len(high)
        totals: dict[str, Tensor] = {}
        for part, (photo, condition) in enumerate(zip(high.chunk(parts), given.chunk(parts))):
            draws = Draws(run.seed, self.iteration, first + part * len(photo), self.device)
            draws.seed_dropout()
            photo, condition = (image.to(self.device, non_blocking=True)
                                for image in (photo, condition))
            with torch.no_grad():
                inputs = self.task.prepare(self.network, photo, condition, draws)
            waits = part + 1 < parts and isinstance(
                self.model, nn.parallel.DistributedDataParallel)
            with self.model.no_sync() if waits else contextlib.nullcontext():
                with self.precision.autocast():
                    losses = self.model(*inputs)
                self.precision.scaler.scale(losses["loss"] / parts).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / parts
        return {name: value.item() for name, value in totals.items()}

    def _update(self) -> None:
        scaler, clip = self.precision.scaler, self.recipe.optimizer.clip_norm
        scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), clip or float("inf"))
        left_out = scaler.is_enabled() and not self.precision.diverged  # and the scale lowered
        if not left_out and not torch.isfinite(norm):
            raise UsageError(f"training diverged at iteration {self.iteration}; lower "
                             "optimizer.learning_rate or optimizer.clip_norm")
        scaler.step(self.optimizer)
        scaler.update()

    def _beside_the_network(self) -> dict[str, Tensor]:
        """What the objective trains in addition to the network."""
        return {name: parameter.detach() for name, parameter in self.objective.named_parameters()
                if parameter.requires_grad and not name.startswith("network.")}
