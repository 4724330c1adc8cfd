"""Upscaling many image files with one engine: the stages of the pipeline, and what they report."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.manifest import manifest_digest
from ..errors import OutputError
from ..files import make_directory
from ..images.image import Image
from ..images.read import decode_image, read_bytes
from ..images.write import check_output, write_image
from . import pipeline
from .journal import Journal, Record
from .pipeline import Failure

if TYPE_CHECKING:
    from ..engines.image_engine import ImageEngine
    from ..images.tiles import TilePlan
    from .jobs import Job, Jobs

__all__ = ["Result", "bundle_digest", "finished_before", "upscale_files"]

Result = dict[str, Any]  # what --json prints of an image
Listen = Callable[["Job", "TilePlan"], Mapping[str, Any]]


@dataclass
class _Work:
    """An image on its way, the digest of its file, its seconds so far, and how it was tiled."""

    image: Image
    input_digest: str
    seconds: float
    plan: Mapping[str, int] | None = None


def upscale_files(engine: ImageEngine, jobs: Jobs, options: Mapping[str, Any],
                  report: Callable[[Job, Result], None], *, overwrite: bool = False,
                  journal: Journal | None = None, recorded: Mapping[str, Any] | None = None,
                  done: Mapping[Path, Record] | None = None,
                  listen: Listen = lambda job, plan: {}) -> None:
    """Upscale every job that is not ``done``; ``report`` gets each, in order, as it ends.

    options   of ``ImageEngine.upscale_image``; ``listen(job, plan)`` gives those that tell of progress
    journal   is told of every output, made with the options ``recorded``
    done      records of outputs that need no work, by their path

    A file that fails is reported with ``error`` and the others go on. Raises what no single file
    is to blame for, KeyboardInterrupt among them, after what was computed is written.
    """
    done = done or {}
    stages = _Stages(engine, dict(options), overwrite, journal, dict(recorded or options), listen)
    waiting = list(jobs)

    def pass_skipped(index: int) -> None:
        while waiting and waiting[0].index < index:
            job = waiting.pop(0)
            record = done[job.target]
            report(job, {"input": str(job.source), "output": str(job.target),
                         "width": record.width, "height": record.height, "skipped": True})

    def finished(job: Job, result: Any) -> None:
        pass_skipped(job.index)
        waiting.pop(0)
        report(job, stages.failure(job, result) if isinstance(result, Failure) else result)

    pipeline.run([job for job in jobs if job.target not in done], stages.decode, stages.compute,
                 stages.encode, finished)
    pass_skipped(len(jobs))


class _Stages:
    def __init__(self, engine: ImageEngine, options: dict[str, Any], overwrite: bool,
                 journal: Journal | None, recorded: dict[str, Any],
                 listen: Listen) -> None:
        self.engine, self.options, self.overwrite = engine, options, overwrite
        self.journal, self.recorded, self.listen = journal, recorded, listen
        self.tiles = {name: self.options[name] for name in ("tile", "memory", "overlap")
                      if name in self.options}
        self.bundle = bundle_digest(engine) if journal is not None else ""

    def decode(self, job: Job) -> _Work:
        started = time.monotonic()
        data = read_bytes(job.source)
        image = decode_image(data, job.source)
        # Now, and not when the work is done: the format may not hold the image.
        make_directory(job.target.parent)
        check_output(job.target, self.overwrite, image, self.engine.scale)
        digest = hashlib.sha256(data).hexdigest() if self.journal is not None else ""
        return _Work(image, digest, time.monotonic() - started)

    def compute(self, job: Job, work: _Work) -> _Work:
        started = time.monotonic()
        plan = self.engine.tile_plan(work.image.height, work.image.width, **self.tiles)
        larger = self.engine.upscale_image(work.image, **self.options, **self.listen(job, plan))
        return _Work(larger, work.input_digest, work.seconds + time.monotonic() - started,
                     plan.to_dict())

    def encode(self, job: Job, work: _Work) -> Result:
        started = time.monotonic()
        image = work.image

        def record(whole: Path) -> None:
            if self.journal is not None:
                content = whole.read_bytes()
                self.journal.add(job.target, Record(
                    work.input_digest, self.bundle, self.recorded, image.width, image.height,
                    len(content), hashlib.sha256(content).hexdigest()))

        left_out = write_image(job.target, image, overwrite=self.overwrite, on_whole=record)
        result: Result = {
            "input": str(job.source), "output": str(job.target), "width": image.width,
            "height": image.height,
            "seconds": round(work.seconds + time.monotonic() - started, 3),
            "seed": self.options["seed"], "plan": work.plan}
        warnings = [*image.metadata.dropped, *left_out]
        return result | ({"warnings": warnings} if warnings else {})

    def failure(self, job: Job, failure: Failure) -> Result:
        message = str(failure.error)
        if isinstance(failure.error, MemoryError):
            message = (f"there is not enough memory to upscale {job.source}; allow less "
                       "with --memory or --tile")
        return {"input": str(job.source), "error": message}


def finished_before(jobs: Jobs, journal: Journal, engine: ImageEngine, recorded: Mapping[str, Any],
                    overwrite: bool = False) -> dict[Path, Record]:
    """Which outputs are there, whole, and what the same run would make; with their records.

    Raises OutputError for another output that is there, unless it may be overwritten.
    """
    bundle = bundle_digest(engine)
    done: dict[Path, Record] = {}
    for job in jobs:
        if not os.path.lexists(job.target):
            continue
        reason = journal.why_not(job.target, job.source, bundle, recorded)
        if reason is None:
            record = journal.record(job.target)
            assert record is not None
            done[job.target] = record
        elif not overwrite:
            raise OutputError(f"{job.target} already exists and --resume can not skip it: "
                              f"{reason}; allow it to be replaced with --overwrite")
    return done


def bundle_digest(engine: ImageEngine) -> str:
    """SHA-256 of a bundle's manifest, which holds the hash of each of its files."""
    return manifest_digest(engine.bundle.manifest)
