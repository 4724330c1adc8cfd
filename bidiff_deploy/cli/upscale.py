"""``bidiff-deploy upscale``: images -> larger images."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from ..errors import printable
from ._shared import (
    PATH,
    backend_option,
    device_option,
    json_option,
    print_line,
    print_note,
    quiet_option,
    threads_option,
    upscale_options,
)
from ._upscale_screen import Screen, ending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..pages.compare import ComparePage
    from ..upscale.batch import Result
    from ..upscale.options import UpscaleOptions

FORMATS = ("png", "jpg", "webp", "tif", "same")


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="[MODEL] IN...")
@click.option("-o", "--output", type=PATH,
              help="A file, for one input file; otherwise a folder, which is created if missing. "
                   "Default: next to each input, with _x2 or _fitN after its name.")
@click.option("--model", type=PATH, metavar="NAME|BUNDLE|CHECKPOINT",
              help="Name of a model that `bidiff-deploy models` lists, or a path. Default: "
                   "the first word, if it is a bundle or checkpoint; else photo-x2, and "
                   "photo-jpeg-x2 for JPEG files.")
@click.option("--scale", type=click.IntRange(1, 16), metavar="N",
              help="Choose the model of this upscaling factor, or the factor of a checkpoint that "
                   "has several. Default: that of the model.")
@click.option("--fit", type=click.IntRange(16, 65535), metavar="N",
              help="Make the longest side N pixels: the upscaled image is reduced to it. An image "
                   "that is as long already is only reduced.")
@upscale_options
@backend_option
@device_option
@threads_option
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="png",
              help="Format of images that are written to a folder; same: as each input.")
@click.option("--quality", type=click.IntRange(1, 100), metavar="N",
              help="Quality of JPEG and WebP outputs, 1 to 100. Default: 95; a lossless WebP "
                   "stays lossless.")
@click.option("--max-pixels", type=click.IntRange(min=1), default=1 << 27,
              metavar="N", help="Refuse inputs of more pixels; a small file may hold a huge image.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--resume", is_flag=True,
              help="Skip outputs that exist, are whole, and were made from the same input with the "
                   "same bundle and options.")
@click.option("--shard", metavar="I/N",
              help="Upscale only the I-th of N disjoint parts of the images: for N machines or "
                   "jobs that share the output folder.")
@click.option("--compare", is_flag=True,
              help="Also write a page to look at, before and after: photo_x2_compare.html next to "
                   "one photo, compare.html in the outputs' folder for several.")
@quiet_option
@json_option("the results")
def command(inputs: tuple[str, ...], output: str | None, model: str | None, scale: int | None,
            fit: int | None, upscale: UpscaleOptions, backend: str, device: int | None,
            threads: int | None, form: str, quality: int | None, max_pixels: int, overwrite: bool,
            resume: bool, shard: str | None, compare: bool, quiet: bool, as_json: bool) -> None:
    """Upscale the images IN...: photo.png becomes photo_x2.png.

    MODEL is a bundle or a checkpoint; without one, a model that is installed with the package is
    used, for JPEG files, whatever their names, the one that was trained on them. What an earlier
    run wrote next to its input is not read again.

    IN is a PNG, JPEG, WebP, TIFF, BMP or GIF file of 8 or 16 bits; a folder, of which all images at
    any depth are read; or a quoted pattern such as 'photos/**/*.png'. Hidden files are skipped, and
    subfolders are kept in the output folder. Files of other kinds are counted; of two inputs with
    the same output name, the second gets a number.

    Depth, grey, alpha, colours, texts, EXIF, IPTC, XMP and resolution are kept as far as the
    output's format allows, and a warning names what is not. Pixels are turned upright; thumbnails,
    EXIF's positions in pixels and data about the stored file are left out. CMYK becomes sRGB, and
    of several frames the first is read. Every image gets the same noise, which --seed selects, so a
    result does not depend on the other images.

    A file that cannot be read or written is reported at the end, the others are written, and the
    exit code is 1. Ctrl-C writes what is computed and ends with exit code 130; an output folder
    contains a journal, .bidiff-upscale.jsonl, which --resume needs to continue. Several runs with
    --resume may share a folder and its images: each image is computed by one of them. With --shard
    each of N runs has its own images and its own journal, whatever the file system's locks are
    worth; a last run with --resume and without --shard does what is missing.
    """
    import json

    from .. import load
    from ..errors import UsageError
    from ..images.kinds import is_jpeg_file
    from ..models.open import is_model_file, scale_of
    from ..models.shipped import choose
    from ..progress import Progress
    from ..upscale.batch import Batch
    from ..upscale.jobs import plan, summary
    from ..upscale.journal import Journal
    from ..upscale.shard import Shard

    if model is None and is_model_file(inputs[0]):
        model, inputs = inputs[0], inputs[1:]
        if not inputs:
            raise UsageError(f"no images are given after the model {model}; name some")
    part = None if shard is None else Shard.parse(shard)
    if part is not None and compare:
        raise UsageError("--compare needs all images and --shard has a part of them; when all "
                         "shards are done, add --resume --compare and leave --shard out")
    # With --resume an existing output is examined later, when the bundle is known.
    jobs = plan(inputs, output, form, overwrite or resume,
                scale_of(model, scale) if output is None else 0, fit, part)
    # Next to single outputs a journal would be litter, unless the user asks for it.
    if not (jobs or jobs.passed_over):
        if not quiet:
            print_note(f"none of the images is in shard {part}, so there is nothing to do")
        if as_json:
            print_line("[]")
        return
    journal = Journal(jobs.folder, part) if resume or not jobs.to_file else None
    page = None
    if compare:
        from ..pages.compare import ComparePage

        page = ComparePage([job.target for job in jobs], jobs.folder,
                           jobs.to_file and len(jobs) == 1, overwrite=overwrite, resume=resume)
    screen = Screen(quiet, as_json)
    interrupted = 0
    try:
        with _termination(), ExitStack() as opened, \
                Progress("upscale", len(jobs), quiet=quiet) as progress:
            names = {job.source: model or choose(None, scale, jpeg=is_jpeg_file(job.source)).name
                     for job in jobs}
            engines = {name: opened.enter_context(load(name, scale=scale, threads=threads,
                                                       backend=backend, device=device))
                       for name in dict.fromkeys(names.values())}
            for engine in engines.values():
                upscale.check(engine)
            batch = Batch(lambda source: engines[names[source]], jobs, upscale, backend=backend,
                          journal=journal, overwrite=overwrite, quality=quality,
                          max_pixels=max_pixels, fit=fit)
            if resume:
                batch.find_finished()
            screen.follow(progress, batch.waiting, len(jobs),
                          any(engine.fuses_loop for engine in engines.values()))
            batch.run(screen)
    except KeyboardInterrupt as error:
        interrupted = error.args[0] if isinstance(error, _Terminated) else 2
    passed_over = [{"input": str(other.path), "passed_over": other.reason}
                   for other in jobs.passed_over]
    looks = [] if page is None or interrupted else _compared(page, screen, quiet)
    if as_json:
        print_line(json.dumps([*screen.results, *passed_over, *looks], indent=1))
    failed = [result["error"] for result in (*screen.results, *looks) if "error" in result]
    for message in failed:
        print_note(f"error: {message}")
    if passed_over:
        print_note(f"warning: {summary(jobs.passed_over)}")
    if interrupted:
        written = len(screen.results) - len(failed)
        hint = "; --resume continues with the others" if journal is not None else ""
        click.echo(f"interrupted: {written} of {len(jobs)} images are written{hint}", err=True)
        raise SystemExit(128 + interrupted)
    if not (jobs.to_file or quiet or as_json):
        print_line(printable(ending(screen.results, len(passed_over),
                                    output or str(jobs.folder), part)))
    if failed:
        raise SystemExit(1)


def _compared(page: ComparePage, screen: Screen, quiet: bool) -> list[Result]:
    """Writes the page of what was upscaled, if anything was; returns its entry for --json."""
    from ..errors import BidiffError
    from ..progress import Progress

    pairs = [(result["input"], result["output"]) for result in screen.results
             if "error" not in result]
    if not pairs:
        return []
    with Progress("compare", len(pairs), quiet=quiet) as progress:
        try:
            written = page.write(pairs, [result["error"] for result in screen.results
                                         if "error" in result],
                                 lambda done, name: progress.update(done, f"compare, {name}"))
        except BidiffError as error:
            return [{"compare": str(page.path), "error": str(error)}]
    for reason in written.get("missing", ()):
        print_note(f"warning: not on {page.path}: {reason}")
    if screen.shows_results:
        print_line(f"{page.path}: before and after, {written['bytes'] / 1e6:.1f} MB")
    return [written]


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


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
