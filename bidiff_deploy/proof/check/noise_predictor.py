"""Check a diffusion bundle against its checkpoint: layers, segments, operators, steps, loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np

from ...bundle.record import Bundle, NoisePredictorBundle
from ...checkpoint.record import Checkpoint
from ...engines.noise_predictor import PADDING_MULTIPLE
from ...errors import UsageError
from ...images.resample import pad_reflect
from ...sampling import sampler
from ...sampling.noise import gaussian_noise
from ...sampling.schedule import Schedule
from ..inputs import Sample, image_samples, noise_sample
from ..reference import torch_threads
from .bundle_layers import BundleLayers
from .common import OnProgress, refuse_other_network, source_notes
from .layers import LayerCheck, LayerOp, check_layers
from .loops import FAST_LOOP_PSNR, check_loops
from .operators import BOUNDS, OperatorCheck, Operators
from .result import CheckResult, StepCheck
from .runners import CPU_BACKENDS, EngineRunner, TorchRunner
from .saved import Run, save_runs
from .segments import SegmentCheck, Segments
from .statistics import PREDICTION, STEP_SNRS, StepStatistics, compare_step, nudged

NOISE_SIZE = (64, 64)
IMAGE_SIZE = (256, 256)  # images are cropped to it


def check_bundle(bundle: NoisePredictorBundle, checkpoint: Checkpoint, *,
                 backend: str = "onnxruntime", device: int | None = None,
                 threads: int | None = None,
                 timesteps: Sequence[int] | None = None,
                 size: tuple[int, int] | None = None, images: Sequence[str] = (),
                 truths: Sequence[str] = (), save: str | None = None, overwrite: bool = False,
                 on_progress: OnProgress | None = None) -> CheckResult:
    """Compare the network of ``checkpoint`` in torch with ``bundle`` in ``backend``.

    device     number of the GPU, for backends on a GPU
    timesteps  timesteps to check (default: the first of each TaR/TaA group, and the last)
    size       (height, width) of the network's input: of the noise without ``images`` (default
               64x64), else the size to which images are cropped (default 256x256)
    images     low-resolution files or folders; with them, or ``truths``, whole loops are compared
    truths     originals of the images; without ``images``, they are downscaled
    threads    of engine and reference (default: all cores)
    save       file for all inputs and predictions, see ``saved``

    Raises UsageError for a checkpoint of another network or schedule, EngineError without torch,
    Polygraphy, onnxruntime or the op library, ImageError for images that cannot be read.
    """
    refuse_other_network(bundle, checkpoint)
    if Schedule(**checkpoint.schedule) != bundle.schedule:
        raise UsageError(f"{bundle.path} and {checkpoint.name} have different noise schedules; "
                         "give the options file that the bundle was exported with")
    chosen = _choose(bundle, timesteps)
    samples = _samples(bundle, size, images, truths)
    with ExitStack() as stack:
        stack.enter_context(torch_threads(threads))
        reference, floor, engine = (stack.enter_context(runner) for runner in (
            TorchRunner(bundle, checkpoint, layers=True),
            TorchRunner(bundle, checkpoint, layers=True, channels_last=True),
            EngineRunner(bundle, backend, threads=threads, device=device, layers=True)))
        layers = BundleLayers(bundle)
        packed = CPU_BACKENDS.get(backend)
        # On a GPU only steps and images are compared, not the parts of a step.
        parts = None if packed is None else tuple(
            part(layers, packed=packed, threads=threads)
            for part in (LayerOp, Segments, Operators))
        found = _Comparison((reference, floor, engine), layers, parts, checkpoint,
                            lambda done: on_progress and on_progress(done, len(chosen)))
        padded = found.run(samples[0], bundle, chosen)
        loops = (check_loops(samples, reference.engine, floor.engine, engine.engine)
                 if images or truths else [])
        notes = _notes(bundle, checkpoint, loops, engine.engine.precision, backend)
        described = engine.engine.description, reference.engine.description
        if save is not None:
            save_runs(save, found.runs, overwrite=overwrite)
    return CheckResult(str(bundle.path), checkpoint.name, *described, padded,
                       tuple(found.layers), tuple(found.segments), tuple(found.operators),
                       tuple(found.steps), tuple(loops), tuple(notes))


class _Comparison:
    """Runs the reference's loop; compares layers, segments, operators and step at each latent."""

    def __init__(self, runners: tuple[TorchRunner, TorchRunner, EngineRunner],
                 bundle_layers: BundleLayers, parts: tuple[Any, ...] | None,
                 checkpoint: Checkpoint, on_step: Callable[[int], object]) -> None:
        """``parts``: LayerOp, Segments and Operators, or None to skip them."""
        self._runners, self._parts = runners, parts
        self._bundle_layers, self._checkpoint, self._on_step = bundle_layers, checkpoint, on_step
        self._precision = runners[2].engine.precision
        self._names = {layer.key: layer.name for layer in bundle_layers.layers}
        self.layers: list[LayerCheck] = []
        self.segments: list[SegmentCheck] = []
        self.operators: list[OperatorCheck] = []
        self.steps: list[StepCheck] = []
        self.runs: list[Run] = []

    def run(self, sample: Sample, bundle: NoisePredictorBundle,
            chosen: tuple[int, ...]) -> tuple[int, int]:
        """Compare at the chosen steps; returns (height, width) of the padded sample."""
        padded, _ = pad_reflect(sample.condition, math.lcm(
            PADDING_MULTIPLE, bundle.network.size_multiple(bundle.config)))
        count, channels, height, width = padded.shape
        noise = gaussian_noise((count, channels, height, width), seed=0)
        # Unless it begins at the bundle's first step, the loop begins at the noised condition.
        whole = bundle.default_start is None and chosen[0] == bundle.timesteps[0]
        sampler.sample(self._step, padded, chosen, bundle.schedule, noise,
                       start=None if whole else chosen[0])
        return height, width

    def _step(self, latent: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        feed = {"noisy": latent, "condition": condition,
                "timestep": np.array([timestep], np.int64)}
        reference, floor, engine = self._runners
        expected = reference.infer(feed)
        if self._parts is not None:
            op, segments, operators = self._parts
            self.layers += check_layers(self._bundle_layers, op, self._checkpoint,
                                        reference.engine.network, expected, timestep)
            self.segments += segments.check(feed, expected, timestep)
            self.operators += operators.check(latent, condition, timestep)
        predictions = {reference.name: expected[PREDICTION]}
        # One run may by chance flip few signs, so the floor is the worst of several.
        floors: list[tuple[float, int, StepStatistics, np.ndarray]] = []
        for seed, (runner, noisy) in enumerate((
                (floor, latent), *((reference, moved) for moved in nudged(latent)))):
            with runner.nudged(seed) if runner is reference else nullcontext():
                found = runner.infer({**feed, "noisy": noisy})  # its layers are large
            statistics = compare_step(expected, found, self._names)
            floors.append((statistics.snr, len(floors), statistics, found[PREDICTION]))
            del found
        _, _, worst, predictions[floor.name] = min(floors)
        found = engine.infer(feed)
        predictions[engine.name] = found[PREDICTION]
        self.steps.append(StepCheck(timestep, compare_step(expected, found, self._names), worst,
                                    self._precision))
        prediction: np.ndarray = expected[PREDICTION]
        del found, expected  # their layers are large
        self.runs.append(Run(feed, predictions, {runner.name: runner.last_inference_time()
                                                 for runner in self._runners}))
        self._on_step(len(self.steps))
        return prediction


def _choose(bundle: NoisePredictorBundle, timesteps: Sequence[int] | None) -> tuple[int, ...]:
    if timesteps is not None:
        listed = bundle.schedule.check(timesteps)
        for timestep in listed:
            if timestep not in bundle.timesteps:
                raise UsageError(f"{bundle.path} has no timestep {timestep}; it has "
                                 f"{', '.join(map(str, bundle.timesteps))}")
        return listed
    visited = sampler.pick_timesteps(bundle.timesteps, start=bundle.default_start)
    first = {bundle.network.group(bundle.config, timestep): timestep
             for timestep in reversed(visited)}
    return tuple(sorted({*first.values(), visited[-1]}, reverse=True))


def _samples(bundle: Bundle, size: tuple[int, int] | None, images: Sequence[str],
             truths: Sequence[str]) -> list[Sample]:
    if images or truths:
        return image_samples(bundle.scale, images, truths, size or IMAGE_SIZE)
    return [noise_sample(bundle.scale, size or NOISE_SIZE)]


def _notes(bundle: Bundle, checkpoint: Checkpoint, loops: Sequence[Any], precision: str,
           backend: str) -> list[str]:
    notes = source_notes(bundle, checkpoint)
    if precision in STEP_SNRS:
        operator = f", {BOUNDS[precision]:.0f} dB per operator" if precision in BOUNDS else ""
        notes.append(f"precision {precision}: the bounds are {STEP_SNRS[precision]:.0f} dB per step"
                     f"{operator} and {FAST_LOOP_PSNR:.0f} dB per image, because products may be "
                     "rounded")
    if backend not in CPU_BACKENDS:
        notes.append("the layers were not compared: only CPU backends return them")
    if not loops:
        notes.append("whole loops were not compared: no images were given")
    return notes
