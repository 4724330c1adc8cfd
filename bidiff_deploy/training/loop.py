"""A run from its start, or its last checkpoint, to its end or a signal."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import BidiffError, OutputError
from ..files import make_directory
from ..progress import duration
from .checkpoints import NEWEST, Checkpoints, read_run
from .distributed import Processes, ProcessLost, processes
from .log import CSV, Log
from .recipe import Recipe, Run
from .trainer import Trainer, ValidationOutOfMemory

__all__ = ["train"]

Report = Callable[[str], object]


def train(recipe: Recipe, folder: Path, out: Path, resume: bool = False,
          report: Report | None = None) -> Path:
    """Run a recipe into the folder ``out``; returns the path of its checkpoint.

    Paths in the recipe are relative to ``folder``. ``out`` contains ``checkpoint.pt``, the
    checkpoints that ``checkpoints.Checkpoints`` keeps, ``log.csv`` and TensorBoard events; the file
    ``run.state`` is written with each checkpoint, and ``resume`` reads it if there is none. SIGTERM
    and SIGINT end the run after the current iteration, with a checkpoint that ``resume`` continues
    exactly. ``report`` receives lines of progress (default: stderr). Under torchrun this is one of
    several processes, and only number 0 writes and reports. Raises OutputError if ``out`` already
    contains a run (or, on resume, none) or cannot be written, CheckpointError if that run has
    another recipe, UsageError for photos that cannot be used, training that diverges or does not
    fit into memory, and another process that has ended.
    """
    checkpoint = out / NEWEST
    portable = folder / recipe.run.state if recipe.run.state else None
    begun = checkpoint if checkpoint.exists() or portable is None else portable
    if resume and not begun.exists():
        raise OutputError(f"{begun}: no run to resume; start one without --resume")
    if not resume and checkpoint.exists():
        raise OutputError(f"{checkpoint}: exists; continue it with --resume or name another folder")
    with processes(recipe.run) as found:
        _run(recipe, folder, out, begun if resume else None, found, _reporter(report, found))
    return checkpoint


def _reporter(report: Report | None, found: Processes) -> Report:
    if found.rank:
        return lambda line: None
    return report or (lambda line: print(line, file=sys.stderr, flush=True))


def _run(recipe: Recipe, folder: Path, out: Path, begun: Path | None, found: Processes,
         say: Report) -> None:
    if begun is not None:
        recipe = dataclasses.replace(recipe, initial="")
    trainer = Trainer(recipe, folder, found, say)
    if begun is not None:
        state = read_run(begun, recipe)
        trainer.load_state(state)
        before = state["recipe"].get("run", {}).get("precision", Run.precision)
        if before != recipe.run.precision:
            say(f"run.precision changes from {before} to {recipe.run.precision}")
    trainer.open_photos()  # errors in them are reported before a folder is made
    with _caught_signals() as stopped, contextlib.closing(trainer):
        if found.rank:
            _loop(trainer, stopped, None, None, say)
            return
        make_directory(out)
        if begun is None:
            (out / CSV).unlink(missing_ok=True)  # from a run without a checkpoint
        portable = folder / recipe.run.state if recipe.run.state else None
        checkpoints = Checkpoints(out, recipe.run.keep,
                                  trainer.iteration if (out / NEWEST).exists() else None, portable)
        several = recipe.scales if len(recipe.scales) > 1 else ()
        with contextlib.closing(Log(out, trainer.iteration, say, several)) as log:
            try:
                ended_early = _loop(trainer, stopped, checkpoints, log, say)
            except (ProcessLost, ValidationOutOfMemory):
                _save_last_iteration(trainer, checkpoints, say)
                raise
            checkpoints.save(trainer.state())
    say(f"{checkpoints.newest}: iteration {trainer.iteration}"
        + (", stopped; continue with --resume" if ended_early else ""))


def _loop(trainer: Trainer, stopped: list[int], checkpoints: Checkpoints | None, log: Log | None,
          say: Report) -> bool:
    """Train to the end of the run, or until stopped: returns whether it was stopped. Only number 0
    has checkpoints and log."""
    run, found = trainer.recipe.run, trainer.processes
    began, saved = time.monotonic() - trainer.seconds, time.monotonic()
    recent, validated = _Means(), _Means()  # since the last report, since the last validation
    reported = trainer.seconds, trainer.iteration
    while True:
        # Every process must decide the same, so all use the clock of number 0.
        stop, trainer.seconds = found.agree(bool(stopped), time.monotonic() - began)
        done = trainer.progress >= 1
        if recent and (trainer.iteration % run.report_every == 0 or done):
            losses = found.mean(recent.take())
            rate = (trainer.iteration - reported[1]) / max(trainer.seconds - reported[0], 1e-9)
            reported = trainer.seconds, trainer.iteration
            say(_line(trainer, losses, rate))
            if log is not None:
                log.scalars(trainer.iteration, {
                    **{f"train/{name}": value for name, value in losses.items()},
                    "train/learning_rate": trainer.learning_rate(),
                    "speed/images_per_second": rate * run.batch})
        if validated and (trainer.iteration % run.validate_every == 0 or done):
            loss = found.mean(validated.take())["loss"]
            _validate(trainer, loss, checkpoints, log, say)
        if checkpoints is not None and run.checkpoint_minutes and (
                time.monotonic() - saved >= 60 * run.checkpoint_minutes):
            checkpoints.save(trainer.state())
            saved = time.monotonic()
        if done:
            return False
        if stop or (stopped and found.ranks == 1):
            return True
        losses = trainer.train_once()
        recent.add(losses)
        validated.add(losses)


def _line(trainer: Trainer, losses: dict[str, float], rate: float) -> str:
    left = trainer.seconds * (1 / trainer.progress - 1)
    parts = "".join(f"  {name} {value:.4f}" for name, value in losses.items())
    return (f"iteration {trainer.iteration}{parts}  {rate:.2f} it/s  "
            f"{rate * trainer.recipe.run.batch:.1f} images/s  about {duration(left)} left")


def _validate(trainer: Trainer, loss: float, checkpoints: Checkpoints | None, log: Log | None,
              say: Report) -> None:
    scores = trainer.validate()
    if log is None or checkpoints is None:
        return
    psnr, bicubic = (_mean([score[key] for score in scores]) for key in ("network", "bicubic"))
    by_scale = {scale: _mean([score["network"] for score in scores if score["scale"] == scale])
                for scale in trainer.recipe.scales}
    ssim = _mean([score["ssim_y"] for score in scores if not math.isnan(score["ssim_y"])])
    if scores:
        say(f"iteration {trainer.iteration}  PSNR-Y {psnr:.2f} dB, {psnr - bicubic:+.2f} dB over "
            "bicubic" + ("" if math.isnan(ssim) else f", SSIM-Y {ssim:.4f}")
            + ("" if len(by_scale) == 1 else "".join(
                f", x{scale} {value:.2f} dB" for scale, value in by_scale.items())))
    log.row(trainer.iteration, trainer.seconds / 60, loss, trainer.learning_rate(), psnr,
            psnr - bicubic, ssim, by_scale)
    for score in scores:
        if "images" in score:
            of_scale = f"_x{score['scale']}" if len(by_scale) > 1 else ""
            log.images(trainer.iteration, f"validation/{score['name']}{of_scale}", score["images"])
    if psnr > trainer.best:
        trainer.best = psnr
        if trainer.recipe.run.keep_best:
            checkpoints.save(trainer.state(), best=True)


def _save_last_iteration(trainer: Trainer, checkpoints: Checkpoints, say: Report) -> None:
    """Save the last iteration, which is complete in this process even if another process or a
    validation failed."""
    if trainer.iteration:
        with contextlib.suppress(BidiffError):
            checkpoints.save(trainer.state())
            say(f"{checkpoints.newest}: iteration {trainer.iteration}, saved before ending")


@contextlib.contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list inside the block, instead of ending the process."""
    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda got, _: stopped.append(got))
                for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Means:
    """Running means of losses by name."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def take(self) -> dict[str, float]:
        """Return the means since the last call, and start again."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
