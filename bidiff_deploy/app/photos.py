"""Photos of one page to larger ones, one at a time, with one engine for all pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BidiffError
from ..files.temporaries import remove
from ..images.kinds import is_jpeg_file
from ..models.open import open_model
from ..models.shipped import choose
from ..progress import Progress
from ..upscale.batch import Batch, Result, where
from ..upscale.jobs import Job, Jobs
from ..upscale.options import UpscaleOptions
from .pages import Work
from .previews import write_previews

if TYPE_CHECKING:
    from ..engines.image_engine import ImageEngine
    from ..images.tiles import TilePlan
    from ..sampling.sampler import OnStep

__all__ = ["OnProgress", "Stopped", "Upscaler"]

OnProgress = Callable[[float, str], object]  # the share of the work that is done, and in words


class Stopped(Exception):
    """The user stopped the work or closed the page."""


class Upscaler:
    """Computes one picture at a time.

    ``threads``: of an operator, None: all cores. ``max_pixels``: larger photos are refused.
    """

    def __init__(self, threads: int | None, max_pixels: int) -> None:
        self._threads, self._max_pixels = threads, max_pixels
        self._lock = threading.Lock()
        self._opened: tuple[tuple[str | None, int | None], ImageEngine] | None = None

    def run(self, work: Work, model: str | None, scale: int | None, on_progress: OnProgress
            ) -> Iterator[Path | None]:
        """Upscale the photos of ``work`` as ``bidiff-deploy upscale`` does, into its folder.

        ``model`` None: the default for each file's kind. Yields each larger photo, and None for
        one that failed, after adding a line to ``work.lines`` and previews to ``work.results``.
        Raises Stopped once ``work.stopped`` is set, and what ``open_model`` raises. Of abandoned
        work nothing is left.
        """
        try:
            with Progress("", len(work.photos), quiet=True) as progress:
                for place, photo in enumerate(work.photos):
                    name = model or choose(None, scale, jpeg=is_jpeg_file(photo)).name
                    with self._engine(work, name, scale) as engine:
                        follower = _Follower(work, progress, place, on_progress)
                        target = work.folder / f"{photo.stem}_x{engine.scale}.png"
                        Batch(lambda _: engine, Jobs([Job(0, photo, target)], work.folder, True),
                              UpscaleOptions(), backend="onnxruntime",
                              max_pixels=self._max_pixels).run(follower)
                        done = self._finish(work, photo, target, follower.result, engine.scale)
                    yield done
        finally:
            if work.abandoned:
                remove(work.folder)

    def close(self) -> None:
        """Wait for the picture that is being computed, and release the engine."""
        with self._lock:
            if self._opened is not None:
                self._opened[1].close()
                self._opened = None

    @contextmanager
    def _engine(self, work: Work, model: str | None, scale: int | None) -> Iterator[ImageEngine]:
        """The engine, which no one else uses meanwhile; kept open for the next photo."""
        with self._lock:
            if work.stopped.is_set():
                raise Stopped
            if self._opened is None or self._opened[0] != (model, scale):
                opened = open_model(model, scale=scale, threads=self._threads)
                if self._opened is not None:
                    self._opened[1].close()
                self._opened = (model, scale), opened
            yield self._opened[1]

    def _finish(self, work: Work, photo: Path, target: Path, result: Result, scale: int
                ) -> Path | None:
        if "error" in result:
            # Users know the file by its name alone.
            work.lines.append(str(result["error"]).replace(f"{photo.parent}/", ""))
            return None
        line = f"{target.name}: {result['width']}x{result['height']}, {result['seconds']:.1f} s"
        for warning in result.get("warnings", ()):
            line += f"; {warning}"
        try:
            work.results[target.name] = write_previews(photo, target, work.folder / "previews",
                                                       self._max_pixels * scale * scale)
        except (BidiffError, MemoryError):
            line += "; it is too large to be shown here"
        work.lines.append(line)
        return target


class _Follower:
    """The Listener of one photo: reports progress, stops the work, keeps the result."""

    def __init__(self, work: Work, progress: Progress, place: int, on_progress: OnProgress
                 ) -> None:
        self.result: Result = {}
        self._work, self._progress, self._place = work, progress, place
        self._on_progress = on_progress

    def begin(self, job: Job, plan: TilePlan) -> dict[str, OnStep]:
        count = int(self._progress.total or 1)
        label = f"[{self._place + 1}/{count}] " if count > 1 else ""
        label += job.source.name

        def on_step(done: int, total: int) -> None:
            if self._work.stopped.is_set():
                raise Stopped
            finished = self._place + done / total
            left = self._progress.left(finished)
            self._on_progress(finished / count, ", ".join(
                [label, where(plan, done, total), *([f"about {left} left"] if left else [])]))

        self._on_progress(self._place / count, label)
        return {"on_step": on_step}

    def wait(self, job: Job) -> None:
        """Never: without a journal nothing is shared with other runs."""

    def end(self, job: Job, result: Result) -> None:
        self.result = result
