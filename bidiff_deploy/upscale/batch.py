"""Upscales many image files: the stages of the pipeline, and their results."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..bundle.manifest import manifest_digest
from ..errors import BidiffError, OutputError
from ..files import make_directory
from ..images.image import Image
from ..images.read import MAX_PIXELS, decode_image, read_bytes
from ..images.reduce import reduced, size_within
from ..images.write import check_output, write_image
from . import pipeline
from .journal import Journal, Record
from .pipeline import Failure

if TYPE_CHECKING:
    from ..engines.image_engine import ImageEngine
    from ..images.tiles import TilePlan
    from ..sampling.sampler import OnStep
    from .jobs import Job, Jobs
    from .options import UpscaleOptions

__all__ = ["Batch", "EngineOf", "Listener", "Result", "where"]

Result = dict[str, Any]  # what --json prints for an image
EngineOf = Callable[[Path], "ImageEngine"]  # which engine upscales a file


class Listener(Protocol):
    """Follows a run; its methods are called in the order of the jobs, except that outputs which
    another run is writing come last."""

    def begin(self, job: Job, plan: TilePlan) -> Mapping[str, OnStep]:
        """An image is about to be computed; returns ``on_step`` or ``on_tile`` for it, or neither.
        """

    def wait(self, job: Job) -> None:
        """Another run is writing the job's output; this one waits for it, with nothing else left.
        """

    def end(self, job: Job, result: Result) -> None:
        """A job is finished or skipped, or has failed (``result["error"]``)."""


def where(plan: TilePlan, done: int, total: int) -> str:
    """What a call of ``on_step`` means: "tile 2 of 9, step 3 of 4", or the step alone."""
    each = max(total // plan.count, 1)
    tile, step = divmod(done - 1, each)
    first = "" if plan.count == 1 else f"tile {tile + 1} of {plan.count}, "
    return f"{first}step {step + 1} of {each}"


@dataclass(frozen=True)
class _Work:
    """An image between two stages.

    image         as it was decoded, then as it was computed
    input_digest  of its file
    seconds       spent so far
    size          (width, height) of the output
    note          why this is not the size that was asked for, or how it was reached
    plan          its tiles; None: it is not upscaled
    """

    image: Image
    input_digest: str
    seconds: float
    size: tuple[int, int]
    note: str | None = None
    plan: Mapping[str, int] | None = None


class _Claimed(BidiffError):
    """Another run is writing the output."""


class _Finished(BidiffError):
    """Another run has written the output since this one began."""


class Batch:
    """The jobs of one run; ``engine_of`` names the open engine of each, all of one scale.

    With a journal, runs in one folder share their work: each output is computed by the run that
    claims it first. ``fit``: the longest side of each output in pixels; None: what the scale gives.

    recorded   what the journal records of the options that pixels depend on
    finished   records of outputs that need no work, by their path; see ``find_finished``
    """

    def __init__(self, engine_of: EngineOf, jobs: Jobs, options: UpscaleOptions, *, backend: str,
                 journal: Journal | None = None, overwrite: bool = False,
                 quality: int | None = None, max_pixels: int = MAX_PIXELS,
                 fit: int | None = None) -> None:
        self._engine_of, self._jobs, self._options, self._fit = engine_of, jobs, options, fit
        self._quality, self._max_pixels = quality, max_pixels
        self._journal, self._overwrite, self._resumes = journal, overwrite, False
        self._digests: dict[int, str] = {}
        self.recorded = {"backend": backend, **options.to_dict(),
                         **({} if quality is None else {"quality": quality}),
                         **({} if fit is None else {"fit": fit})}
        self.finished: dict[Path, Record] = {}

    @property
    def waiting(self) -> list[Job]:
        """The jobs that are not finished."""
        return [job for job in self._jobs if job.target not in self.finished]

    def find_finished(self) -> None:
        """Find the outputs that exist, are whole, and would be the same if made again.

        Raises OutputError for any other output that exists, unless it may be replaced.
        """
        self._resumes = self._journal is not None
        for job in self._jobs if self._resumes else ():
            reason = self._examine(job)
            if reason is not None and not self._overwrite:
                raise OutputError(f"{job.target} already exists and --resume cannot skip it: "
                                  f"{reason}; allow it to be replaced with --overwrite")

    def _examine(self, job: Job) -> str | None:
        """Add the job to ``finished`` if its output is what would be made. Returns why not; None
        also if there is no output."""
        if self._journal is None or not os.path.lexists(job.target):
            return None
        reason = self._journal.why_not(job.target, job.source, self._bundle(job), self.recorded)
        record = self._journal.record(job.target)
        if reason is None and record is not None:
            self.finished[job.target] = record
        return reason

    def run(self, listener: Listener) -> None:
        """Upscale every job that is not finished.

        A file that fails gets a result with ``error`` and the others go on. Raises every error that
        is not a single file's, such as KeyboardInterrupt, after what was computed is written.
        """
        skipped = [job for job in self._jobs if job.target in self.finished]
        claimed: list[Job] = []

        def skip(job: Job) -> None:
            record = self.finished[job.target]
            listener.end(job, {"input": str(job.source), "output": str(job.target),
                               "width": record.width, "height": record.height, "skipped": True})

        def skip_before(index: int) -> None:
            while skipped and skipped[0].index < index:
                skip(skipped.pop(0))

        def compute(job: Job, work: _Work) -> _Work:
            return self._compute(job, work, listener)

        def end(job: Job, result: Any) -> None:
            if isinstance(result, Failure) and isinstance(result.error, _Claimed):
                claimed.append(job)
                return
            skip_before(job.index)
            if not isinstance(result, Failure):
                listener.end(job, result)
                return
            self._release(job)
            if isinstance(result.error, _Finished) or self._was_overtaken(job, result.error):
                skip(job)
            else:
                listener.end(job, _failed(job, result))

        try:
            pipeline.run(self.waiting, self._decode, compute, self._encode, end)
            skip_before(len(self._jobs))
            for job in claimed:
                listener.wait(job)
                assert self._journal is not None
                self._journal.claim(job.target, wait=True)
                pipeline.run([job], self._decode, compute, self._encode, end)
        finally:
            if self._journal is not None:
                self._journal.close()

    def _release(self, job: Job) -> None:
        if self._journal is not None:
            self._journal.release(job.target)

    def _was_overtaken(self, job: Job, error: Exception) -> bool:
        """Whether a job failed because another run was quicker, where files have no locks."""
        if not (self._resumes and isinstance(error, OutputError)):
            return False
        self._examine(job)
        return job.target in self.finished

    def _decode(self, job: Job) -> _Work:
        started = time.monotonic()
        data = read_bytes(job.source, self._max_pixels)
        image = decode_image(data, job.source, self._max_pixels)
        make_directory(job.target.parent)
        if self._journal is not None and not self._journal.claim(job.target):
            raise _Claimed
        if self._resumes and self._examine(job) is None and job.target in self.finished:
            raise _Finished
        size, note = self._size(image, self._engine_of(job.source).scale)
        # Before the work is done: the format may be unable to store the image.
        check_output(job.target, self._overwrite, image, size)
        digest = hashlib.sha256(data).hexdigest() if self._journal is not None else ""
        return _Work(image, digest, time.monotonic() - started, size, note)

    def _bundle(self, job: Job) -> str:
        """The digest of the bundle that computes a job."""
        engine = self._engine_of(job.source)
        if id(engine) not in self._digests:
            # The manifest contains the hash of each of the bundle's files.
            self._digests[id(engine)] = manifest_digest(engine.bundle.manifest)
        return self._digests[id(engine)]

    def _size(self, image: Image, scale: int) -> tuple[tuple[int, int], str | None]:
        """(width, height) of the output, and why it is not what was asked for, or is not
        upscaled."""
        fit = self._fit
        longest = max(image.width, image.height)
        if fit is None:
            return (image.width * scale, image.height * scale), None
        if longest >= fit:
            return size_within(image.width, image.height, fit), (
                f"it is not upscaled: its longest side has {longest} pixels already"
                + (f" and is reduced to {fit}" if longest > fit else ""))
        if longest * scale < fit:
            return (image.width * scale, image.height * scale), (
                f"its longest side becomes {longest * scale} pixels, not {fit}: the model upscales "
                f"by {scale}; choose a model of a larger --scale, or upscale the result again")
        return size_within(image.width, image.height, fit), None

    def _compute(self, job: Job, work: _Work, listener: Listener) -> _Work:
        if self._fit is not None and max(work.image.width, work.image.height) >= self._fit:
            return work
        started = time.monotonic()
        engine = self._engine_of(job.source)
        plan = self._options.plan(engine, work.image.height, work.image.width)
        larger = self._options.upscale(engine, work.image, plan, **listener.begin(job, plan))
        return replace(work, image=larger, plan=plan.to_dict(),
                       seconds=work.seconds + time.monotonic() - started)

    def _encode(self, job: Job, work: _Work) -> Result:
        started = time.monotonic()
        image = reduced(work.image, *work.size)

        def record(whole: Path) -> None:
            if self._journal is not None:
                content = whole.read_bytes()
                self._journal.add(job.target, Record(
                    work.input_digest, self._bundle(job), self.recorded, image.width, image.height,
                    len(content), hashlib.sha256(content).hexdigest()))

        left_out = write_image(job.target, image, overwrite=self._overwrite,
                               quality=self._quality, on_whole=record)
        self._release(job)
        result: Result = {
            "input": str(job.source), "output": str(job.target), "width": image.width,
            "height": image.height,
            "seconds": round(work.seconds + time.monotonic() - started, 3),
            "seed": self._options.seed, "plan": work.plan}
        warnings = [*filter(None, (job.note, work.note)), *image.metadata.dropped, *left_out]
        return result | ({"warnings": warnings} if warnings else {})


def _failed(job: Job, failure: Failure) -> Result:
    message = str(failure.error)
    if isinstance(failure.error, MemoryError):
        message = (f"there is not enough memory to upscale {job.source}; allow less with --memory "
                   "or --tile")
    return {"input": str(job.source), "error": message}
