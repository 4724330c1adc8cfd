"""``bidiff-deploy upscale``: bundle and images -> larger images."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..engines.image_engine import ImageEngine
    from ..progress import Progress
    from ..upscale.batch import Result
    from ..upscale.jobs import Job

# What can not be read is told by ourselves, in a sentence and with exit code 1.
PATH = click.Path(readable=False)
FORMATS = ("png", "jpg", "webp", "tif", "same")


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="IN...")
@click.option("-o", "--output", required=True, type=PATH,
              help="A file for one input file, or a folder, which is created if it is missing.")
@click.option("--seed", type=int, default=0, show_default=True,
              help="Of the noise; the same seed gives the same image.")
@click.option("--steps", type=int,
              help="Visit this many of the bundle's timesteps, evenly picked.")
@click.option("--start", metavar="T0|none",
              help="Begin at the first timestep from T0 down, from the noised input; 'none' "
                   "begins from pure noise. Default: what the bundle was made for.")
@click.option("--tile", metavar="auto|N|none", default="auto", show_default=True,
              help="Compute in tiles: N output pixels a side, none at all, or as large as the "
                   "memory allows.")
@click.option("--memory", metavar="SIZE",
              help="What tiles may be sized to, such as 2GB or 512MiB. Default: a part of what is "
                   "free.")
@click.option("--overlap", type=click.IntRange(min=0), metavar="N",
              help="Output pixels that tiles share with their neighbours.")
@click.option("--match-color", is_flag=True,
              help="Take the low frequencies of the input: no shift of colour stays, and no "
                   "detail is lost.")
@click.option("--threads", type=int, help="Threads an operator may use. Default: all cores.")
@click.option("--backend", default="onnxruntime", show_default=True,
              help="What runs the graphs: onnxruntime, onnxruntime-stock, onnxruntime-cuda, "
                   "tensorrt, tensorrt-dense or tensorrt-dense-int8.")
@click.option("--device", type=click.IntRange(min=0), metavar="N",
              help="Number of the GPU, with a backend that runs on one. Default: 0.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="png",
              show_default=True, help="Of images that go to a folder; 'same' as each input.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--resume", is_flag=True,
              help="Skip outputs that are there and whole, made of the same input by the same "
                   "bundle and options.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
def command(bundle: str, inputs: tuple[str, ...], output: str, seed: int, steps: int | None,
            start: str | None, tile: str, memory: str | None, overlap: int | None,
            match_color: bool, threads: int | None, backend: str, device: int | None, form: str,
            overwrite: bool, resume: bool, quiet: bool, as_json: bool) -> None:
    """Upscale the images IN... with BUNDLE.

    IN is a PNG, JPEG, WebP or TIFF file of 8 or 16 bits; a folder, of which all images at any
    depth are taken; or a quoted pattern such as 'photos/**/*.png'. Hidden files are not taken, and
    OUT keeps the subfolders. Depth, grey, alpha, colour profile, EXIF, XMP and resolution are kept
    as far as the output's format can; pixels are turned upright and thumbnails left out. Every
    image gets the same noise of --seed, so a result does not depend on what else is upscaled.

    A file that can not be read or written is reported at the end, the others are written, and the
    exit code is 1. Ctrl-C writes what is computed and ends with exit code 130; an output folder
    keeps a journal, .bidiff-upscale.jsonl, by which --resume goes on.
    """
    import json

    from .. import load_bundle
    from ..progress import Progress
    from ..upscale.batch import finished_before, upscale_files
    from ..upscale.jobs import plan
    from ..upscale.journal import Journal
    from ._shared import parse_start, tile_options

    options = {"seed": seed, "steps": steps, **tile_options(tile, memory, overlap)}
    if start is not None:
        options["start"] = parse_start(start)
    if match_color:  # only then, so that journals of before stay valid
        options["match_color"] = True
    # An existing output is looked at when the bundle it has to be of is known.
    jobs = plan(inputs, output, form, overwrite or resume)
    # Beside a single file it would be litter, unless it is asked for.
    journal = Journal(jobs.folder) if resume or not jobs.to_file else None
    results: list[Result] = []
    interrupted = 0
    try:
        with _termination(), \
                load_bundle(bundle, threads=threads, backend=backend, device=device) as engine, \
                Progress("upscale", len(jobs), quiet=quiet) as progress:
            _check_options(engine, options)
            recorded = {"backend": backend, "start": "default", **options}
            done = finished_before(jobs, journal, engine, recorded, overwrite) \
                if resume and journal is not None else {}

            # What is skipped takes no time, so it says nothing of the time that is left.
            place = {job.index: number for number, job in enumerate(
                job for job in jobs if job.target not in done)}
            progress.total = len(place)

            def report(job: Job, result: Result) -> None:
                results.append(result)
                progress.clear()
                if not (quiet or as_json or "error" in result):
                    click.echo(_line(result))
                for warning in result.get("warnings", ()):
                    click.echo(f"warning: {job.source}: {warning}", err=True)

            upscale_files(engine, jobs, options, report, overwrite=overwrite, journal=journal,
                          recorded=recorded, done=done,
                          listen=lambda job, plan: _listener(
                              progress, place[job.index], _label(job, len(jobs)), plan.count,
                              engine.fuses_loop))
    except KeyboardInterrupt as error:
        interrupted = error.args[0] if isinstance(error, _Terminated) else 2
    if as_json:
        click.echo(json.dumps(results, indent=1))
    failed = [result["error"] for result in results if "error" in result]
    for message in failed:
        click.echo(f"error: {message}", err=True)
    if interrupted:
        there = len(results) - len(failed)
        on = "; --resume goes on with the others" if journal is not None else ""
        click.echo(f"interrupted: {there} of {len(jobs)} images are written{on}", err=True)
        raise SystemExit(128 + interrupted)
    if failed:
        raise SystemExit(1)


def _line(result: Result) -> str:
    if result.get("skipped"):
        return f"{result['output']}: skipped, it is there and whole"
    return (f"{result['output']}: {result['width']}x{result['height']}, "
            f"{result['seconds']:.1f} s")


def _label(job: Job, count: int) -> str:
    return f"[{job.index + 1}/{count}] {job.source.name}" if count > 1 else job.source.name


def _listener(progress: Progress, place: int, label: str, tiles: int,
              fuses_loop: bool) -> dict[str, Any]:
    """What makes progress of what an engine tells of the image that is ``place``th to be done.

    ``fuses_loop``: an engine's loops are faster where nothing listens to their steps, which is
    done only for somebody who looks on.
    """
    progress.update(place, label)

    def on_step(done: int, total: int) -> None:
        each = max(total // tiles, 1)
        tile, step = divmod(done - 1, each)
        where = f"tile {tile + 1} of {tiles}, " if tiles > 1 else ""
        progress.update(place + done / total, f"{label}, {where}step {step + 1} of {each}")

    def on_tile(done: int, total: int) -> None:
        progress.update(place + done / total, f"{label}, tile {done} of {total}")

    if not progress.shown:
        return {}
    return {"on_tile": on_tile} if fuses_loop and not progress.on_terminal else {
        "on_step": on_step}


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


@contextmanager
def _termination() -> Iterator[None]:
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise _Terminated(number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check_options(engine: ImageEngine, options: dict[str, Any]) -> None:
    """Raise once what would otherwise fail for every image alike."""
    from ..sampling.noise import gaussian_noise

    engine.check_loop(options["steps"], options.get("start", "default"),
                      options.get("match_color", False))
    gaussian_noise((1, 1, 1, 1), options["seed"])
    engine.check_tiles(options["tile"], options["memory"], options["overlap"])
