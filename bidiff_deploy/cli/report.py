"""``bidiff-deploy report``: one HTML page of evidence about a bundle."""

from __future__ import annotations

from typing import Any

import click

PATH = click.Path(readable=False)


class _Optional(click.Argument):
    """An argument that may be absent, in brackets as the reference shows it."""

    def make_metavar(self, *_: Any) -> str:
        return f"[{self.name.upper()}{'...' if self.nargs != 1 else ''}]"


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("checkpoint", type=PATH, required=False, cls=_Optional)
@click.argument("images", type=PATH, nargs=-1, cls=_Optional)
@click.option("-o", "--output", required=True, type=PATH, help="The page, such as report.html.")
@click.option("--truth", type=PATH, multiple=True, metavar="FOLDER|FILE",
              help="Originals of the images; without images they are made small first. May be "
                   "repeated.")
@click.option("--options", type=PATH, help="YAML file in the published form for CHECKPOINT; "
                                           "without it, what no tensor shows is taken from the "
                                           "bundle.")
@click.option("--backend", default="onnxruntime", show_default=True,
              help="What runs the graphs: onnxruntime, onnxruntime-stock, onnxruntime-cuda, "
                   "tensorrt, tensorrt-dense or tensorrt-dense-int8.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
@click.option("--size", default="256x256", show_default=True, metavar="HxW",
              help="Of the network's input for latency, counts and parity; images are taken "
                   "whole.")
@click.option("--steps", type=click.IntRange(min=1),
              help="Visit this many of the bundle's timesteps, evenly picked.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the images' noise.")
@click.option("--against", metavar="NAME,...",
              default="torch,onnxruntime,onnxruntime-minus-sign,openvino", show_default=True,
              help="Baselines of latency, as bench has them; those that are not installed are "
                   "left out.")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True,
              help="Rounds of one step of each candidate of latency.")
@click.option("--no-bench", is_flag=True, help="Leave latency out.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@click.option("--quiet", is_flag=True, help="No progress on stderr, no line on stdout.")
@click.option("--json", "as_json", is_flag=True,
              help="Also print the data behind the page as JSON on stdout.")
def command(bundle: str, checkpoint: str | None, images: tuple[str, ...], output: str,
            truth: tuple[str, ...], options: str | None, backend: str, threads: int | None,
            size: str, steps: int | None, seed: int, against: str, rounds: int, no_bench: bool,
            overwrite: bool, quiet: bool, as_json: bool) -> None:
    """Write one HTML page about BUNDLE that opens anywhere and loads nothing.

    It has the IMAGES before and after with a slider, scores where originals are given, the loop
    step by step, latency beside the baselines that are installed, memory and bytes, what is packed
    and why, and hardware and versions. With CHECKPOINT, which needs torch and Polygraphy, also how
    equal the two are, layer by layer. What can not be measured is left out, and the page says why.

    IMAGES are files or folders; CHECKPOINT is known by not being one. At most 12 are shown,
    scaled down beyond 1600 pixels; the page stays below 15 MB. Exit code 1 if the checkpoint's
    checks fail or the bundle contradicts its manifest: the page is written all the same. Jinja2
    must be installed (the extra proof).
    """
    import json

    from ..bundle.manifest import open_noise_predictor
    from ..errors import BundleError, UsageError
    from ..files import atomic_file, check_target
    from ..progress import Progress
    from ..report.collect import collect
    from ..report.page import render
    from ..report.pictures import find_inputs, is_image
    from ..report.request import Request
    from .check import parse_size

    if checkpoint is not None and is_image(checkpoint):
        images, checkpoint = (checkpoint, *images), None
    if wrong := [name for name in images if not is_image(name)]:
        raise UsageError(f"{wrong[0]} is no image (none of .png, .jpg, .jpeg, .webp, .tif, .tiff) "
                         "and no folder; a checkpoint comes right after the bundle")
    if options and checkpoint is None:
        raise UsageError("--options describes a checkpoint; name one after the bundle")
    check_target(output, overwrite)
    shape = parse_size(size)
    assert shape is not None
    opened = open_noise_predictor(bundle)
    names = [name.strip() for name in against.split(",") if name.strip()]
    request = Request(opened, find_inputs(images, truth), checkpoint, options, backend, threads,
                      shape, steps, seed, None if no_bench else names, rounds)
    with Progress("report", 1, quiet=quiet) as progress:
        report = collect(request, progress.update)
    text = render(report)
    with atomic_file(output, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    elif not quiet:
        click.echo(f"{output}: {len(text.encode()) / 1e6:.1f} MB")
        for name, reason in report.missing.items():
            click.echo(f"  without {_PARTS[name]}: {reason}")
        if report.left_out:
            click.echo(f"  without {len(report.left_out)} more images: a page holds "
                       f"{len(report.pictures)}")
    if report.failures:
        raise BundleError(f"{bundle}: {'; '.join(report.failures)}; {output} has the details")


_PARTS = {"images": "pictures", "strip": "the loop", "parity": "parity", "bench": "latency"}
