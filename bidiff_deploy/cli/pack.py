"""``bidiff-deploy pack``: checkpoint -> packed checkpoint."""

from __future__ import annotations

import click


@click.command()
@click.argument("checkpoint", type=click.Path(readable=False))
@click.option("-o", "--output", required=True, type=click.Path(readable=False),
              help="The packed checkpoint, a .safetensors file.")
@click.option("--options", type=click.Path(readable=False),
              help="YAML file in the published form (network_g, beta_schedule, scale).")
@click.option("--scale", type=int, help="Upscaling factor, where nothing else states it.")
@click.option("--timesteps", metavar="T,T,...",
              help="Time steps that exports of it should use by default, descending.")
@click.option("--start", type=click.IntRange(min=0),
              help="Time step that sampling should start at by default, from the noised condition.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def command(checkpoint: str, output: str, options: str | None, scale: int | None,
            timesteps: str | None, start: int | None, overwrite: bool) -> None:
    """Shrink CHECKPOINT to sign bits, scales and the rest in float32: about a tenth of the size.

    The packed checkpoint needs no torch to be read; export and the torch network both take it.
    """
    import dataclasses
    from pathlib import Path

    from ..checkpoint.options import read_options
    from ..checkpoint.packed import write_packed
    from ..checkpoint.read import read_checkpoint
    from ..errors import UsageError
    from ..export.write import choose_timesteps
    from ._shared import parse_timesteps, print_assumptions

    if Path(output).suffix.lower() != ".safetensors":
        raise UsageError(f"{output} must end in .safetensors, the form of a packed checkpoint")
    found = read_checkpoint(checkpoint, read_options(options) if options else None, scale)
    sampling = dict(found.sampling)
    if timesteps is not None:
        listed = parse_timesteps(timesteps)
        sampling["timesteps"] = list(choose_timesteps(found, timesteps=listed))
    if start is not None:
        sampling["start"] = start
    write_packed(output, dataclasses.replace(found, sampling=sampling), overwrite=overwrite)
    before, after = Path(checkpoint).stat().st_size, Path(output).stat().st_size
    print_assumptions(found.assumptions)
    click.echo(f"{output}: {after / 1e6:.2f} MB, {before / after:.1f} times smaller than "
               f"{checkpoint}")
