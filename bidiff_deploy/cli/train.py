"""``bidiff-deploy train``: recipe -> run with checkpoints."""

from __future__ import annotations

import click


@click.command()
@click.argument("recipe", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(),
              help="Folder of the run: checkpoint.pt and log.csv.")
@click.option("--resume", is_flag=True, help="Continue the run that the folder holds.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True,
              help="Change a value of the recipe, such as run.batch=4; may be repeated.")
@click.option("--pack", metavar="FILE", type=click.Path(),
              help="At the end, write the averaged weights as a packed checkpoint (.safetensors).")
@click.option("--overwrite", is_flag=True, help="Replace the packed checkpoint if it exists.")
def command(recipe: str, output: str, resume: bool, settings: tuple[str, ...], pack: str | None,
            overwrite: bool) -> None:
    """Train a network as RECIPE, a YAML file, says.

    Ctrl-C ends a run with a checkpoint that --resume continues exactly; on a run that is complete
    --resume trains no more, and --pack packs it. Progress goes to stderr.
    """
    from pathlib import Path

    from ..errors import UsageError
    from ..files import check_target

    try:
        from ..training.loop import train
        from ..training.recipe import read_recipe
        from ..training.state import write_packed
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
    checkpoint = train(found, Path(recipe).parent, Path(output), resume)
    if pack is not None:
        write_packed(checkpoint, found, Path(pack), overwrite=overwrite)
    click.echo(pack or str(checkpoint))
