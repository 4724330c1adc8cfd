"""What is written of a latent network: its encoder or decoder alone, and all of it for one step."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto

from ..errors import UsageError
from ..images.resample import CUBIC_A
from ..networks.base import DECODER, ENCODER, LATENT
from ..networks.resshift.vq import SIDES
from ..sampling.noise import gaussian_noise
from ..sampling.resshift import ResShiftSchedule
from .file_writer import COLORS, NOISE_SIDE, FileWriter
from .write import schedule_of

__all__ = ["latent_step", "part_model"]


def part_model(writer: FileWriter, part: str, step: int | None,
               facts: dict[str, Any]) -> ModelProto:
    """The model of ENCODER or DECODER. Raises UsageError for a network that has none, and for a
    ``step``."""
    if writer.network.kind != LATENT:
        raise UsageError(f"{writer.checkpoint.name} is {writer.network.title}, which has no "
                         f"{part}; leave --part out")
    if step is not None:
        raise UsageError(f"the {part} has no time steps; leave --step out")
    coder = writer.checkpoint.config.autoencoder
    if part == ENCODER:
        name, output, channels, sides = "image", "latent", coder.latent, ("h", "w")
    else:
        name, output, channels = "latent", "image", COLORS
        sides = (f"{coder.factor}*H", f"{coder.factor}*W")
    y = writer.written(None, [name], output, part)
    facts.update(part=part, size_multiple=SIDES * (coder.factor if part == ENCODER else 1))
    return writer.finished(y, output, ("N", channels, *sides), [name], facts,
                           {"latent": coder.latent})


def latent_step(writer: FileWriter, image: str, scale: int, timestep: int, seed: int) -> str:
    """The image that ``engines.latent`` returns for one step, before the clamp: padded by
    reflection, encoded, noised, one prediction, decoded, cropped. One step of either sampler
    returns the prediction itself."""
    op = writer.op
    schedule = schedule_of(writer.checkpoint)
    assert isinstance(schedule, ResShiftSchedule)
    size = op("Shape", image, name="size")
    padded, noise = image, writer.initializer("noise_field", gaussian_noise(
        (1, writer.checkpoint.config.autoencoder.latent, NOISE_SIDE, NOISE_SIDE), seed))
    for axis, label in ((2, "rows"), (3, "columns")):
        mirrored, repeated = writer.indices(size, axis, label, writer.unit)
        padded = op("Gather", padded, mirrored, axis=axis, name=f"padded_{label}")
        noise = op("Gather", noise, repeated, axis=axis, name=f"noise_{label}")
    two, one, half = (writer.constant(np.float32(value), f"number_{value:g}")
                      for value in (2, 1, 0.5))
    condition = op("Sub", op("Mul", padded, two, name="doubled"), one, name="condition")
    scales = writer.constant(np.array([1, 1, scale, scale], np.float32), "scales")
    large = op("Resize", condition, "", scales, mode="cubic", cubic_coeff_a=CUBIC_A,
               coordinate_transformation_mode="half_pixel", name="large")
    y = writer.written(None, [large], part=ENCODER)
    spread = np.float32(schedule.kappa * schedule.sqrt_etas[timestep])
    noisy = op("Add", y, op("Mul", noise, writer.constant(spread, "spread"), name="noise_part"),
               name="first")
    noisy = op("Mul", noisy, writer.constant(schedule.input_scale(timestep), "input_scale"),
               name="noisy")
    latent = writer.written(timestep, [noisy, condition])
    result = writer.written(None, [latent], part=DECODER)
    unit = op("Add", op("Mul", result, half, name="halved"), half, name="unit")
    both, corner = writer.integers("height_and_width", 2, 3), writer.integers("corner", 0, 0)
    end = op("Mul", op("Gather", size, both, name="end"),
             writer.integers("scale", scale), name="large_end")
    return op("Slice", unit, corner, end, both, name="restored")
