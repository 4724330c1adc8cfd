"""What ``bidiff-deploy upscale`` shows: progress, a line for each image, and the last line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import printable
from ._shared import print_line, print_note

if TYPE_CHECKING:
    from ..images.tiles import TilePlan
    from ..progress import Progress
    from ..sampling.sampler import OnStep
    from ..upscale.batch import Result
    from ..upscale.jobs import Job
    from ..upscale.shard import Shard


class Screen:
    """The Listener that prints results and progress; ``results``: of all jobs that ended."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.results: list[Result] = []
        self.shows_results = not (quiet or as_json)

    def follow(self, progress: Progress, waiting: list[Job], count: int, fuses_loop: bool) -> None:
        """Show the run of the ``waiting`` of ``count`` jobs.

        ``fuses_loop``: whether the engine's loops are faster without ``on_step``, which is then
        used only for progress on a terminal.
        """
        # Skipped jobs take no time, so the estimate must not count them.
        progress.total = len(waiting)
        self._progress, self._count = progress, count
        self._places = {job.index: place for place, job in enumerate(waiting)}
        self._by_tiles = fuses_loop and not progress.on_terminal

    def begin(self, job: Job, plan: TilePlan) -> dict[str, OnStep]:
        from ..upscale.batch import where

        progress, place = self._progress, self._places[job.index]
        label = f"[{job.index + 1}/{self._count}] " if self._count > 1 else ""
        label += job.source.name
        progress.update(place, label)

        def on_step(done: int, total: int) -> None:
            progress.update(place + done / total, f"{label}, {where(plan, done, total)}")

        def on_tile(done: int, total: int) -> None:
            progress.update(place + done / total, f"{label}, tile {done} of {total}")

        if not progress.shown:
            return {}
        return {"on_tile": on_tile} if self._by_tiles else {"on_step": on_step}

    def wait(self, job: Job) -> None:
        if self._progress.shown:
            self._progress.clear()
            print_note(f"waiting for another run, which is writing {job.target}")

    def end(self, job: Job, result: Result) -> None:
        self.results.append(result)
        self._progress.clear()
        if self.shows_results and "error" not in result:
            print_line(printable(_line(result)))
        for warning in result.get("warnings", ()):
            print_note(f"warning: {job.source}: {warning}")


def _line(result: Result) -> str:
    if result.get("skipped"):
        return f"{result['output']}: skipped, it exists and is whole"
    return (f"{result['output']}: {result['width']}x{result['height']}, "
            f"{result['seconds']:.1f} s")


def ending(results: list[Result], passed_over: int, output: str, shard: Shard | None) -> str:
    """The last line: how many images of how many were written, and what of the others."""
    failed = sum("error" in result for result in results)
    skipped = sum(bool(result.get("skipped")) for result in results)
    others = ", ".join(f"{count} {what}" for count, what in (
        (skipped, "of them before"), (failed, "failed"), (passed_over, "passed over"),
        ("shard", shard)) if count and what)
    count = f"{len(results) - failed} of {len(results) + passed_over}"
    return f"{count} written to {output.rstrip('/')}/" + (f" ({others})" if others else "")
