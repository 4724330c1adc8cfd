"""``bidiff-deploy report``: one HTML page of evidence about a bundle."""

from __future__ import annotations

from typing import Any

import click

from ._shared import (
    PATH,
    backend_option,
    json_option,
    parse_names,
    parse_size,
    print_note,
    quiet_option,
    threads_option,
)


class _Optional(click.Argument):
    """An optional argument, shown in brackets."""

    def make_metavar(self, *_: Any) -> str:
        return f"[{self.name.upper()}{'...' if self.nargs != 1 else ''}]"


_AGAINST = "torch,onnxruntime,onnxruntime-minus-sign,openvino"


@click.command()
@click.argument("model", type=PATH)
@click.argument("checkpoint", type=PATH, required=False, cls=_Optional)
@click.argument("images", type=PATH, nargs=-1, cls=_Optional)
@click.option("-o", "--output", required=True, type=PATH, metavar="FILE",
              help="The page, e.g. report.html.")
@click.option("--truth", type=PATH, multiple=True, metavar="FOLDER|FILE",
              help="Originals of the images, which are reduced first if IMAGES is missing; may be "
                   "repeated.")
@click.option("--options", type=PATH, metavar="FILE",
              help="YAML options of CHECKPOINT, in the published form. Default: the bundle's, "
                   "where the tensors do not show them.")
@click.option("--scale", type=click.IntRange(1, 16), metavar="N",
              help="Choose the upscaling factor of a checkpoint that has several.")
@click.option("--bench", is_flag=True,
              help="Also measure latency, compared with baselines, which takes minutes.")
@backend_option
@threads_option
@click.option("--size", default="256x256", metavar="HxW",
              help="Size of the network's input for latency, counts and parity; images are "
                   "upscaled whole.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N",
              help="Visit only this many of the bundle's timesteps, evenly spaced. Default: all.")
@click.option("--seed", type=int, default=0, metavar="N",
              help="Seed of the images' noise.")
@click.option("--against", metavar="NAME,...",
              help="Baselines of --bench; those that are not installed are left out. Default: "
                   f"{_AGAINST}.")
@click.option("--rounds", type=click.IntRange(min=1), default=10, metavar="N",
              help="Rounds of one step of each candidate of --bench.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@quiet_option
@json_option("the page's data as well,")
def command(model: str, checkpoint: str | None, images: tuple[str, ...], output: str,
            truth: tuple[str, ...], options: str | None, scale: int | None, bench: bool,
            backend: str, threads: int | None, size: str, steps: int | None, seed: int,
            against: str | None, rounds: int, overwrite: bool, quiet: bool,
            as_json: bool) -> None:
    """Write one HTML page about MODEL that opens in any browser and loads nothing.

    MODEL is a bundle, or a checkpoint or a model that `bidiff-deploy models` lists, which is
    exported for the page and compared with itself.

    The page shows the IMAGES before and after with a slider, scores if originals are given, and the
    loop step by step; folded, memory and bytes, which layers are packed and why, hardware and
    versions. With CHECKPOINT, which needs torch and Polygraphy, it also compares the two layer by
    layer, and with --bench the latency with the installed baselines. What cannot be measured is
    left out with the reason.

    IMAGES are files or folders; an argument that is neither an image nor a folder is CHECKPOINT. At
    most 12 images are shown, of large ones a part; the page stays below 15 MB. Exit code 1 if an
    image cannot be read, the checkpoint's checks fail or the bundle contradicts its manifest; the
    page is written anyway.
    """
    import json
    from pathlib import Path

    from ..bundle.manifest import open_bundle, open_noise_predictor
    from ..bundle.record import LatentBundle
    from ..errors import BundleError, UsageError
    from ..files import atomic_file, check_target
    from ..models.open import bundle_folder, checkpoint_file
    from ..progress import Progress
    from ..report.collect import collect
    from ..report.page import render
    from ..report.pictures import find_inputs, is_image
    from ..report.request import Request

    if checkpoint is not None and is_image(checkpoint):
        images, checkpoint = (checkpoint, *images), None
    if wrong := [name for name in images if not is_image(name)]:
        raise UsageError(f"{wrong[0]} is neither an image (.png, .jpg, .jpeg, .webp, .tif, .tiff) "
                         "nor a folder; a checkpoint comes right after the bundle")
    if options and checkpoint is None:
        raise UsageError("--options describes a checkpoint; name one after the bundle")
    if against is not None and not bench:
        raise UsageError("--against requires --bench")
    check_target(output, overwrite)
    shape, names = parse_size(size), parse_names(against or _AGAINST)
    path = checkpoint_file(checkpoint or model)
    with bundle_folder(model, scale) as folder, Progress("report", 1, quiet=quiet) as progress:
        compared = checkpoint is not None or folder != Path(model)
        opened = open_bundle(folder)
        request = Request(opened if isinstance(opened, LatentBundle)
                          else open_noise_predictor(folder), model, find_inputs(images, truth),
                          str(path) if compared else None, options, backend, threads, shape, steps,
                          seed, names if bench else None, rounds)
        report = collect(request, progress.update)
    text = render(report)
    with atomic_file(output, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    elif not quiet:
        click.echo(f"{output}: {len(text.encode()) / 1e6:.1f} MB")
        for name, reason in report.missing.items():
            click.echo(f"  without {_PARTS[name]}: {reason}")
        if report.left_out:
            click.echo(f"  without {len(report.left_out)} more images: a page shows at most "
                       f"{len(report.pictures)}")
    for reason in report.failed:
        print_note(f"error: {reason}")
    if report.failures:
        raise BundleError(f"{model}: {'; '.join(report.failures)}; {output} has the details")
    if report.failed:
        raise SystemExit(1)


_PARTS = {"images": "images", "strip": "the loop", "parity": "parity", "bench": "latency"}
