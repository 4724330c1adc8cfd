"""Time and memory of an iteration of a recipe, measured on noise instead of photos."""

from __future__ import annotations

import dataclasses
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from ..machine import peak_memory
from ..networks import parameters
from .crops import LOW
from .recipe import Recipe
from .trainer import Trainer

__all__ = ["measure", "measured_text"]

WARM_UP = 2  # the first iterations allocate, choose algorithms, and compile
MIN_ITERATIONS, MAX_SECONDS = 3, 60.0  # slow iterations: fewer than requested


def measure(recipe: Recipe, folder: Path, iterations: int = 10) -> dict[str, Any]:
    """Run ``iterations`` of a recipe in this process, fewer if they take more than a minute.

    Returns seconds_per_iteration (the median), images_per_second, cpu_seconds_per_iteration (of all
    threads), peak_memory_bytes (of the GPU, or of this process on a CPU), the machine and the
    settings. Loads no photos and writes nothing. Raises as ``trainer.Trainer`` does.
    """
    recipe = dataclasses.replace(recipe, initial="")
    trainer = Trainer(recipe, folder, fresh=True)
    run, crop, device = recipe.run, recipe.data.crop, trainer.device
    low = crop // recipe.scale if trainer.task.given == LOW else crop
    generator = torch.Generator().manual_seed(0)
    high, given = (torch.rand(run.batch, 3, side, side, generator=generator)
                   for side in (crop, low))
    seconds, cpu_seconds = [], []
    for index in range(WARM_UP + iterations):
        if device.type == "cuda" and index == WARM_UP:
            torch.cuda.reset_peak_memory_stats(device)
        began, cpu_began = time.perf_counter(), time.process_time()
        trainer.train_on(high, given)  # returns numbers, so a GPU has finished
        if index >= WARM_UP:
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - cpu_began)
        if len(seconds) >= MIN_ITERATIONS and sum(seconds) > MAX_SECONDS:
            break
    median = statistics.median(seconds)
    shapes = parameters(recipe.network)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": run.batch, "accumulate": run.accumulate, "crop": crop,
        "precision": trainer.precision.name, "compile": run.compile,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "binary_parameters": sum(math.prod(found.shape) for found in shapes.values()
                                 if found.binary),
        "seconds_per_iteration": median, "images_per_second": run.batch / median,
        "cpu_seconds_per_iteration": statistics.median(cpu_seconds),
        "peak_memory_bytes": (torch.cuda.max_memory_allocated(device) if device.type == "cuda"
                              else peak_memory()),
    }


def measured_text(found: dict[str, Any]) -> str:
    """The result of ``measure`` in a few lines."""
    return (f"{found['parameters'] / 1e6:.2f} M parameters, "
            f"{found['binary_parameters'] / 1e6:.2f} M of them binary\n"
            f"batch {found['batch']} in {found['accumulate']} parts, crops of {found['crop']}, "
            f"{found['precision']}{', compiled' if found['compile'] else ''}, {found['device']}"
            + (f", {found['threads']} threads" if found["device"] == "cpu" else "") + "\n"
            f"{found['seconds_per_iteration']:.3f} s an iteration, "
            f"{found['images_per_second']:.2f} images/s, "
            f"{found['cpu_seconds_per_iteration']:.3f} s of CPU time\n"
            f"{found['peak_memory_bytes'] / 2**20:.0f} MiB at most")
