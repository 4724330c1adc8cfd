"""Checkpoint -> one ONNX file for other programs: image in, image out.

The file has what surrounds a network: the enlargement of the input, padding by reflection, noise,
the one step of the sampler, the crop and the clamp. ``standard_network`` writes the network itself.
Names, layout and range are those of chaiNNer and vs-mlrt: ``input`` and ``output``, RGB, NCHW, 0
to 1. A network whose loop has several steps can be written as the noise predictor of one step.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from ..checkpoint.record import Checkpoint, known_scale
from ..engines.noise_predictor import PADDING_MULTIPLE
from ..errors import UsageError
from ..files import atomic_file
from ..images.resample import CUBIC_A
from ..networks.base import LATENT, NOISE_PREDICTOR, ONE_RUN, STEP
from ..sampling.noise import NO_NOISE, gaussian_noise
from ..sampling.sampler import pick_timesteps, update_factors
from ..sampling.schedule import Schedule
from ..version import __version__
from .file_writer import COLORS, NOISE_SIDE, FileWriter
from .latent_file import latent_step, part_model
from .write import choose_timesteps, schedule_of

__all__ = ["NOISE_SIDE", "export_one_file", "one_file_model"]


def export_one_file(checkpoint: Checkpoint, output: str | Path, *, step: int | None = None,
                    part: str = STEP, seed: int = 0, half: bool = False, plain: bool = False,
                    overwrite: bool = False) -> dict[str, Any]:
    """Write ``one_file_model`` to ``output``, whole or not at all; returns its metadata.

    Raises as ``one_file_model``, and OutputError if the file cannot be written, or exists without
    ``overwrite``.
    """
    model = one_file_model(checkpoint, step=step, part=part, seed=seed, half=half, plain=plain)
    with atomic_file(output, overwrite) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


def one_file_model(checkpoint: Checkpoint, *, step: int | None = None, part: str = STEP,
                   seed: int = 0, half: bool = False, plain: bool = False) -> ModelProto:
    """The model of a checkpoint, in standard operators of opset 17.

    Without ``step``: ``input`` (N, 3, H, W) in [0, 1] -> ``output`` (N, 3, H * scale, W * scale) in
    [0, 1], for any N, H and W. With it: ``noisy`` and ``condition`` -> ``prediction``, the network
    at that time step, for heights and widths that are multiples of ``size_multiple``.

    part   of a latent network: ENCODER, ``image`` -> ``latent``, or DECODER, ``latent`` ->
           ``image``, images in [-1, 1]; else STEP
    seed   of the noise: ``gaussian_noise((1, 3, NOISE_SIDE, NOISE_SIDE), seed)``, repeated over the
           image, and the same for each image of a batch
    half   inputs, outputs and the maps between layers are float16, else float32
    plain  binary weights are stored as floats, else as bits

    Its metadata says all this. Raises UsageError for a network that samples in several steps, or
    from pure noise, without ``step``; for a ``step`` that does not exist; and for a checkpoint
    without a scale. Raises EngineError for weights beyond the range of float16.
    """
    if not checkpoint.network.in_one_file:
        raise UsageError(f"{checkpoint.name} is {checkpoint.network.title}, which export-onnx does "
                         "not write; make a bundle with `bidiff-deploy export` and run that")
    if checkpoint.network.kind == LATENT and half:
        raise UsageError(f"{checkpoint.name} is {checkpoint.network.title}, whose files are "
                         "float32; leave --precision out")
    if checkpoint.network.scales(checkpoint.config):
        known_scale(checkpoint)
    writer = _Writer(checkpoint, half, plain)
    facts = {"scale": checkpoint.scale, "precision": "float16" if half else "float32",
             "weights": "floats" if plain else "bits",
             "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
             "tool": {"name": "bidiff_deploy", "version": __version__}}
    if part != STEP:
        return part_model(writer, part, step, facts)
    if step is None:
        return writer.image_model(seed, facts)
    return writer.step_model(step, facts)


class _Writer(FileWriter):
    """Writes the nodes around a network."""

    # -- the two forms ----------------------------------------------------------------------------
    def image_model(self, seed: int, facts: dict[str, Any]) -> ModelProto:
        scale = known_scale(self.checkpoint)
        image = self.widened("input")
        if self.network.kind == NOISE_PREDICTOR:
            timestep = self.only_step()
            noiseless = self.checkpoint.sampling.get("noise") == NO_NOISE
            facts.update(timestep=timestep, noise=NO_NOISE if noiseless
                         else {"seed": seed, "side": NOISE_SIDE})
            y = self.one_step(image, scale, timestep, None if noiseless else seed)
        elif self.network.kind == LATENT:
            timestep = self.only_step()
            facts.update(timestep=timestep, noise={"seed": seed, "side": NOISE_SIDE})
            y = latent_step(self, image, scale, timestep, seed)
        else:
            y = self.written(None, [image])
        y = self.op("Clip", y, self.constant(np.float32(0), "zero"),
                    self.constant(np.float32(1), "one"), name=self.last("output"))
        return self.finished(y, "output", ("N", 3, f"{scale}*H", f"{scale}*W"), ["input"], facts)

    def step_model(self, step: int, facts: dict[str, Any]) -> ModelProto:
        if self.network.kind == ONE_RUN:
            raise UsageError(f"{self.checkpoint.name} is a feed-forward network, without time "
                             "steps; leave --step out")
        timestep, = schedule_of(self.checkpoint).check([step])
        inputs = ["noisy", "condition"]
        y = self.written(timestep, [self.widened(name) for name in inputs],
                         self.last("prediction"))
        facts.update(timestep=timestep, size_multiple=self.unit)
        channels = (self.checkpoint.config.autoencoder.latent if self.network.kind == LATENT
                    else COLORS)
        return self.finished(y, "prediction", ("N", channels, "H", "W"), inputs, facts,
                             {"noisy": channels})

    # -- parts ------------------------------------------------------------------------------------
    def only_step(self) -> int:
        """The one time step at which the model samples, from the noised condition or latent."""
        checkpoint = self.checkpoint
        if self.network.kind == LATENT:
            timesteps = choose_timesteps(checkpoint)
            if len(timesteps) > 1:
                raise UsageError(
                    f"{checkpoint.name} samples in {len(timesteps)} steps, and a file without a "
                    f"loop needs a model of one step; give --step {timesteps[0]} for the network "
                    "at one step, --part encoder and --part decoder, and run the loop around them")
            return timesteps[0]
        start = checkpoint.sampling.get("start")
        timesteps = pick_timesteps(choose_timesteps(checkpoint), None, start)
        if len(timesteps) > 1 or start is None:
            how = (f"in {len(timesteps)} steps" if len(timesteps) > 1 else "from pure noise")
            raise UsageError(
                f"{checkpoint.name} samples {how}, and a file without a loop needs a model of one "
                "step from the noised input; give --step T for the noise predictor of one step, "
                f"such as --step {timesteps[0]}, and run the loop around it")
        return timesteps[0]

    def one_step(self, image: str, scale: int, timestep: int, seed: int | None) -> str:
        """``sampler.sample`` of one step that begins at the noised condition, before the clamp;
        ``seed``: None for no noise.

        The image that a prediction implies is condition + r * (noise - prediction), where r is
        sqrt(1 - alpha) / sqrt(alpha). Written so, its size is that of the condition, which programs
        infer without running anything. The sampler's clip to [-1, 1] is part of the clamp.
        """
        op = self.op
        scales = self.constant(np.array([1, 1, scale, scale], np.float32), "scales")
        condition = op("Resize", image, "", scales, mode="cubic", cubic_coeff_a=CUBIC_A,
                       coordinate_transformation_mode="half_pixel", name="condition")
        size, unit = op("Shape", condition, name="size"), math.lcm(PADDING_MULTIPLE, self.unit)
        padded, noise = condition, "" if seed is None else self.initializer(
            "noise_field", gaussian_noise((1, 3, NOISE_SIDE, NOISE_SIDE), seed))
        for axis, label in ((2, "rows"), (3, "columns")):
            mirrored, repeated = self.indices(size, axis, label, unit, bool(noise))
            padded = op("Gather", padded, mirrored, axis=axis, name=f"padded_{label}")
            if noise:
                noise = op("Gather", noise, repeated, axis=axis, name=f"noise_{label}")
        alpha = Schedule(**self.checkpoint.schedule).alphas_cumprod[timestep]
        of_noise, of_image, _, _ = update_factors(alpha, 1)
        noisy = op("Mul", padded, self.constant(of_image, "of_image"), name="image_part")
        if noise:
            noisy = op("Add", noisy, op("Mul", noise, self.constant(of_noise, "of_noise"),
                                        name="noise_part"), name="noisy")
        both, corner = self.integers("height_and_width", 2, 3), self.integers("corner", 0, 0)
        end = op("Gather", size, both, name="end")
        # Cropped one by one: OpenVINO adds the noise of one image to the network's last convolution
        # in place, which fails for a batch.
        cropped = [op("Slice", value, corner, end, both, name=f"cropped_{label}") for value, label
                   in ((noise, "noise"), (self.written(timestep, [noisy, padded]), "prediction"))
                   if value]
        error = op("Sub", *cropped, name="error") if noise else op("Neg", *cropped, name="error")
        error = op("Mul", error, self.constant(of_noise / of_image, "ratio"), name="correction")
        return op("Add", condition, error, name="restored")
