"""Measure everything that a page shows."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..bundle.record import LatentBundle, NoisePredictorBundle
from ..errors import BidiffError, CheckpointError, EngineError, UsageError
from ..machine import default_threads
from .loop import Picture, Strip, upscaled, watched
from .pictures import Input
from .request import Request

if TYPE_CHECKING:
    from ..checkpoint.record import Checkpoint

MAX_IMAGES = 12
_PIXEL_SECONDS = 2e-6  # of a step, for the estimate of the time left
OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class Report:
    """What a page shows: JSON-ready parts as their own commands print them, images, and for each
    part that is ``missing`` the reason; ``failed``: a sentence for each image that is not shown."""

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
    failed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the pixels."""
        return {
            "format": "bidiff-report", "created": self.created, "options": self.options,
            "engine": self.engine, "pictures": [one.to_dict() for one in self.pictures],
            "strip": None if self.strip is None else self.strip.to_dict(),
            "parity": self.parity, "bench": self.bench, "inspection": self.inspection,
            "doctor": self.doctor, "missing": self.missing, "failed": list(self.failed),
            "left_out": list(self.left_out)}

    @property
    def failures(self) -> list[str]:
        """Sentences: what is wrong with the bundle."""
        found = [f"the manifest says otherwise: {line}"
                 for line in self.inspection["disagreements"][:1]]
        if self.parity is not None and not self.parity["passed"]:
            wrong = sum(not one["passed"] for one in self.parity["verdicts"])
            found.append(f"{wrong} of {len(self.parity['verdicts'])} checks of parity failed")
        return found


def collect(request: Request, on_progress: OnProgress = lambda share, label: None) -> Report:
    """Measure everything that the request asks for. Raises BidiffError for what the user can
    correct, unless it concerns some images alone, which are listed in ``failed``; a part that lacks
    an optional package is listed in ``missing``."""
    from ..doctor.examine import examine
    from ..proof.inspect.inspection import inspect_bundle

    bundle = request.bundle
    _validate(request)
    left_out = tuple(one.name for one in request.inputs[MAX_IMAGES:])
    failed: list[str] = []
    seconds = _readable(request, failed)
    inputs = list(seconds)
    missing: dict[str, str] = {}
    stages = _Stages(on_progress, {
        "inspect": 3, "parity": 30 if request.checkpoint else 0, "images": sum(seconds.values()),
        "strip": 3 * bool(inputs), "bench": 0 if request.against is None else 20})
    stages.enter("inspect")
    found: dict[str, Any] = {
        "inspection": {**inspect_bundle(bundle.path, request.input_size).to_dict(),
                       "bundle": request.name}, "doctor": examine()}

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
        found["parity"] = attempt("parity", lambda: _parity(request, inputs, stages))
    if not inputs:
        reason = "no images were given; name some after the bundle, or originals with --truth"
        missing.update(images=reason, strip=reason)
    else:
        pictures: list[Picture] = []
        found["engine"] = attempt("images", lambda: upscaled(request, seconds, pictures, failed,
                                                             stages.at))
        found["pictures"] = tuple(pictures)
        if isinstance(bundle, LatentBundle):
            missing["strip"] = "the steps of a latent network are latents, not pictures"
        else:
            found["strip"] = attempt("strip", lambda: watched(request, inputs[0], stages.at))
    if request.against is None:
        missing["bench"] = "--bench measures it"
    elif isinstance(bundle, LatentBundle):
        missing["bench"] = "bidiff-deploy bench measures the parts of a latent network"
    else:
        found["bench"] = attempt("bench", lambda: _bench(request, stages))
    options = {"backend": request.backend, "threads": request.threads or default_threads(),
               "size": list(request.size), "steps": request.steps, "seed": request.seed}
    return Report(datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), options,
                  missing=missing, failed=tuple(failed), left_out=left_out, **found)


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


def _validate(request: Request) -> None:
    """Raise BidiffError now for what would otherwise fail after minutes."""
    from ..engines import BACKENDS
    from ..sampling.noise import gaussian_noise

    bundle = request.bundle
    if request.backend not in BACKENDS:
        raise EngineError(f"backend {request.backend!r} is not known; known are "
                          f"{', '.join(BACKENDS)}")
    assert request.visited
    gaussian_noise((1, 1, 1, 1), request.seed)
    multiple = bundle.network.size_multiple(bundle.config)
    multiple *= request.size[0] // max(request.input_size[0], 1)
    if any(side % multiple for side in request.size):
        raise UsageError(f"size {request.size[0]}x{request.size[1]} must be multiples of "
                         f"{multiple}")
    if request.against:
        from ..proof.bench.candidates import BASELINES

        if unknown := [name for name in request.against if name not in BASELINES]:
            raise UsageError(f"{unknown[0]!r} cannot be measured against; known are "
                             f"{', '.join(BASELINES)}")
    if request.checkpoint is not None and not os.path.exists(request.checkpoint):
        raise CheckpointError(f"{request.checkpoint} does not exist")


def _readable(request: Request, failed: list[str]) -> dict[Input, float]:
    """The images that can be read, at most ``MAX_IMAGES``, and about how many seconds each takes;
    fills ``failed``. Raises the error of the first if none can."""
    bundle, found = request.bundle, {}
    steps = len(request.visited)
    first: BidiffError | None = None
    for one in request.inputs[:MAX_IMAGES]:
        try:
            height, width = one.read(bundle.scale)[0].shape[:2]
        except BidiffError as error:
            first = first or error
            failed.append(str(error))
        else:
            found[one] = 1 + _PIXEL_SECONDS * steps * height * width * bundle.scale ** 2
    if first is not None and not found:
        raise first
    return found


def _parity(request: Request, inputs: Sequence[Input], stages: _Stages) -> dict[str, Any]:
    from ..checkpoint.options import Options, read_options
    from ..checkpoint.read import read_checkpoint
    from ..checkpoint.record import at_scale

    for name, extra in (("torch", "train"), ("polygraphy", "proof")):
        if importlib.util.find_spec(name) is None:
            raise EngineError(f"{name} is not installed; pip install 'bidiff-deploy[{extra}]'")
    from ..proof.check.noise_predictor import check_bundle

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
    checkpoint = at_scale(checkpoint, bundle.scale)
    if isinstance(bundle, LatentBundle):
        from ..proof.check.latent import check_latent

        return check_latent(
            bundle, checkpoint, backend=request.backend, threads=request.threads,
            size=request.input_size, images=[str(one.low) for one in inputs[:1] if one.low],
            on_progress=lambda done, total: stages.at(0.8 * done / total)).to_dict()
    # One image: its loop runs three times, twice of them in torch.
    first = next(iter(inputs), None)
    images = [str(first.low)] if first and first.low else []
    truths = [str(first.truth)] if first and first.truth else []
    return check_bundle(bundle, checkpoint, backend=request.backend, threads=request.threads,
                        size=request.size if first else None, images=images, truths=truths,
                        on_progress=lambda done, total: stages.at(0.8 * done / total)).to_dict()


def _bench(request: Request, stages: _Stages) -> dict[str, Any]:
    from ..proof.bench.measure import bench_bundle

    assert isinstance(request.bundle, NoisePredictorBundle)
    return bench_bundle(request.bundle, size=request.size,
                        threads=request.threads or default_threads(),
                        against=request.against or (), steps=request.steps, rounds=request.rounds,
                        bounds=True, on_progress=stages.at).to_dict()
