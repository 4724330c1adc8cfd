"""``bidiff-deploy upscale``: bundle and images -> larger images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..engines.base import Engine
    from ..progress import Progress

# What can not be read is told by ourselves, in a sentence and with exit code 1.
PATH = click.Path(readable=False)
FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tif": ".tif", "same": None}


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
@click.option("--threads", type=int, help="Threads an operator may use. Default: all cores.")
@click.option("--backend", default="onnxruntime", show_default=True, help="What runs the graphs.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="png",
              show_default=True, help="Of images that go to a folder; 'same' as each input.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
def command(bundle: str, inputs: tuple[str, ...], output: str, seed: int, steps: int | None,
            start: str | None, threads: int | None, backend: str, form: str, overwrite: bool,
            quiet: bool, as_json: bool) -> None:
    """Upscale the images IN... with BUNDLE.

    IN is a PNG, JPEG, WebP or TIFF file of 8 or 16 bits, or a folder, of which all images at any
    depth are taken; hidden ones are not, and OUT keeps its subfolders. Depth, grey, alpha and
    colour profile are kept as far as the output's format can. Every image gets the same noise of
    --seed, so a result does not depend on what else is upscaled.

    A file that can not be read or written is reported at the end, the others are written, and the
    exit code is 1.
    """
    import json

    from .. import load_bundle
    from ..progress import Progress

    jobs = plan(inputs, output, form, overwrite)
    options: dict[str, Any] = {"seed": seed, "steps": steps}
    if start is not None:
        options["start"] = _start(start)
    results: list[dict[str, Any]] = []
    with load_bundle(bundle, threads=threads, backend=backend) as engine, \
            Progress("upscale", len(jobs), quiet=quiet) as progress:
        _check_options(engine, options)
        for index, (source, target) in enumerate(jobs):
            result = _upscale_one(engine, source, target, overwrite, options, progress, index,
                                  len(jobs))
            results.append(result)
            if not (quiet or as_json) and "error" not in result:
                progress.clear()
                click.echo(f"{result['output']}: {result['width']}x{result['height']}, "
                           f"{result['seconds']:.1f} s")
    if as_json:
        click.echo(json.dumps(results, indent=1))
    failed = [result["error"] for result in results if "error" in result]
    for message in failed:
        click.echo(f"error: {message}", err=True)
    if failed:
        raise SystemExit(1)


def _upscale_one(engine: Engine, source: Path, target: Path, overwrite: bool,
                 options: dict[str, Any], progress: Progress, index: int,
                 count: int) -> dict[str, Any]:
    """Upscale a file; returns what --json prints of it, with ``error`` if it failed."""
    import time

    from ..errors import BidiffError
    from ..files import make_directory
    from ..images import check_output, read_image, write_image

    started = time.monotonic()
    label = f"[{index + 1}/{count}] {source.name}" if count > 1 else source.name

    def on_step(done: int, total: int) -> None:
        progress.update(index + done / total, label)

    try:
        progress.update(index, label)
        image = read_image(source)
        # Now, and not when the work is done: the format may not hold the image.
        make_directory(target.parent)
        check_output(target, overwrite, image, engine.scale)
        larger = engine.upscale_image(image, on_step=on_step, **options)
        write_image(target, larger, overwrite=overwrite)
    except BidiffError as error:
        return {"input": str(source), "error": str(error)}
    except MemoryError:
        return {"input": str(source), "error": f"there is not enough memory to upscale {source}; "
                                               "cut it into smaller images"}
    return {"input": str(source), "output": str(target), "width": larger.width,
            "height": larger.height, "seconds": round(time.monotonic() - started, 3),
            "seed": options["seed"]}


def plan(inputs: Sequence[str], output: str, form: str = "png",
         overwrite: bool = False) -> list[tuple[Path, Path]]:
    """(input, output) of every image, or an error before any work is done.

    Raises ImageError for an input that is missing, UsageError for a folder without images or two
    inputs of one output, OutputError for outputs that exist, can not be written, or are inputs.
    """
    import os
    from pathlib import Path

    from ..errors import ImageError, OutputError, UsageError
    from ..images import EXTENSIONS, check_output

    out = Path(output)
    for name in inputs:
        if not os.path.exists(name):
            raise ImageError(f"{name} does not exist")
    folders = [name for name in inputs if os.path.isdir(name)]
    to_file = (len(inputs) == 1 and not folders and not out.is_dir()
               and not output.endswith(("/", os.sep)) and out.suffix != "")
    if not to_file and out.exists() and not out.is_dir():
        raise OutputError(f"{output} is a file; for folders or several images give a folder")
    jobs: list[tuple[Path, Path]] = []
    for name in inputs:
        if to_file:
            jobs.append((Path(name), out))
            continue
        found = _images_below(Path(name), out) if name in folders else [Path(name)]
        if not found:
            raise UsageError(f"folder {name} has no images (none of {', '.join(EXTENSIONS)})")
        root = Path(name) if name in folders else Path(name).parent
        for source in found:
            suffix = FORMATS[form] or source.suffix.lower()
            jobs.append((source, out / source.relative_to(root).with_suffix(suffix)))
    sources = {os.path.realpath(source) for source, _ in jobs}
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        other = taken.setdefault(target, source)
        if os.path.realpath(other) != os.path.realpath(source):
            raise UsageError(f"{other} and {source} would both become {target}; give them "
                             "different folders, or --format same")
        if os.path.realpath(target) in sources:
            raise OutputError(f"{target} is one of the inputs and would be lost; choose another "
                              "output")
        if to_file or target.parent.exists():
            check_output(target, overwrite)
        elif target.suffix.lower() not in EXTENSIONS:
            raise OutputError(f"{source} has no known extension to keep; choose another --format")
    if not to_file:
        _check_folder(out)
    return [(source, target) for target, source in taken.items()]


def _check_folder(folder: Path) -> None:
    """OutputError unless the folder exists or can be created; nothing is created yet."""
    from ..files import check_target

    missing = None
    while not folder.exists():
        missing, folder = folder, folder.parent
    if missing is not None:
        check_target(missing, directory=True)


def _images_below(folder: Path, out: Path) -> list[Path]:
    """Images in a folder at any depth, sorted, without hidden ones and those below ``out``."""
    import os
    from pathlib import Path

    from ..images import EXTENSIONS

    avoid = os.path.realpath(out) if os.path.realpath(out) != os.path.realpath(folder) else None
    found = []
    for here, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")
                               and os.path.realpath(os.path.join(here, name)) != avoid)
        found += [Path(here, name) for name in sorted(names) if not name.startswith(".")
                  and os.path.splitext(name)[1].lower() in EXTENSIONS]
    return found


def _start(text: str) -> int | None:
    from ..errors import UsageError

    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--start {text!r} must be a timestep or none") from None


def _check_options(engine: Engine, options: dict[str, Any]) -> None:
    """Raise once what would otherwise fail for every image alike."""
    from ..noise import gaussian_noise
    from ..sampler import pick_timesteps

    pick_timesteps(engine.timesteps, options["steps"],
                   options.get("start", engine.default_start))
    gaussian_noise((1, 1, 1, 1), options["seed"])
