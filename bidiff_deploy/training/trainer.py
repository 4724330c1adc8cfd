"""The state of a run: weights, their average, the optimizer, and one iteration of it."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import platform
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .batches import batches
from .crops import Crops, open_crops
from .distributed import Processes, pick_device
from .draws import Draws, drawn_scale
from .networks import channels_last
from .networks.bi_diffsr import set_scale
from .networks.plain_layers import set_progress
from .optimizer import Precision, learning_rate, make_optimizer
from .recipe import Recipe
from .task import make_task
from .validate import Pair, load_pairs, measured

__all__ = ["Trainer", "ValidationOutOfMemory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_MAX_MMAP_THRESHOLD = 32 << 20  # glibc refuses more


class ValidationOutOfMemory(UsageError):
    """A validation photo does not fit into memory; the last iteration is complete."""


class Trainer:
    """One process of a run: its state, iterations and validations.

    Paths in the recipe are relative to ``folder``; ``processes`` are those of the run (default:
    this one alone); ``fresh``: see ``task.make_task``. Photos are opened at the first iteration or
    validation. Raises UsageError for a device or precision that is not available, CheckpointError
    for ``initial`` weights of another network and for a teacher that does not fit.
    """

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes | None = None,
                 say: Callable[[str], object] | None = None, fresh: bool = False) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        run = recipe.run
        self.processes = processes or Processes(pick_device(run.device))
        self.device = self.processes.device
        if run.batch % (self.processes.ranks * run.accumulate):
            raise UsageError(f"run.batch={run.batch} cannot be divided among "
                             f"{self.processes.ranks} processes in {run.accumulate} parts each; "
                             "make it a multiple")
        if run.threads:
            torch.set_num_threads(run.threads)
        _keep_freed_memory()
        self.precision = Precision(run.precision, self.device)
        if say is not None and self.precision.name != run.precision:
            say(f"this CPU has no instructions for {run.precision}; training in "
                f"{self.precision.name}")
        torch.manual_seed(run.seed)
        self.task = make_task(recipe, folder, fresh)
        self.network = channels_last(self.task.network.to(self.device))
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.objective = self.task.objective().to(self.device)
        self.optimizer = make_optimizer(recipe.optimizer, self.objective)
        self.model = self.processes.distribute(self.objective)
        if run.compile:
            self.model.compile()
        self.iteration = 0
        self.seconds = 0.0
        self.best = float("-inf")
        self._crops: Crops | None = None
        self._batches: Generator[tuple[Tensor, Tensor], None, None] | None = None
        self._pairs: list[Pair] | None = None

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1; the learning rate depends on it."""
        run = self.recipe.run
        timed = self.seconds / 60 / run.minutes if run.minutes else 0.0
        return min(1.0, max(self.iteration / run.iterations, timed))

    @property
    def crops(self) -> Crops:
        """The crops of the training photos."""
        if self._crops is None:
            self._crops = open_crops(self.recipe, self.folder, self.processes.rank,
                                     self.processes.ranks, self.say, self.task.given)
        return self._crops

    @property
    def pairs(self) -> list[Pair]:
        """This process's share of the validation photos."""
        if self._pairs is None:
            self._pairs = self.processes.share(
                load_pairs(self.recipe.data.validate, self.folder, *self.recipe.scales))
        return self._pairs

    def open_photos(self) -> None:
        """Find, check and decode the photos now. Raises as ``crops.open_crops`` does."""
        _ = self.crops, self.pairs

    def learning_rate(self) -> float:
        return learning_rate(self.recipe.optimizer, self.iteration, self.progress)

    def train_once(self) -> dict[str, float]:
        """One iteration; returns the loss of this process's images and its parts.

        Raises UsageError if training diverged or does not fit into memory, or if another process
        has ended.
        """
        if self._batches is None:
            self._batches = batches(
                self.crops, self.recipe.run.batch, start=self.iteration,
                rank=self.processes.rank, ranks=self.processes.ranks,
                workers=self.recipe.loading.workers, pin=self.device.type == "cuda")
        return self.train_on(*next(self._batches))

    def train_on(self, high: Tensor, given: Tensor) -> dict[str, float]:
        """``train_once`` on this batch of photos and inputs."""
        try:
            with self.processes.report_lost():
                losses = self._backward(high, given)
            self._update()
        except torch.OutOfMemoryError:
            raise UsageError(f"an iteration does not fit into the memory of {self.device}; raise "
                             "run.accumulate, or lower run.batch or data.crop") from None
        self.iteration += 1
        # Lower decay at the beginning, so that the average forgets the initial weights.
        decay = min(self.recipe.optimizer.ema, self.iteration / (self.iteration + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()),
                             1 - decay)
        return losses

    def validate(self) -> list[dict[str, Any]]:
        """``validate.measured`` of every validation photo with the averaged weights; the first
        ``run.pictures`` include images. Raises ValidationOutOfMemory."""
        shown = self.recipe.run.pictures
        found = []
        for index, pair in enumerate(self.pairs):
            with_images = index * self.processes.ranks + self.processes.rank < shown
            set_scale(self.average, pair.scale)
            try:
                image = self.task.restored(self.average, pair)
            except (torch.OutOfMemoryError, MemoryError):
                height, width = pair.high.shape[:2]
                raise ValidationOutOfMemory(
                    f"validating {pair.name}, {height}x{width} pixels, does not fit into the "
                    f"memory of {self.device}; give it a box in data.validate, or name a smaller "
                    "photo") from None
            found.append(measured(pair, image, images=with_images))
        return self.processes.gather(found)

    def state(self) -> dict[str, Any]:
        """Everything a resume needs, in types that torch loads with ``weights_only=True``."""
        return {
            "params": self.task.published(self.network),
            "params_ema": self.task.published(self.average),
            "recipe": self.recipe.to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self._extra_tensors(),
            "scaler": self.precision.scaler.state_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "best": self.best,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, which ``state()`` returned."""
        self.task.load_published(self.network, state["params"])
        self.task.load_published(self.average, state["params_ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # fused Adam reads them in the weights' layout
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        with torch.no_grad():
            for name, value in self._extra_tensors().items():
                value.copy_(state["objective"][name])
        if state["scaler"]:
            self.precision.scaler.load_state_dict(state["scaler"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.best = state["best"]
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def _backward(self, high: Tensor, given: Tensor) -> dict[str, float]:
        """Gradients of this process's images, in ``run.accumulate`` parts; returns the losses."""
        run, parts = self.recipe.run, self.recipe.run.accumulate
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        self.optimizer.zero_grad()
        set_progress(self.network, self.progress)
        set_scale(self.network, drawn_scale(self.recipe.scales, run.seed, self.iteration))
        first = self.iteration * run.batch + self.processes.rank * len(high)
        totals: dict[str, Tensor] = {}
        for part, (photo, condition) in enumerate(zip(high.chunk(parts), given.chunk(parts))):
            draws = Draws(run.seed, self.iteration, first + part * len(photo), self.device)
            draws.seed_dropout()
            photo, condition = (image.to(self.device, non_blocking=True)
                                for image in (photo, condition))
            with torch.no_grad():
                inputs = self.task.prepare(self.network, photo, condition, draws)
            with self._gradients_kept_local() if part + 1 < parts else contextlib.nullcontext():
                with self.precision.autocast():
                    losses = self.model(*inputs)
                self.precision.scaler.scale(losses["loss"] / parts).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / parts
        return {name: value.item() for name, value in totals.items()}

    def _gradients_kept_local(self) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients only after the last part."""
        model = self.model
        return (model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel)
                else contextlib.nullcontext())

    def _update(self) -> None:
        scaler, clip = self.precision.scaler, self.recipe.optimizer.clip_norm
        scaler.unscale_(self.optimizer)
        norm = torch.stack([torch.nn.utils.clip_grad_norm_(group["params"], clip or float("inf"))
                            for group in self.optimizer.param_groups])
        may_skip = scaler.is_enabled() and not self.precision.diverged  # and lower the scale
        if not may_skip and not torch.isfinite(norm).all():
            raise UsageError(f"training diverged at iteration {self.iteration}; lower "
                             "optimizer.learning_rate or optimizer.clip_norm")
        scaler.step(self.optimizer)
        scaler.update()

    def _extra_tensors(self) -> dict[str, Tensor]:
        """Trained parameters of the objective that are not the network's, and the buffers of their
        modules."""
        found = {}
        for prefix, module in self.objective.named_modules():
            own = {name: value for name, value in module.named_parameters(prefix, recurse=False)
                   if value.requires_grad and not name.startswith("network.")}
            if own:
                found.update({**own, **dict(module.named_buffers(prefix, recurse=False))})
        return {name: value.detach() for name, value in found.items()}


def _keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory; does nothing with other C libraries.

    By default glibc returns large blocks to the system at once and gets them back cleared page by
    page: about 30 MB an iteration of a small network, a tenth of its time.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, -1)
