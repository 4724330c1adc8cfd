"""Check a diffusion bundle against its checkpoint: layers, segments, operators, steps, loops."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from ...bundle.record import Bundle, NoisePredictorBundle
from ...checkpoint.record import Checkpoint
from ...engines import CUDA
from ...engines.noise_predictor import PADDING_MULTIPLE
from ...errors import UsageError
from ...images.resample import pad_reflect
from ...operators.value_names import short
from ...sampling import sampler
from ...sampling.noise import first_noise
from ...sampling.schedule import Schedule
from ..inputs import Sample, image_samples, noise_sample
from ..reference import torch_threads
from .bundle_layers import BundleLayers, EngineValues
from .common import OnProgress, in_int8, refuse_other_network, source_notes
from .cuda_sessions import CudaSessions
from .forced import ForcedReference, SegmentCheck, noise_predictor_parts
from .layers import LayerCheck, LayerOp, check_layers
from .loops import FAST_LOOP_PSNR, check_loops
from .operators import BOUNDS, OperatorCheck, check_operators
from .result import CheckResult, StepCheck, first_wrong, part_statistics, undecidable_notes
from .runners import CPU_BACKENDS, EngineRunner, TorchRunner
from .saved import Run, save_runs
from .statistics import PREDICTION, STEP_SNR, STEP_SNRS, StepStatistics, compare_step, nudged

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
    threads    of engine and reference (default: all usable cores)
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
        reference = stack.enter_context(TorchRunner(bundle, checkpoint))
        floor = functools.cache(lambda: stack.enter_context(
            TorchRunner(bundle, checkpoint, channels_last=True)))
        engine = stack.enter_context(EngineRunner(bundle, backend, threads=threads, device=device))
        parts = _Parts(bundle, checkpoint, reference.engine.network, engine.engine.precision,
                       backend, device, threads)
        total = len(chosen) * len(samples)
        found = _Comparison((reference, floor, engine), parts, save is not None,
                            lambda done: on_progress and on_progress(done, total))
        padded = [found.run(sample, bundle, chosen) for sample in samples]
        loops = (check_loops(samples, reference.engine, floor().engine, engine.engine,
                             judged=parts.alone) if images or truths else [])
        notes = _notes(bundle, checkpoint, loops, engine.engine.precision, backend, parts.alone)
        result = CheckResult(
            str(bundle.path), checkpoint.name, engine.engine.description,
            reference.engine.description, padded[0], tuple(parts.layers), tuple(parts.segments),
            tuple(parts.operators), tuple(found.steps), tuple(loops),
            (*notes, *undecidable_notes(parts.segments)))
        if save is not None:
            save_runs(save, found.runs, bundle, bool(result), overwrite=overwrite)
    return result


# Shares of a step's time after which progress is reported: its runs, then its float parts.
_RUN_SHARE, _FLOAT_SHARE = 0.15, 0.65


class _Parts:
    """Judges every part of an engine's step, see ``forced``, ``layers`` and ``operators``.

    alone  whether the engine's prediction, which is that of the parts, is not judged otherwise
    """

    def __init__(self, bundle: NoisePredictorBundle, checkpoint: Checkpoint, network: Any,
                 precision: str, backend: str, device: int | None, threads: int | None) -> None:
        """``precision`` of the engine in ``backend``. Where that returns no float32 values inside a
        step, onnxruntime-stock does in its place."""
        cuda = backend == CUDA and precision == "float32"
        packed, self.alone = CPU_BACKENDS.get(backend, False), cuda or backend in CPU_BACKENDS
        self._checkpoint, self._network = checkpoint, network
        self._bundle_layers = BundleLayers(bundle)
        network = in_int8(bundle, network, self._bundle_layers)
        sessions = CudaSessions(self._bundle_layers, device or 0) if cuda else None
        self._op = LayerOp(self._bundle_layers, packed=packed, threads=threads, sessions=sessions)
        self._reference = ForcedReference(network, packed=packed, winograd=True,
                                          precision=precision, cudnn=cuda)
        self._values = EngineValues(
            self._bundle_layers, [short(name) for name, *_ in network.operator_ends()],
            packed=packed, threads=threads, sessions=sessions)
        self.layers: list[LayerCheck] = []
        self.segments: list[SegmentCheck] = []
        self.operators: list[OperatorCheck] = []

    def judge(self, feed: Mapping[str, Any], step: StepCheck, prediction: np.ndarray,
              on_share: Callable[[float], object]) -> StepCheck:
        """``step`` with the verdict on its parts; ``prediction``: the engine's."""
        timestep = step.timestep
        run, inside = self._values({name: feed[name] for name in ("noisy", "condition")}, timestep)
        group = self._checkpoint.network.group(self._checkpoint.config, timestep)
        segments, times = noise_predictor_parts(self._reference, self._bundle_layers, run, inside,
                                                feed, group, timestep)
        on_share(_FLOAT_SHARE)
        layers = check_layers(self._bundle_layers, self._op, self._checkpoint, self._network,
                              {**inside, **run}, times, timestep)
        operators = check_operators(self._bundle_layers, run, inside, timestep)
        self.segments += segments
        self.layers += layers
        self.operators += operators
        wrong = first_wrong(segments, layers, operators)
        if not self.alone:
            return replace(step, wrong=wrong)
        return replace(
            step, engine=replace(step.engine, layers=part_statistics(layers, segments)),
            differing=int(np.count_nonzero(prediction != run[PREDICTION])), wrong=wrong)


class _Comparison:
    """Runs the engine's loop, and compares each step with the reference, fed the same latent."""

    def __init__(self, runners: tuple[TorchRunner, Callable[[], TorchRunner], EngineRunner],
                 parts: _Parts, keep: bool, on_step: Callable[[float], object]) -> None:
        """``runners``: the second is opened where it is needed. ``keep``: whether ``runs`` are
        wanted."""
        self._runners, self._parts = runners, parts
        self._keep, self._on_step = keep, on_step
        self.steps: list[StepCheck] = []
        self.runs: list[Run] = []

    def run(self, sample: Sample, bundle: NoisePredictorBundle,
            chosen: tuple[int, ...]) -> tuple[int, int]:
        """Compare at the chosen steps; returns (height, width) of the padded sample."""
        padded, _ = pad_reflect(sample.condition, math.lcm(
            PADDING_MULTIPLE, bundle.network.size_multiple(bundle.config)))
        count, channels, height, width = padded.shape
        noise = first_noise((count, channels, height, width), 0, bundle.noiseless)
        # Unless it begins at the bundle's first step, the loop begins at the noised condition.
        whole = bundle.default_start is None and chosen[0] == bundle.timesteps[0]
        sampler.sample(self._step, padded, chosen, bundle.schedule, noise,
                       start=None if whole else chosen[0])
        return height, width

    def _step(self, latent: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        feed = {"noisy": latent, "condition": condition,
                "timestep": np.array([timestep], np.int64)}
        reference, floor, engine = self._runners
        expected, found = reference.infer(feed), engine.infer(feed)
        predictions = {reference.name: expected[PREDICTION]}
        statistics, worst = compare_step(expected, found), None
        if self._keep or not self._parts.alone:
            worst, predictions[floor().name] = self._floor(feed, expected)
        predictions[engine.name] = found[PREDICTION]
        precision = engine.engine.precision
        step = StepCheck(timestep, statistics, worst, precision)
        done = len(self.steps)
        self._on_step(done + _RUN_SHARE)
        self.steps.append(self._parts.judge(feed, step, found[PREDICTION],
                                            lambda share: self._on_step(done + share)))
        if self._keep:
            self.runs.append(Run(feed, predictions, {
                runner.name: runner.last_inference_time()
                for runner in (reference, floor(), engine)}))
        self._on_step(len(self.steps))
        prediction: np.ndarray = found[PREDICTION]
        return prediction

    def _floor(self, feed: dict[str, np.ndarray],
               expected: Mapping[str, np.ndarray]) -> tuple[StepStatistics, np.ndarray]:
        """The reference against itself, the worst of several runs that differ only in rounding: one
        may by chance flip few signs. And that run's prediction."""
        reference, floor, _ = self._runners
        latent, floors = feed["noisy"], []
        for seed, (runner, noisy) in enumerate((
                (floor(), latent), *((reference, moved) for moved in nudged(latent)))):
            with runner.nudged(seed) if runner is reference else nullcontext():
                found = runner.infer({**feed, "noisy": noisy})
            floors.append((compare_step(expected, found), found[PREDICTION]))
        return min(floors, key=lambda one: one[0].snr)


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
           backend: str, alone: bool) -> list[str]:
    notes = source_notes(bundle, checkpoint)
    if precision in STEP_SNRS and not alone:
        notes.append(f"precision {precision}: the bounds are {STEP_SNRS[precision]:.0f} dB per step"
                     f" and {FAST_LOOP_PSNR:.0f} dB per image, because products may be rounded")
    elif precision in BOUNDS:
        notes.append(f"precision {precision}: the bound is {BOUNDS[precision]:.0f} dB per "
                     "operator, because products may be rounded")
    if not alone:
        bound = STEP_SNRS.get(precision, STEP_SNR)
        notes.append("values inside a step: only CPU backends return them, and onnxruntime-cuda in "
                     "float32; the bundle's parts were judged in onnxruntime-stock, of "
                     f"{backend} itself only predictions were compared, and an error of less than "
                     f"{10 ** (-bound / 10):.1e} of their energy passes")
    if not loops:
        notes.append("whole loops were not compared: no images were given")
    return notes
