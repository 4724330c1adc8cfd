"""``bidiff-deploy export``: checkpoint -> bundle."""

from __future__ import annotations

import click


@click.command()
@click.argument("checkpoint", type=click.Path(readable=False))
@click.option("-o", "--output", required=True, type=click.Path(readable=False),
              help="Folder of the bundle.")
@click.option("--options", type=click.Path(readable=False),
              help="YAML file in the published form (network_g, beta_schedule, scale).")
@click.option("--scale", type=int, help="Upscaling factor, where nothing else states it.")
@click.option("--steps", type=click.IntRange(min=1),
              help="How many DDIM steps, evenly spaced (default: what the checkpoint or options "
                   "advise, else 50).")
@click.option("--timesteps", metavar="T,T,...", help="The time steps themselves, descending.")
@click.option("--precision", type=click.Choice(["exact", "fast", "half"]), default="exact",
              show_default=True,
              help="exact: float32 wherever the model is float. fast: factors of full-precision "
                   "products may be rounded to bfloat16, on CPUs that multiply it. half: they and "
                   "the maps between layers may be float16, on GPUs; on CPUs it runs as exact.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on stdout.")
def command(checkpoint: str, output: str, options: str | None, scale: int | None,
            steps: int | None, timesteps: str | None, precision: str, overwrite: bool, quiet: bool,
            as_json: bool) -> None:
    """Turn CHECKPOINT into a bundle: one graph a time step, weights packed to bits.

    CHECKPOINT is a .pth, .pt or .safetensors file, published, trained here, or packed. Only .pth
    and .pt need torch. That of a feed-forward network (BBCU-M) becomes one graph without steps.
    """
    import json

    from ..bundle.manifest import MANIFEST
    from ..checkpoint.options import read_options
    from ..checkpoint.read import read_checkpoint
    from ..errors import UsageError
    from ..export.write import choose_timesteps, export_bundle
    from ..files import check_target
    from ..progress import Progress
    from ._shared import parse_timesteps, print_assumptions

    if steps is not None and timesteps is not None:
        raise UsageError("--steps and --timesteps contradict each other; give one of them")
    listed = parse_timesteps(timesteps)
    # Before the long work, so that it is not done in vain.
    check_target(output, overwrite, directory=True, marker=MANIFEST)
    found = read_checkpoint(checkpoint, read_options(options) if options else None, scale)
    chosen = choose_timesteps(found, steps=steps, timesteps=listed)
    with Progress("export", len(chosen) or 1, quiet=quiet) as progress:
        manifest = export_bundle(found, output, timesteps=chosen, overwrite=overwrite,
                                 precision=precision,
                                 on_step=lambda done, total: progress.update(done))
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    if as_json:
        click.echo(json.dumps({
            "bundle": output, "bytes": size, "steps": list(chosen), "scale": manifest["scale"],
            "precision": manifest["precision"],
            "network": manifest["network"], "zero_weights": manifest["zero_weights"],
            "assumptions": manifest["assumptions"]}))
        return
    print_assumptions(manifest["assumptions"])
    if manifest["zero_weights"]:
        click.echo(f"note: {manifest['zero_weights']} binary weights are exactly zero and were "
                   "taken as +1", err=True)
    click.echo(f"{output}: x{manifest['scale']}, "
               + (f"{len(chosen)} steps, {size / 1e6:.1f} MB" if chosen
                  else f"feed-forward, {size / 1e6:.2f} MB"))
