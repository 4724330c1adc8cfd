"""``bidiff-deploy train``: recipe -> run with checkpoints."""

from __future__ import annotations

import click

from ._shared import PATH, json_option


@click.command()
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="FOLDER",
              help="Folder of the run, with checkpoint.pt and log.csv.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True,
              help="Change a value of the recipe, e.g. run.batch=4; may be repeated.")
@click.option("--pack", metavar="FILE", type=PATH,
              help="At the end, write the averaged weights as a packed checkpoint (.safetensors).")
@click.option("--overwrite", is_flag=True, help="Replace the packed checkpoint if it exists.")
@click.option("--measure", is_flag=True,
              help="Only measure the time and memory of an iteration; needs no photos.")
@json_option("what --measure finds")
def command(recipe: str, output: str | None, resume: bool, settings: tuple[str, ...],
            pack: str | None, overwrite: bool, measure: bool, as_json: bool) -> None:
    """Train a network as RECIPE, a YAML file, describes.

    Ctrl-C ends a run with a checkpoint from which --resume continues exactly. If the run is
    complete, --resume trains nothing, and --pack packs it. Progress goes to stderr. For several
    GPUs or machines: torchrun --nproc-per-node 4 -m bidiff_deploy train RECIPE -o FOLDER.
    """
    import json
    import os
    from pathlib import Path

    from ..errors import UsageError
    from ..files import check_target

    if measure and (output is not None or resume or pack is not None):
        raise UsageError("--measure trains nothing; leave out --output, --resume and --pack")
    if output is None and not measure:
        raise UsageError("name the run's folder with -o, or give --measure to measure an iteration")
    try:
        from ..training.loop import train
        from ..training.measure import measure as measured
        from ..training.measure import measured_text
        from ..training.recipe import read_recipe
        from ..training.task import pack_run
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "PIL", "yaml"):
            raise
        raise UsageError(f"training needs {error.name}; "
                         "pip install 'bidiff-deploy[train]'") from None
    if pack is not None:
        if Path(pack).suffix.lower() != ".safetensors":
            raise UsageError(f"{pack} must end in .safetensors, the form of a packed checkpoint")
        check_target(pack, overwrite)
    found = read_recipe(Path(recipe), settings)
    folder = Path(recipe).parent
    if output is None:
        figures = measured(found, folder)
        click.echo(json.dumps(figures, indent=1) if as_json else measured_text(figures))
        return
    checkpoint = train(found, folder, Path(output), resume)
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes only the first one packs and prints
    if pack is not None:
        pack_run(checkpoint, found, Path(pack), overwrite=overwrite)
    click.echo(pack or str(checkpoint))
