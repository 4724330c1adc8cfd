"""``bidiff-deploy evaluate``: model and data sets -> PSNR, SSIM and LPIPS."""

from __future__ import annotations

import click

PATH = click.Path(readable=False)


@click.command()
@click.argument("model", type=PATH)
@click.argument("datasets", type=PATH, nargs=-1, required=True, metavar="DATASET...")
@click.option("--scale", type=click.IntRange(2, 16),
              help="How many times larger the originals are; needed where MODEL does not say it.")
@click.option("--options", type=PATH, help="YAML file in the published form for a checkpoint.")
@click.option("--template", metavar="NAME",
              help="How low-resolution images are named after the originals, such as '{}x4'. "
                   "Default: the known one that fits.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N",
              help="The first N images of each data set alone.")
@click.option("--steps", type=click.IntRange(min=1),
              help="Of a bundle: visit this many of its timesteps, evenly picked; of a checkpoint: "
                   "of the schedule's.")
@click.option("--start", metavar="T0|none",
              help="Begin at the first timestep from T0 down, from the noised input; 'none' "
                   "begins from pure noise. Default: what the model was made for.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of each image's noise.")
@click.option("--match-color", is_flag=True,
              help="Take the low frequencies of the input, as upscale does.")
@click.option("--tile", metavar="auto|N|none", default="auto", show_default=True,
              help="Compute in tiles: N output pixels a side, none at all, or as large as the "
                   "memory allows.")
@click.option("--memory", metavar="SIZE",
              help="What tiles may be sized to, such as 2GB. Default: a part of what is free.")
@click.option("--lpips", is_flag=True, help="LPIPS too; needs the packages lpips and torchvision.")
@click.option("--save", type=PATH, metavar="FOLDER",
              help="Write the pictures, a folder for each data set.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that exist.")
@click.option("--backend", default="onnxruntime", show_default=True,
              help="What runs a bundle's graphs.")
@click.option("--device", default="auto", show_default=True,
              help="Where torch runs a checkpoint: auto (a GPU if there is one), cpu, cuda, "
                   "cuda:1.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON on stdout.")
def command(model: str, datasets: tuple[str, ...], scale: int | None, options: str | None,
            template: str | None, limit: int | None, steps: int | None, start: str | None,
            seed: int, match_color: bool, tile: str, memory: str | None, lpips: bool,
            save: str | None, overwrite: bool, backend: str, device: str, threads: int | None,
            quiet: bool, as_json: bool) -> None:
    """Score MODEL on each DATASET as super-resolution papers do.

    MODEL is a bundle, a checkpoint, which torch runs, or a folder of pictures made before, named as
    the originals. DATASET is a folder of originals, or one that has them in HR and low-resolution
    images in LR_bicubic/X4 (GTmod12 and LRbicx4 will do); where there are none, they are made as
    Matlab's imresize makes them.

    PSNR and SSIM are of Y (BT.601) of 8-bit pictures, a border of the scale's pixels cut off;
    beside them those of Matlab's bicubic enlargement. Means are of the images' figures.
    """
    import json
    from pathlib import Path

    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.models import open_model
    from ..evaluation.perceptual import open_lpips
    from ..evaluation.run import evaluate
    from ..progress import Progress
    from ..proof.reference import torch_threads
    from ._shared import parse_start, tile_options

    upscale = {"seed": seed, **tile_options(tile, memory)}
    if steps is not None:
        upscale["steps"] = steps
    if start is not None:
        upscale["start"] = parse_start(start)
    if match_color:
        upscale["match_color"] = True
    told = dict(upscale)
    distance = open_lpips() if lpips else None
    with torch_threads(threads), open_model(
            Path(model), options=Path(options) if options else None, scale=scale, backend=backend,
            threads=threads, device=device, upscale=upscale) as opened:
        benchmarks = [open_benchmark(Path(name), opened.scale, template, limit)
                      for name in datasets]
        with Progress("evaluate", 1, quiet=quiet) as progress:
            def report(line: str) -> None:
                if not as_json:
                    progress.clear()
                    click.echo(line)

            result = evaluate(model, opened, benchmarks, options=told, lpips=distance,
                              save=Path(save) if save else None, overwrite=overwrite,
                              on_progress=progress.update, report=report)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=1, allow_nan=False))
