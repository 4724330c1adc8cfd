"""Measure everything that a page shows."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import sampler
from ..errors import CheckpointError, EngineError, ImageError, UsageError
from ..metrics import psnr_y, ssim_y
from .pictures import Encoded, Input, detail, encode, resized

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..checkpoint import Checkpoint
    from ..engines.base import Engine

PICTURE_BYTES = 10_500_000  # of all data URIs, which leaves 4 MB of 15 for tables
MOST_IMAGES = 12
STRIP_SIDE = 256
_STRIP_FRAMES = 6
_STRIP_BYTES = 600_000
_PIXEL_SECONDS = 2e-6  # of a step, for the estimate of the time left
OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class Picture:
    """One image. ``scores``: of "bicubic" and "packed" against the original, PSNR-Y in dB and
    SSIM-Y; ``detail``: (top, left, side) of the part that is shown enlarged."""

    name: str
    width: int
    height: int
    low_width: int
    low_height: int
    seconds: float
    made_small: bool
    scores: dict[str, dict[str, float | None]]
    detail: tuple[int, int, int]
    shown: Encoded | None = field(repr=False)
    parts: Encoded | None = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the pixels."""
        values = asdict(self)
        del values["shown"], values["parts"]
        return {**values, "shown": None if self.shown is None else
                {"width": self.shown.width, "height": self.shown.height, "how": self.shown.how}}


@dataclass(frozen=True)
class Frame:
    """One step of the loop: ``noise``, how much of the latent's variance is noise, and the share of
    the distance to the final image that the estimate still has (root mean square, 0 to 255)."""

    timestep: int
    number: int
    noise: float
    distance: float


@dataclass(frozen=True)
class Strip:
    """The loop of one image: the latents and the images that they imply, at some of its steps."""

    name: str
    width: int
    height: int
    steps: int
    frames: tuple[Frame, ...]
    shown: Encoded = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["shown"]
        return values


@dataclass(frozen=True)
class Report:
    """What a page is made of: JSON-ready parts as their own commands print them, pictures, and for
    each part that is ``missing`` why."""

    created: str
    options: dict[str, Any]
    inspection: dict[str, Any]
    doctor: dict[str, Any]
    engine: str | None = None
    pictures: tuple[Picture, ...] = ()
    strip: Strip | None = None
    parity: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the pixels."""
        return {
            "format": "bidiff-report", "created": self.created, "options": self.options,
            "engine": self.engine, "pictures": [one.to_dict() for one in self.pictures],
            "strip": None if self.strip is None else self.strip.to_dict(),
            "parity": self.parity, "bench": self.bench, "inspection": self.inspection,
            "doctor": self.doctor, "missing": self.missing, "left_out": list(self.left_out)}

    @property
    def failures(self) -> list[str]:
        """Sentences: what is wrong with the bundle."""
        found = [f"the manifest says otherwise: {line}"
                 for line in self.inspection["disagreements"][:1]]
        if self.parity is not None and not self.parity["passed"]:
            wrong = sum(not one["passed"] for one in self.parity["verdicts"])
            found.append(f"{wrong} of {len(self.parity['verdicts'])} checks of parity failed")
        return found


@dataclass(frozen=True)
class Request:
    """What a page is asked to show.

    checkpoint  a file to compare the bundle with, read with ``options_file`` if there is one
    against     baselines to measure; None: no latency at all
    size        (height, width) of the network's input for latency, counts and parity
    """

    bundle: Bundle
    inputs: Sequence[Input] = ()
    checkpoint: str | None = None
    options_file: str | None = None
    backend: str = "onnxruntime"
    threads: int | None = None
    size: tuple[int, int] = (256, 256)
    steps: int | None = None
    seed: int = 0
    against: Sequence[str] | None = ()
    rounds: int = 10


def collect(request: Request, on_progress: OnProgress = lambda share, label: None) -> Report:
    """Measure. Raises BidiffError for what the user can mend; what an optional package lacks is
    told in ``missing``."""
    from ..doctor import examine
    from ..inspect_bundle import inspect_bundle

    bundle, inputs = request.bundle, list(request.inputs)
    sizes = _validate(request)
    left_out = tuple(one.name for one in inputs[MOST_IMAGES:])
    inputs = inputs[:MOST_IMAGES]
    missing: dict[str, str] = {}
    stages = _Stages(on_progress, {
        "inspect": 3, "parity": 30 if request.checkpoint else 0, "images": sum(sizes),
        "strip": 3 * bool(inputs), "bench": 0 if request.against is None else 20})
    stages.enter("inspect")
    found: dict[str, Any] = {
        "inspection": inspect_bundle(bundle.path, request.size).to_dict(), "doctor": examine()}

    def attempt(name: str, measure: Callable[[], Any]) -> Any:
        stages.enter(name)
        try:
            return measure()
        except EngineError as error:
            missing[name] = str(error)
            return None

    if request.checkpoint is None:
        missing["parity"] = ("no checkpoint was given; name it after the bundle to compare the "
                             "two layer by layer")
    else:
        found["parity"] = attempt("parity", lambda: _parity(request, stages))
    if not inputs:
        reason = "no images were given; name some after the bundle, or originals with --truth"
        missing.update(images=reason, strip=reason)
    else:
        pictures: list[Picture] = []
        found["engine"] = attempt("images", lambda: _pictures(request, inputs, sizes, stages, pictures))
        found["pictures"] = tuple(pictures)
        found["strip"] = attempt("strip", lambda: _strip(request, inputs[0], stages))
    if request.against is None:
        missing["bench"] = "it was left out (--no-bench)"
    else:
        found["bench"] = attempt("bench", lambda: _bench(request, stages))
    options = {"backend": request.backend, "threads": request.threads or os.cpu_count(),
               "size": list(request.size), "steps": request.steps, "seed": request.seed}
    return Report(datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), options,
                  missing=missing, left_out=left_out, **found)


class _Stages:
    """Shares of the whole from shares of its stages, whose weights are about their seconds."""

    def __init__(self, report: OnProgress, weights: dict[str, float]) -> None:
        self._report, self._weights = report, weights
        self._total = sum(weights.values())
        self._before, self._name = 0.0, ""

    def enter(self, name: str) -> None:
        self._before += self._weights.get(self._name, 0.0)
        self._name = name
        self.at(0.0)

    def at(self, share: float, label: str | None = None) -> None:
        done = self._before + share * self._weights[self._name]
        self._report(done / self._total, f"report, {label or self._name}")


def _validate(request: Request) -> list[float]:
    """Raise now what would otherwise be told after minutes; returns about how many seconds each
    image will take."""
    from ..engines import BACKENDS
    from ..noise import gaussian_noise

    bundle = request.bundle
    if request.backend not in BACKENDS:
        raise EngineError(f"backend {request.backend!r} is not known; known are "
                          f"{', '.join(BACKENDS)}")
    visited = sampler.pick_timesteps(bundle.timesteps, request.steps, bundle.default_start)
    gaussian_noise((1, 1, 1, 1), request.seed)
    multiple = bundle.config.size_multiple
    if any(side % multiple for side in request.size):
        raise UsageError(f"size {request.size[0]}x{request.size[1]} must be multiples of "
                         f"{multiple}")
    if request.against:
        from ..proof.candidates import BASELINES

        if unknown := [name for name in request.against if name not in BASELINES]:
            raise UsageError(f"{unknown[0]!r} can not be measured against; known are "
                             f"{', '.join(BASELINES)}")
    if request.checkpoint is not None and not os.path.exists(request.checkpoint):
        raise CheckpointError(f"{request.checkpoint} does not exist")
    lows = (one.read(bundle.scale)[0] for one in list(request.inputs)[:MOST_IMAGES])
    return [1 + _PIXEL_SECONDS * len(visited) * low.shape[0] * low.shape[1] * bundle.scale ** 2
            for low in lows]


def _parity(request: Request, stages: _Stages) -> dict[str, Any]:
    from ..checkpoint import read_checkpoint
    from ..options import Options, read_options

    for name, extra in (("torch", "train"), ("polygraphy", "proof")):
        if importlib.util.find_spec(name) is None:
            raise EngineError(f"{name} is not installed; pip install 'bidiff-deploy[{extra}]'")
    from ..proof.check import check_bundle

    bundle, path = request.bundle, request.checkpoint
    assert path is not None
    checkpoint: Checkpoint
    if request.options_file:
        checkpoint = read_checkpoint(path, read_options(request.options_file))
    else:
        try:
            checkpoint = read_checkpoint(path, Options(bundle.config.to_dict()))
        except CheckpointError:
            checkpoint = read_checkpoint(path)
    # One image: its loop runs three times, twice of them in torch.
    first = next(iter(request.inputs), None)
    images = [str(first.low)] if first and first.low else []
    truths = [str(first.truth)] if first and first.truth else []
    return check_bundle(bundle, checkpoint, backend=request.backend, threads=request.threads,
                        size=request.size if first else None, images=images, truths=truths,
                        on_progress=lambda done, total: stages.at(0.8 * done / total)).to_dict()


def _pictures(request: Request, inputs: Sequence[Input], seconds: Sequence[float],
              stages: _Stages, found: list[Picture]) -> str:
    """Fills ``found``; returns the engine's description."""
    budget = (PICTURE_BYTES - _STRIP_BYTES) // len(inputs)
    with _engine(request) as engine:
        for index, one in enumerate(inputs):
            def report(done: int, total: int, index: int = index, name: str = one.name) -> None:
                before = sum(seconds[:index])
                stages.at((before + seconds[index] * done / total) / sum(seconds), name)

            found.append(_picture(engine, one, request, budget, report))
        return engine.description


def _engine(request: Request) -> Engine:
    from .. import load_bundle

    return load_bundle(request.bundle.path, threads=request.threads, backend=request.backend)


def _picture(engine: Engine, one: Input, request: Request, budget: int,
             on_step: Callable[[int, int], None]) -> Picture:
    low, truth = one.read(engine.scale)
    height, width = (engine.scale * side for side in low.shape[:2])
    started = time.perf_counter()
    ours = engine.upscale(low, request.seed, steps=request.steps, on_step=on_step)
    seconds = time.perf_counter() - started
    pictures = {"bicubic": resized(low, width, height), "packed": ours}
    scores = {} if truth is None else {name: _scores(picture, truth, engine.scale)
                                       for name, picture in pictures.items()}
    if truth is not None:
        pictures["original"] = truth
    top, left, side = detail(ours if truth is None else truth)
    parts = {name: np.ascontiguousarray(picture[top:top + side, left:left + side])
             for name, picture in pictures.items()}
    cut = encode(parts, budget // 4)
    used = 0 if cut is None else sum(map(len, cut.uris.values()))
    return Picture(one.name, width, height, low.shape[1], low.shape[0], seconds, one.low is None,
                   scores, (top, left, side), encode(pictures, budget - used), cut)


def _scores(picture: np.ndarray, truth: np.ndarray, border: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, measure in (("psnr_y", psnr_y), ("ssim_y", ssim_y)):
        try:
            value = measure(picture, truth, border)
        except ImageError:  # too small
            value = math.nan
        found[name] = value if math.isfinite(value) else None
    return found


def _strip(request: Request, one: Input, stages: _Stages) -> Strip:
    """The loop of the image's middle, watched: what the network sees, and what it makes of it."""
    from ..engines.base import PADDING_MULTIPLE
    from ..noise import gaussian_noise
    from ..resample import pad_reflect, to_condition

    low, _ = one.read(request.bundle.scale)
    with _engine(request) as engine:
        side = max(1, STRIP_SIDE // engine.scale)
        window = [slice((have - min(have, side)) // 2, (have - min(have, side)) // 2
                        + min(have, side)) for have in low.shape[:2]]
        condition = to_condition(np.ascontiguousarray(low[tuple(window)]), engine.scale)[None]
        visited = sampler.pick_timesteps(engine.timesteps, request.steps, engine.default_start)
        padded, (height, width) = pad_reflect(
            condition, math.lcm(PADDING_MULTIPLE, engine.size_multiple))
        kept = sorted({round(index * (len(visited) - 1) / max(_STRIP_FRAMES - 1, 1))
                       for index in range(_STRIP_FRAMES)})
        seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        alphas = engine.schedule.alphas_cumprod

        def predict(latent: np.ndarray, given: np.ndarray, timestep: int) -> np.ndarray:
            noise = engine.predict(latent, given, timestep)
            index = visited.index(timestep)
            if index in kept:
                seen[index] = latent.copy(), sampler.ddim_update(latent, noise,
                                                                 alphas[timestep], 1.0)
            return noise

        final = sampler.sample(predict, padded, visited, engine.schedule,
                               gaussian_noise(padded.shape, request.seed),
                               start=engine.default_start,
                               on_step=lambda done, total: stages.at(done / total))
    frames, pictures = [], {}
    for index, (latent, estimate) in sorted(seen.items()):
        timestep = visited[index]
        pictures[f"latent{index}"] = _pixels(latent, height, width)
        pictures[f"estimate{index}"] = _pixels(estimate, height, width)
        difference = (np.clip(estimate, 0, 1) - final)[..., :height, :width]
        frames.append(Frame(timestep, index + 1, float(1 - alphas[timestep]),
                            255 * float(np.sqrt(np.mean(difference ** 2)))))
    shown = encode(pictures, _STRIP_BYTES)
    if shown is None:
        raise EngineError("its pictures do not fit the page")
    return Strip(one.name, width, height, len(visited), tuple(frames), shown)


def _pixels(batch: np.ndarray, height: int, width: int) -> np.ndarray:
    image = np.clip(batch[0, :, :height, :width], 0, 1).transpose(1, 2, 0)
    return np.ascontiguousarray(np.rint(255 * image).astype(np.uint8))


def _bench(request: Request, stages: _Stages) -> dict[str, Any]:
    from ..proof.bench import bench_bundle

    return bench_bundle(request.bundle, size=request.size,
                        threads=request.threads or os.cpu_count() or 1,
                        against=request.against or (), steps=request.steps, rounds=request.rounds,
                        bounds=True, on_progress=stages.at).to_dict()
